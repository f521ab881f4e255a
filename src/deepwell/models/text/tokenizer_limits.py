"""Checks of a tokenizer's parts: what could take unbounded memory, or would not be repeatable, is refused with its reason.

A tokenizer file is a small program: it rewrites text, cuts it, and puts tokens around it. The library runs whatever it
says. The limits here leave room for every released tokenizer that Deepwell supports.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from tokenizers import Tokenizer as Backend
from tokenizers import models

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.text.unigram import charsmap_growth

__all__ = ["check_added", "check_backend", "check_control", "fewest_tokens_rate", "part"]

MAX_ADDED: Final = 1 << 16  # added tokens; the largest set in use has 6 thousand
MAX_ADDED_CHARS: Final = 1024  # of one
MAX_CONTROL_CHARS: Final = 128  # of one control token; the longest in use has 31
MAX_CONTROL_TOTAL: Final = 1 << 17  # of all; DeepSeek's have 29 thousand
MAX_GROWTH: Final = 256.0  # most bytes that normalisers may make of one
MAX_FRAME_TOKENS: Final = 64  # that the post-processor puts around a text
MAX_INSERTED_CHARS: Final = 256  # that one normaliser inserts at once
MAX_PARTS: Final = 64  # parts of a normaliser or a pre-tokenizer, each of which passes over the whole text

# Most bytes that a normaliser makes of a byte. NFKD makes 33 of U+FDFA's 3; case mappings at most triple.
_GROWTH: Final[Mapping[str, float]] = {
    "BertNormalizer": 6.0,
    "ByteLevel": 2.0,
    "Lowercase": 3.0,
    "NFC": 3.0,
    "NFD": 4.0,
    "NFKC": 11.0,
    "NFKD": 11.0,
    "Nmt": 1.0,
    "Strip": 1.0,
    "StripAccents": 1.0,
}
# Pre-tokenizers that keep every character, unless their behaviour is "Removed".
_KEEPING: Final = frozenset({"ByteLevel", "Digits", "Punctuation", "Split", "UnicodeScripts"})
# A character that NFC composes stands for at most four.
_NFC_COMPOSES: Final = 4


def part(component: object) -> dict[str, Any]:
    """Returns a component of a tokenizer as `tokenizer.json` has it; empty for None."""
    if component is None:
        return {}
    state = cast("Any", component).__getstate__()
    found = cast("object", json.loads(state))
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {"type": found}


def check_backend(backend: Backend, where: str) -> None:
    """Checks normalisers, post-processor and model of a tokenizer that has been read.

    Raises:
        InvalidModelFile: a part exceeds its limit.
        UnsupportedModel: a part is of a kind that Deepwell does not run, or draws lots.
    """
    if getattr(backend.model, "dropout", None):
        raise UnsupportedModel(
            f"{where}: the tokenizer drops merges at random (dropout), so that no text has one tokenisation",
            fix="set dropout to null in tokenizer.json",
        )
    for name, component in (("normaliser", backend.normalizer), ("pre-tokenizer", backend.pre_tokenizer)):
        if (count := _count(part(component))) > MAX_PARTS:
            raise InvalidModelFile(f"{where}: the {name} has {count} parts, more than {MAX_PARTS}")
    growth = _growth(part(backend.normalizer), where)
    if growth > MAX_GROWTH:
        raise InvalidModelFile(
            f"{where}: the normalisers may make {growth:.3g} bytes of one, more than {MAX_GROWTH:g}"
        )
    around = _frame_tokens(part(backend.post_processor))
    if around > MAX_FRAME_TOKENS:
        raise InvalidModelFile(
            f"{where}: the post-processor puts {around} tokens around a text, more than {MAX_FRAME_TOKENS}"
        )
    check_added((token.content for token in backend.get_added_tokens_decoder().values()), where)


def check_added(tokens: Iterable[str], where: str) -> None:
    """Checks the number and the length of added tokens.

    Raises:
        InvalidModelFile: there are too many, or one is too long.
    """
    count = 0
    for token in tokens:
        count += 1
        if len(token) > MAX_ADDED_CHARS:
            raise InvalidModelFile(
                f"{where}: an added token has {len(token)} characters, more than {MAX_ADDED_CHARS}"
            )
    if count > MAX_ADDED:
        raise InvalidModelFile(f"{where}: there are {count} added tokens, more than {MAX_ADDED}")


def check_control(tokens: Iterable[str], where: str) -> None:
    """Checks the lengths of control tokens. Every beginning and end of each is kept, so their memory is quadratic.

    Raises:
        InvalidModelFile: one is too long, or all together are.
    """
    total = 0
    for token in tokens:
        total += len(token)
        if len(token) > MAX_CONTROL_CHARS:
            raise InvalidModelFile(
                f"{where}: a control token has {len(token)} characters, more than {MAX_CONTROL_CHARS}"
            )
    if total > MAX_CONTROL_TOTAL:
        raise InvalidModelFile(
            f"{where}: the control tokens have {total} characters in all, more than {MAX_CONTROL_TOTAL}"
        )


def _count(node: Mapping[str, Any]) -> int:
    """Returns the number of parts of a normaliser or a pre-tokenizer."""
    parts = [*node.get("normalizers", ()), *node.get("pretokenizers", ())]
    return 1 + sum(map(_count, parts))


def _growth(node: Mapping[str, Any], where: str) -> float:
    """Returns the most bytes that a normaliser makes of one."""
    if not node:
        return 1.0
    kind = node.get("type")
    if kind == "Sequence":
        growth = 1.0
        for one in node.get("normalizers", ()):
            growth *= _growth(one, where)
        return growth
    if kind == "Prepend":
        _check_inserted(str(node.get("prepend", "")), where)
        return 1.0
    if kind == "Replace":
        content = str(node.get("content", ""))
        _check_inserted(content, where)
        pattern = cast("Mapping[str, str]", node.get("pattern", {}))
        text = pattern.get("String", "")
        inserted = len(content.encode("utf-8", "surrogatepass"))
        # A regular expression may match the empty string, before every character.
        return max(1.0, inserted / len(text.encode())) if text else 1.0 + inserted
    if kind == "Precompiled":
        return charsmap_growth(node)
    if kind in _GROWTH:
        return _GROWTH[kind]
    raise UnsupportedModel(f"{where}: normalisers of the kind {kind!r} are not supported")


def _check_inserted(text: str, where: str) -> None:
    if len(text) > MAX_INSERTED_CHARS:
        raise InvalidModelFile(
            f"{where}: a normaliser inserts {len(text)} characters, more than {MAX_INSERTED_CHARS}"
        )


def _frame_tokens(node: Mapping[str, Any]) -> int:
    """Returns the number of tokens that a post-processor puts around a text."""
    kind = node.get("type")
    if kind == "Sequence":
        return sum(map(_frame_tokens, node.get("processors", ())))
    if kind in ("BertProcessing", "RobertaProcessing"):
        return 3
    if kind != "TemplateProcessing":
        return 0
    special = node.get("special_tokens", {})
    sizes = {name: max(1, len(one.get("ids", ()))) for name, one in special.items()}

    def length(template: Iterable[Any]) -> int:
        return sum(
            sizes.get(piece["SpecialToken"].get("id"), 1) if "SpecialToken" in piece else 1
            for piece in template
        )

    return max(length(node.get("single", ())), length(node.get("pair", ())))


def fewest_tokens_rate(backend: Backend, token_bytes: Iterable[bytes]) -> tuple[float, bytes]:
    """Returns a lower bound of the tokens that a text has: tokens for each byte, and bytes that may have none.

    The rate is 0 where a part of the tokenizer may delete text, so that there is no bound.
    """
    composes = _composes(part(backend.normalizer))
    kinds = _kinds(part(backend.pre_tokenizer))
    keeps = composes and "ByteLevel" in kinds and "" not in kinds
    strips = any(token.lstrip or token.rstrip for token in backend.get_added_tokens_decoder().values())
    model = backend.model
    if not keeps or strips or not isinstance(model, models.BPE) or (model.fuse_unk and model.unk_token):
        return 0.0, b""
    longest, single = 1, set[int]()
    for token in token_bytes:
        longest = max(longest, len(token))
        if len(token) == 1:
            single.add(token[0])
    silent = bytes(byte for byte in range(256) if byte not in single)
    if composes == 1:
        return 1.0 / longest, silent
    # Composition changes bytes. Characters count instead, of four bytes at most.
    return (0.0, b"") if silent else (1.0 / (4 * composes * longest), b"")


def _composes(node: Mapping[str, Any]) -> int:
    """Returns the most characters that a normaliser makes one of; 0 if it may delete some."""
    if not node:
        return 1
    if node.get("type") == "NFC":
        return _NFC_COMPOSES
    parts = node.get("normalizers", ()) if node.get("type") == "Sequence" else ()
    return _composes(parts[0]) if len(parts) == 1 else 0


def _kinds(node: Mapping[str, Any]) -> list[str]:
    """Returns the kinds of a pre-tokenizer's parts; "" for one that may remove characters."""
    kind = node.get("type")
    if kind == "Sequence":
        return [name for one in node.get("pretokenizers", ()) for name in _kinds(one)]
    removes = kind not in _KEEPING or node.get("behavior") == "Removed"
    return ["" if removes else str(kind)]

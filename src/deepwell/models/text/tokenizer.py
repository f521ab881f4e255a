"""Converts text to token ids and back.

Byte-level BPE comes from `tokenizer.json` or is rebuilt from GGUF metadata. Encoders use WordPiece or unigram pieces.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from deepwell.errors import DeepwellError, InvalidModelFile, InvalidRequest, UnsupportedModel
from deepwell.models.formats.config_reader import END_TOKENS
from deepwell.models.formats.e5 import e5_file_in, is_e5_file, read_e5_vocabulary
from deepwell.models.formats.gguf import read_gguf_header
from deepwell.models.text.pretokenizers import IGNORES_MERGES, NFC_NORMALIZED, PRE_TOKENIZERS
from deepwell.models.text.tokenizer_limits import (
    check_added,
    check_backend,
    check_control,
    fewest_tokens_rate,
)
from deepwell.models.text.unigram import WORD_START, unigram_backend

__all__ = ["Tokenizer", "TokenizerKind", "TooManyTokens", "read_chat_template"]

TokenizerKind = Literal["bpe", "wordpiece", "unigram"]

MAX_JSON_BYTES: Final = 64 << 20  # the largest tokenizer.json in use (262k tokens) has 33 MB
MAX_CONFIG_BYTES: Final = 8 << 20  # of the other JSON files; Python takes up to 24 bytes of memory for one
MAX_TEMPLATE_BYTES: Final = 1 << 20  # of chat_template.jinja
_TEMPLATES: Final = {"deepseek_v4": "deepseek_v4.jinja"}  # by model_type, where a model brings none

CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


def _byte_alphabet() -> dict[str, int]:
    """Maps the characters of a byte-level vocabulary to the bytes they stand for (inverse of GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES: Final = _byte_alphabet()
_CHARACTERS: Final = {byte: character for character, byte in _BYTES.items()}


def _looks_like_control(text: str) -> bool:
    # R1's distillations declare <｜User｜> and similar tokens as plain added tokens in tokenizer.json.
    return (text.startswith("<|") and text.endswith("|>")) or (
        text.startswith("<｜") and text.endswith("｜>")
    )


class TooManyTokens(Exception):
    """Raised in place of tokens when there are more than the caller can use. `exact`: there are `count`, else at least that."""

    def __init__(self, count: int, *, exact: bool) -> None:
        super().__init__(f"{count} tokens")
        self.count = count
        self.exact = exact


@dataclass(frozen=True, slots=True)
class _Extras:
    """Properties from a tokenizer's files besides its vocabulary."""

    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    add_bos: bool = False
    chat_template: str | None = None


class Tokenizer:
    """Tokenizer of one model, byte-level BPE, WordPiece or unigram, with its special tokens and chat template.

    Control tokens (`special_ids`) steer the model, such as turn markers and the end of text. They are the tokens declared
    special and those written `<|...|>` or `<｜...｜>`. Other added tokens, such as `<think>`, are ordinary text.

    Attributes:
        backend: the underlying `tokenizers.Tokenizer`.
        bos_token_id, eos_token_ids: first token of a sequence; all tokens that end one.
        add_bos: whether a prompt that was not rendered by a chat template starts with `bos_token_id`.
        chat_template: jinja source, None for base models.
        special_ids: ids of the control tokens.
        added: tokens added to the model's own vocabulary, by id.
        kind: how text is cut into tokens; "wordpiece" and "unigram" are those of encoders.
        prefix_ids, suffix_ids: tokens that an encoder needs around every text: [CLS] and [SEP], or <s> and </s>.
    """

    def __init__(self, backend: Backend, extras: _Extras) -> None:
        self.backend = backend
        self.bos_token_id = extras.bos_token_id
        self.pad_token_id = extras.pad_token_id
        self.add_bos = extras.add_bos
        self.chat_template = extras.chat_template
        self.added = {i: t.content for i, t in backend.get_added_tokens_decoder().items()}
        self.special_ids: frozenset[int] = frozenset(
            i
            for i, token in backend.get_added_tokens_decoder().items()
            if token.special or _looks_like_control(token.content)
        )
        ends = (i for i in self.special_ids if self.added[i] in END_TOKENS)
        self.eos_token_ids: tuple[int, ...] = tuple(dict.fromkeys([*extras.eos_token_ids, *sorted(ends)]))
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        check_control((self.added[i] for i in self.special_ids), "the tokenizer")
        self._plain = _without_control(backend, self.special_ids)
        self.kind: TokenizerKind = _kind(backend)
        self.prefix_ids, self.suffix_ids = _frame(backend) if self.decodes_by_library else ((), ())
        self._token_bytes: dict[int, bytes] = {}

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads the tokenizer of a `.gguf` or E5S1 file, or of a directory with `tokenizer.json` or exactly one of them.

        Raises:
            InvalidModelFile: `path` holds no tokenizer, or a damaged one.
            UnsupportedModel: the tokenizer is not byte-level BPE, WordPiece or unigram, or its pre-tokenizer is unknown.
        """
        if path.is_dir():
            if (path / "tokenizer.json").is_file():
                return cls._made(_from_directory, path)
            ggufs = sorted(path.glob("*.gguf"))
            if not ggufs and (file := e5_file_in(path)) is not None:
                return cls._made(_from_e5, file)
            if len(ggufs) != 1:
                raise InvalidModelFile(
                    f"{path} holds no tokenizer.json and {len(ggufs)} .gguf files",
                    fix="name a directory with tokenizer.json or exactly one .gguf, or a .gguf file",
                )
            path = ggufs[0]
        return cls._made(_from_e5 if is_e5_file(path) else _from_gguf, path)

    @classmethod
    def _made(cls, read: Callable[[Path], tuple[Backend, _Extras]], path: Path) -> Tokenizer:
        """Makes a tokenizer. The library may panic at a file that parses."""
        with _backend_errors(f"{path.name}: the tokenizer is not sound"):
            return cls(*read(path))

    @property
    def decodes_by_library(self) -> bool:
        """True if the library decodes tokens, and not a table of their bytes: such tokens depend on their neighbours."""
        return self.kind != "bpe"

    @property
    def bos_token(self) -> str | None:
        return None if self.bos_token_id is None else self.backend.id_to_token(self.bos_token_id)

    @property
    def eos_token(self) -> str | None:
        return self.backend.id_to_token(self.eos_token_ids[0]) if self.eos_token_ids else None

    @property
    def pad_token(self) -> str | None:
        return None if self.pad_token_id is None else self.backend.id_to_token(self.pad_token_id)

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Tokens added to the model's own vocabulary: control tokens, and tags such as `<think>`."""
        return tuple(self.added.values())

    def control_token(self, text: str) -> int | None:
        """Returns the id of a control token given its text, or None."""
        token = self.backend.token_to_id(text)
        return token if token in self.special_ids else None

    def encode(self, text: str, *, allow_special: bool = True) -> list[int]:
        """Returns the token ids of `text`, without BOS, prefix or suffix.

        `allow_special=False` reads control tokens in the text as plain text. A byte that the vocabulary lacks yields no token,
        as in transformers: smollm2 has none for U+0004 and a dozen others, all control characters or parts of rare planes.

        Raises:
            InvalidRequest: `text` is not valid Unicode (a lone surrogate).
            InvalidModelFile: the tokenizer fails on this text.
        """
        backend = self.backend if allow_special else self._plain
        with _backend_errors("the tokenizer failed on a text"):
            try:
                return backend.encode(text, add_special_tokens=False).ids
            except (TypeError, UnicodeEncodeError) as error:
                raise InvalidRequest("the text holds a lone surrogate, which UTF-8 cannot carry") from error

    def fewest_tokens(self, text: str) -> int:
        """Returns a lower bound of the number of tokens of a text, without tokenising it.

        It is 0 for a tokenizer that may delete text.
        """
        rate, silent = self.fewest_tokens_rate
        if not rate:
            return 0
        data = text.encode("utf-8", "replace")
        return int((len(data) - sum(data.count(byte) for byte in silent)) * rate)

    @cached_property
    def fewest_tokens_rate(self) -> tuple[float, bytes]:
        """Tokens that a byte of text makes at least, and the bytes that make none."""
        return fewest_tokens_rate(self.backend, map(self._read_token_bytes, range(self.vocab_size)))

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Returns the text of `ids`. Bytes that are not UTF-8 become U+FFFD. Encoders' tokens give the normalised text."""
        kept = [i for i in ids if not (skip_special and i in self.special_ids)]
        if self.decodes_by_library:
            with _backend_errors("the tokenizer failed on tokens"):
                return self.backend.decode(kept, skip_special_tokens=False)
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the bytes that a token stands for; empty for ids between the vocabulary and the padded embedding."""
        cached = self._token_bytes.get(token_id)
        if cached is None:
            cached = self._token_bytes[token_id] = self._read_token_bytes(token_id)
        return cached

    def spelling(self, token_id: int) -> str:
        """Returns the token as the vocabulary spells it: `Ġworld`, `##ing`, `▁world`; empty for an id without a token."""
        if token_id in self.added:
            return self.added[token_id]
        data = self.token_bytes(token_id)
        if self.kind == "bpe":
            return "".join(_CHARACTERS[byte] for byte in data)
        if self.kind == "unigram":
            return data.decode().replace(" ", WORD_START)
        return data[1:].decode() if data.startswith(b" ") else f"##{data.decode()}" if data else ""

    def _read_token_bytes(self, token_id: int) -> bytes:
        token = self.backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.added:
            return token.encode()
        if self.kind == "unigram":
            return token.replace(WORD_START, " ").encode()
        if self.kind == "wordpiece":
            return token.removeprefix("##").encode() if token.startswith("##") else f" {token}".encode()
        try:
            return bytes(_BYTES[character] for character in token)
        except KeyError:  # a token outside the byte alphabet stands for its own text
            return token.encode()


def _kind(backend: Backend) -> TokenizerKind:
    if isinstance(backend.model, models.Unigram):
        return "unigram"
    return "wordpiece" if isinstance(backend.model, models.WordPiece) else "bpe"


def _frame(backend: Backend) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the tokens that the post-processor puts before and after a text.

    Raises:
        UnsupportedModel: the post-processor changes the tokens of the text itself.
    """
    probe = "a"
    bare, framed = (backend.encode(probe, add_special_tokens=special).ids for special in (False, True))
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return tuple(framed[:start]), tuple(framed[start + len(bare) :])
    raise UnsupportedModel("the post-processor of tokenizer.json changes the tokens of a text")


def read_chat_template(path: Path) -> str | None:
    """Reads the chat template of a `.gguf` file or a model directory without building a tokenizer from its vocabulary.

    Raises:
        InvalidModelFile: the file is damaged.
    """
    if is_e5_file(path):
        return None
    if path.is_dir():
        return _template(path, _read_json(path / "tokenizer_config.json"))
    template = read_gguf_header(path).metadata.get("tokenizer.chat_template")
    return template if isinstance(template, str) else None


def _without_control(backend: Backend, control: frozenset[int]) -> Backend:
    """Returns a tokenizer on the same vocabulary (shared, not copied) that does not recognise control tokens in text."""
    plain = Backend(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    added = backend.get_added_tokens_decoder()
    plain.add_tokens(  # pyright: ignore[reportUnknownMemberType]
        [
            AddedToken(
                added[i].content,
                single_word=added[i].single_word,
                lstrip=added[i].lstrip,
                rstrip=added[i].rstrip,
                normalized=added[i].normalized,
                special=i in control,
            )
            for i in sorted(added)  # this order gives ids beyond the model's vocabulary to the same tokens
        ]
    )
    if any(plain.token_to_id(token.content) != token_id for token_id, token in added.items()):
        raise UnsupportedModel("the ids of added tokens in tokenizer.json leave gaps")
    plain.encode_special_tokens = True
    return plain


def _from_e5(path: Path) -> tuple[Backend, _Extras]:
    vocabulary = read_e5_vocabulary(path)
    backend = unigram_backend(vocabulary)
    check_backend(backend, path.name)
    return backend, _Extras(
        bos_token_id=vocabulary.bos, eos_token_ids=(vocabulary.eos,), pad_token_id=vocabulary.pad
    )


def _from_gguf(path: Path) -> tuple[Backend, _Extras]:
    metadata = read_gguf_header(path).metadata

    def field(key: str) -> Any:
        return metadata.get(f"tokenizer.ggml.{key}")

    if not isinstance(model := field("model"), str) or model != "gpt2":
        raise UnsupportedModel(
            f"{path.name}: tokenizer {reprlib.repr(model)} is not byte-level BPE",
            fix="use a file whose tokenizer.ggml.model is gpt2, or a directory with tokenizer.json",
        )
    pre = field("pre")
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise UnsupportedModel(
            f"{path.name}: unknown pre-tokenizer {reprlib.repr(pre)}",
            fix=f"tokenizer.ggml.pre must be one of {', '.join(PRE_TOKENIZERS)}",
        )
    tokens = _strings(field("tokens"), f"{path.name}: tokenizer.ggml.tokens")
    vocab = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(vocab) != len(tokens):
        raise InvalidModelFile(
            f"{path.name}: {len(tokens) - len(vocab)} tokens occur twice in the vocabulary"
        )
    merges = _strings(field("merges"), f"{path.name}: tokenizer.ggml.merges")
    pairs = cast("list[tuple[str, str]]", [tuple(line.split(" ")) for line in merges])
    with _backend_errors(f"{path.name}: the merges do not fit the vocabulary"):
        backend = Backend(models.BPE(vocab=vocab, merges=pairs, ignore_merges=pre in IGNORES_MERGES))
    if pre in NFC_NORMALIZED:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    added = _added_tokens(tokens, field("token_type"), path.name)
    backend.add_tokens(added)  # pyright: ignore[reportUnknownMemberType]

    def token_id(key: str) -> int | None:
        value = field(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(tokens):
            raise InvalidModelFile(
                f"{path.name}: tokenizer.ggml.{key} = {reprlib.repr(value)} is no id below {len(tokens)}"
            )
        return value

    add_bos = field("add_bos_token")
    if isinstance(add_bos, list | np.ndarray):
        raise InvalidModelFile(f"{path.name}: tokenizer.ggml.add_bos_token is no boolean")
    template = metadata.get("tokenizer.chat_template")
    ends = (token_id("eos_token_id"), token_id("eot_token_id"), token_id("eom_token_id"))
    return backend, _Extras(
        bos_token_id=token_id("bos_token_id"),
        eos_token_ids=tuple(i for i in ends if i is not None),
        pad_token_id=token_id("padding_token_id"),
        add_bos=pre == "llama-bpe" if add_bos is None else bool(add_bos),
        chat_template=template if isinstance(template, str) else None,
    )


def _strings(value: object, name: str) -> list[str]:
    # A GGUF array holds values of one type, so checking the first is enough.
    if not isinstance(value, list) or not all(isinstance(s, str) for s in cast("list[object]", value[:1])):
        raise InvalidModelFile(f"{name} is missing or not an array of strings")
    return cast("list[str]", value)


def _added_tokens(tokens: Sequence[str], kinds: object, file: str) -> list[AddedToken]:
    if not isinstance(kinds, np.ndarray) or len(cast("Sequence[int]", kinds)) != len(tokens):
        raise InvalidModelFile(f"{file}: tokenizer.ggml.token_type does not have one entry a token")
    control, user_defined = kinds == CONTROL, kinds == USER_DEFINED
    ids = np.flatnonzero(control | user_defined).tolist()
    check_added((tokens[i] for i in ids), file)
    return [AddedToken(tokens[i], special=bool(control[i]), normalized=False) for i in ids if tokens[i]]


@contextmanager
def _backend_errors(message: str) -> Generator[None]:
    """Turns errors of `tokenizers` into `InvalidModelFile`."""
    try:
        yield
    except BaseException as error:
        # Merges that are too short raise a bare Exception, or a panic, which is not an Exception at all.
        panicked = type(error).__name__ == "PanicException"
        if isinstance(error, DeepwellError) or not (panicked or isinstance(error, Exception)):
            raise
        raise InvalidModelFile(f"{message}: {str(error)[:400]}") from error


def _from_directory(path: Path) -> tuple[Backend, _Extras]:
    file = path / "tokenizer.json"
    if (size := file.stat().st_size) > MAX_JSON_BYTES:
        raise InvalidModelFile(f"{file} has {size} bytes, more than {MAX_JSON_BYTES}")
    backend = _read_backend(file)
    config = _read_json(path / "tokenizer_config.json")
    generation = _read_json(path / "generation_config.json") or _read_json(path / "config.json")

    def token_id(key: str) -> int | None:
        value = config.get(key)
        content = cast("Mapping[str, Any]", value).get("content") if isinstance(value, dict) else value
        return backend.token_to_id(content) if isinstance(content, str) else None

    declared = generation.get("eos_token_id")
    declared = cast("list[Any]", declared) if isinstance(declared, list) else [declared]
    ends = [token_id("eos_token"), *(i for i in declared if isinstance(i, int))]
    bos = token_id("bos_token")
    add_bos = config.get("add_bos_token")
    if add_bos is None:
        add_bos = bos is not None and backend.encode("").ids[:1] == [bos]
    return backend, _Extras(
        bos_token_id=bos,
        eos_token_ids=tuple(dict.fromkeys(i for i in ends if i is not None)),
        pad_token_id=token_id("pad_token"),
        add_bos=bool(add_bos),
        chat_template=_template(path, config),
    )


def _read_backend(file: Path) -> Backend:
    with _backend_errors(f"{file} does not parse"):
        backend = Backend.from_file(str(file))
        check_backend(backend, file.name)
    byte_level = isinstance(backend.model, models.BPE) and "ByteLevel" in repr(backend.decoder)
    if not byte_level and not isinstance(backend.model, models.WordPiece | models.Unigram):
        raise UnsupportedModel(
            f"{file}: only byte-level BPE, and WordPiece and unigram for encoders, are supported"
        )
    size = backend.get_vocab_size(with_added_tokens=True)
    if max(backend.get_vocab(with_added_tokens=True).values(), default=-1) >= 2 * size + 1024:
        raise InvalidModelFile(f"{file} numbers {size} tokens far beyond their count")
    backend.no_truncation()  # the file may have been saved with truncation or padding switched on
    backend.no_padding()
    return backend


def _template(path: Path, config: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        if (size := file.stat().st_size) > MAX_TEMPLATE_BYTES:
            raise InvalidModelFile(f"{file} has {size} bytes, more than {MAX_TEMPLATE_BYTES}")
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidModelFile(f"{file} is not UTF-8: {error}") from error
    template = config.get("chat_template")
    if isinstance(template, list):
        entries = [cast("dict[str, Any]", t) for t in cast("list[object]", template) if isinstance(t, dict)]
        template = next((t.get("template") for t in entries if t.get("name") == "default"), None)
    return template if isinstance(template, str) else _shipped_template(path)


def _shipped_template(path: Path) -> str | None:
    """Returns the template of an architecture whose publishers write prompts by code of their own, which is never run."""
    name = _TEMPLATES.get(str(_read_json(path / "config.json").get("model_type")))
    if name is None:
        return None
    return (resources.files("deepwell.models.text") / "templates" / name).read_text(encoding="utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object; empty if the file does not exist."""
    if not file.is_file():
        return {}
    if (size := file.stat().st_size) > MAX_CONFIG_BYTES:
        raise InvalidModelFile(f"{file} has {size} bytes, more than {MAX_CONFIG_BYTES}")
    try:
        value: object = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{file} does not parse: {error}") from error
    if not isinstance(value, dict):
        raise InvalidModelFile(f"{file} is not a JSON object")
    return cast("dict[str, Any]", value)

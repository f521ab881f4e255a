"""Metadata of GGUF files: copied from a donor's own file, or made of a folder's configuration and tokenizer.

Names are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
from tokenizers import Tokenizer as Backend

from deepwell.errors import UnsupportedModel
from deepwell.models.formats.config import ModelConfig
from deepwell.models.text.pretokenizers import IGNORES_MERGES, NFC_NORMALIZED, PRE_TOKENIZERS
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["ARCHITECTURES", "RECORD_KEY", "Entry", "donor_entries", "folder_entries", "pre_tokenizer_name"]

ARCHITECTURES: Final = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Names of architectures in GGUF by those of configurations, as far as a folder's metadata can be made."""

RECORD_KEY: Final = "deepwell.quantised"
"""Key of the record that `quantise` writes."""

_KIND: Final = gguf.GGUFValueType
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # tokenizer.ggml.token_type
_OF_THE_FILE: Final = frozenset(
    {
        "general.architecture",
        "general.file_type",
        "general.quantization_version",
        "general.alignment",
        RECORD_KEY,
    }
)
# Texts that every two of the known pre-tokenizers cut differently where they differ at all
_PROBES: Final = (
    "Hello  world, it's 12345 o'clock; I'LL go.\r\n\n  Then\t\tx=y+1;\n",
    "a1b22c333d4444 3.14159 \u00bd \u0663\u0664",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01 \u3053\u3093\u306b\u3061\u306f \uc548\ub155 \u041f\u0440 e\u0301t\u00e9",
    " <|x|> (a.b) -- 'quoted' \"text\"   \n \n end ",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of the metadata; `inner` is the type of an array's items."""

    key: str
    value: Any
    kind: gguf.GGUFValueType
    inner: gguf.GGUFValueType | None = None


def donor_entries(path: Path) -> Iterator[Entry]:
    """Yields the entries of a GGUF file that hold for another file of the model too.

    Left out are the architecture's name, how tensors are quantised and where they lie, a record that Deepwell wrote of the
    donor, and arrays that are empty or nested, which the writer has no form for.
    """
    for name, one in gguf.GGUFReader(path).fields.items():
        if name.startswith("GGUF.") or name in _OF_THE_FILE:
            continue
        kind = one.types[0]
        if kind == _KIND.ARRAY and (len(one.types) != 2 or not len(one.data)):
            continue
        yield Entry(name, one.contents(), kind, one.types[-1] if kind == _KIND.ARRAY else None)


def folder_entries(config: ModelConfig, tokenizer: Tokenizer, name: str) -> Iterator[Entry]:
    """Yields what a folder of safetensors says in other words: sizes, rotary scaling, vocabulary and template.

    Raises:
        UnsupportedModel: its architecture, or its tokenizer, has no form in GGUF that is known here.
    """
    if config.architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"GGUF metadata of the architecture {config.architecture} cannot be made from a folder",
            fix="start from a GGUF file of the model",
        )
    prefix = ARCHITECTURES[config.architecture]
    # The name of a file may be no UTF-8.
    yield Entry("general.name", name.encode(errors="replace").decode(), _KIND.STRING)
    for key, value in {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
    }.items():
        yield Entry(f"{prefix}.{key}", value, _KIND.UINT32)
    yield Entry(f"{prefix}.rope.freq_base", config.rope_theta, _KIND.FLOAT32)
    yield Entry(f"{prefix}.attention.layer_norm_rms_epsilon", config.rms_norm_eps, _KIND.FLOAT32)
    yield from _scaling(config, prefix)
    yield from _vocabulary(config, tokenizer)


def _scaling(config: ModelConfig, prefix: str) -> Iterator[Entry]:
    """Yields the entries of linear scaling and yarn; Llama 3's is a tensor, `rope_freqs.weight`."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "llama3":
        return
    if scaling.kind == "longrope":
        raise UnsupportedModel(
            "metadata of longrope cannot be made from a folder", fix="start from a GGUF file of the model"
        )
    yield Entry(f"{prefix}.rope.scaling.type", scaling.kind, _KIND.STRING)
    yield Entry(f"{prefix}.rope.scaling.factor", scaling.factor, _KIND.FLOAT32)
    if scaling.kind == "yarn":
        length = scaling.original_max_position_embeddings
        yield Entry(f"{prefix}.rope.scaling.original_context_length", length, _KIND.UINT32)
        yield Entry(f"{prefix}.rope.scaling.yarn_beta_fast", scaling.beta_fast, _KIND.FLOAT32)
        yield Entry(f"{prefix}.rope.scaling.yarn_beta_slow", scaling.beta_slow, _KIND.FLOAT32)
        if scaling.attention_factor is not None:  # here it is multiplied into yarn's own
            multiplier = scaling.attention_factor / (0.1 * math.log(max(scaling.factor, 1.0)) + 1.0)
            yield Entry(f"{prefix}.rope.scaling.attn_factor", multiplier, _KIND.FLOAT32)


def _vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> Iterator[Entry]:
    pre = pre_tokenizer_name(tokenizer)
    model = json.loads(tokenizer.backend.to_str())["model"]
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    tokens: list[str] = []
    kinds: list[int] = []
    for number in range(config.vocab_size):
        token = tokenizer.backend.id_to_token(number)
        tokens.append(f"[PAD{number}]" if token is None else token)
        kinds.append(
            _UNUSED
            if token is None
            else _CONTROL
            if number in tokenizer.special_ids
            else _USER_DEFINED
            if number in tokenizer.added
            else _NORMAL
        )
    yield Entry("tokenizer.ggml.model", "gpt2", _KIND.STRING)
    yield Entry("tokenizer.ggml.pre", pre, _KIND.STRING)
    yield Entry("tokenizer.ggml.tokens", tokens, _KIND.ARRAY, _KIND.STRING)
    yield Entry("tokenizer.ggml.token_type", kinds, _KIND.ARRAY, _KIND.INT32)
    yield Entry("tokenizer.ggml.merges", merges, _KIND.ARRAY, _KIND.STRING)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "padding_token_id": tokenizer.pad_token_id,
        **dict(zip(("eos_token_id", "eot_token_id"), tokenizer.eos_token_ids, strict=False)),
    }
    for key, value in ids.items():
        if value is not None:
            yield Entry(f"tokenizer.ggml.{key}", value, _KIND.UINT32)
    yield Entry("tokenizer.ggml.add_bos_token", tokenizer.add_bos, _KIND.BOOL)
    if tokenizer.chat_template is not None:
        yield Entry("tokenizer.chat_template", tokenizer.chat_template, _KIND.STRING)


def pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """Returns the name that llama.cpp has for how a tokenizer cuts text into words, found by what it does with texts.

    Raises:
        UnsupportedModel: it is no byte-level BPE, or cuts as none of the known ones.
    """
    backend: Backend = tokenizer.backend
    if tokenizer.kind == "bpe" and backend.pre_tokenizer is not None and not _prefixed(backend):
        rules = json.loads(backend.to_str())
        kind = (rules["normalizer"] or {}).get("type")
        cut = [backend.pre_tokenizer.pre_tokenize_str(text) for text in _PROBES]
        for name, made in PRE_TOKENIZERS.items():
            if name == "default" or (name in IGNORES_MERGES) != bool(rules["model"].get("ignore_merges")):
                continue
            if kind == ("NFC" if name in NFC_NORMALIZED else None) and cut == [
                made().pre_tokenize_str(text) for text in _PROBES
            ]:
                return name
    raise UnsupportedModel(
        "the tokenizer is none whose name in GGUF is known",
        fix=f"start from a GGUF file of the model; known are byte-level BPE as of {', '.join(PRE_TOKENIZERS)}",
    )


def _prefixed(backend: Backend) -> bool:
    """Returns whether a space is put before a text, which none of the known pre-tokenizers does."""
    found = backend.pre_tokenizer.pre_tokenize_str("a") if backend.pre_tokenizer is not None else []
    return bool(found) and found[0][0] != "a"

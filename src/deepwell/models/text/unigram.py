"""Builds unigram tokenizers as SentencePiece has them (Kudo 2018) from a vocabulary with scores and a table of replacements."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from deepwell.models.formats.e5 import E5Vocabulary

__all__ = ["WORD_START", "charsmap_growth", "precompiled_charsmap", "unigram_backend"]

WORD_START: Final = "\u2581"
"""The character of a piece that begins a word: pieces hold it where the text has a space."""

_BLOCK: Final = 256  # units: one for every byte that may follow
_LEAF: Final = 1 << 8
_VALUE: Final = 1 << 31


def unigram_backend(vocabulary: E5Vocabulary) -> Backend:
    """Returns the tokenizer of XLM-RoBERTa with these pieces: it normalises, cuts at spaces, and marks the start of words.

    The replacements are those of single characters. NFC behind them composes letters with their accents, which
    SentencePiece's own table (nmt_nfkc) has rules of several characters for.
    """
    scored = list(zip(vocabulary.pieces, vocabulary.scores, strict=True))
    backend = Backend(models.Unigram(scored, vocabulary.unk, byte_fallback=False))
    charsmap = precompiled_charsmap(vocabulary.replacements)
    backend.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.NFC()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always"),
        ]
    )
    backend.decoder = decoders.Metaspace(replacement=WORD_START, prepend_scheme="always")
    special = [vocabulary.pieces[i] for i in (vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.unk)]
    special += [piece for piece in vocabulary.pieces[-1:] if piece == "<mask>"]
    tokens = [AddedToken(piece, special=True, normalized=False) for piece in special]
    backend.add_special_tokens(tokens)  # pyright: ignore[reportUnknownMemberType]
    bos, eos = vocabulary.pieces[vocabulary.bos], vocabulary.pieces[vocabulary.eos]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, vocabulary.bos), (eos, vocabulary.eos)],
    )
    return backend


def precompiled_charsmap(replacements: Mapping[str, str]) -> bytes:
    """Returns a table of replacements in SentencePiece's form: a double-array trie (Darts) and the texts that it points to.

    A unit of the trie has a label (bits 0 to 7), whether a value follows (bit 8), and from bit 10 the exclusive or of its
    place and the place of its children. Every inner node gets a block of 256 units of its own, and leaves share blocks
    without labels, so no two nodes can collide.
    """
    children: dict[bytes, set[int]] = {b"": set()}
    values: dict[bytes, int] = {}
    texts = bytearray()
    for source, target in replacements.items():
        key = source.encode()
        values[key] = len(texts)
        texts += target.encode() + b"\0"
        for length in range(len(key)):
            children.setdefault(key[:length], set()).add(key[length])
    inner = sorted(children)  # a prefix comes before what it begins
    base = {prefix: _BLOCK * (number + 1) for number, prefix in enumerate(inner)}
    leaves = [key for key in values if key not in children]
    first_leaf = _BLOCK * (len(inner) + 1)
    base |= {key: first_leaf + number for number, key in enumerate(leaves)}
    units = np.zeros(-(-(first_leaf + len(leaves)) // _BLOCK) * _BLOCK, np.uint32)
    place = {b"": 0}
    for prefix in inner:
        for byte in children[prefix]:
            place[prefix + bytes((byte,))] = base[prefix] ^ byte
    for prefix, where in place.items():
        label = prefix[-1] if prefix else 0
        units[where] = label | (where ^ base[prefix]) << 10 | (_LEAF if prefix in values else 0)
    for key, value in values.items():
        units[base[key]] = _VALUE | value
    trie = units.astype("<u4").tobytes()
    return struct.pack("<I", len(trie)) + trie + bytes(texts)


def charsmap_growth(normalizer: Mapping[str, Any]) -> float:
    """Returns the most bytes that a normaliser with a precompiled table makes of one: the longest text of the table.

    Args:
        normalizer: the component as `tokenizer.json` has it.
    """
    data = base64.b64decode(str(normalizer.get("precompiled_charsmap", "")))
    size = struct.unpack_from("<I", data)[0] if len(data) >= 4 else 0
    return float(max(map(len, data[4 + size :].split(b"\0")), default=1) or 1)

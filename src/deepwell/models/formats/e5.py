"""Parses the header of an E5S1 file: a small multilingual encoder in 4 bits with its vocabulary, in one file.

The layout, little endian and unaligned: magic, version, the model's sizes, the vocabulary (offsets, scores, UTF-8 text),
the normalisation of single characters, then a table of tensors (name, kind, count, offset, bytes). Kind 0 is float32,
kind 1 is GGUF's Q4_0. No number is trusted: every count and length is checked against the remaining bytes first.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import numpy as np

from deepwell.errors import InvalidModelFile, UnsupportedModel

__all__ = [
    "E5_SUFFIX",
    "E5Header",
    "E5Tensor",
    "E5Vocabulary",
    "e5_file_in",
    "is_e5_file",
    "read_e5_header",
    "read_e5_vocabulary",
]

E5_SUFFIX: Final = ".bin"
MAGIC: Final = b"E5S1"
MAX_HEADER_BYTES: Final = 64 << 20
MAX_PIECES: Final = 1 << 20  # the largest unigram vocabulary in use has 256 thousand
MAX_PIECE_BYTES: Final = 1024
MAX_RULES: Final = 1 << 16  # nmt_nfkc has 5 thousand for single characters
MAX_TENSORS: Final = 1 << 15
MAX_NAME_BYTES: Final = 64
MIN_RULE_BYTES: Final = 5
MIN_TENSOR_BYTES: Final = 23

_SIZES: Final = struct.Struct("<7ifi")
_VOCABULARY: Final = struct.Struct("<5iQ")
_RULES: Final = struct.Struct("<iI")
_TENSOR: Final = struct.Struct("<BIQQ")
_Q4_0: Final = (32, 18)  # values and bytes of a block

_EMBEDDINGS: Final = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_MODULES: Final = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_PARTS: Final = {"w": "weight", "b": "bias"}


@dataclass(frozen=True, slots=True)
class E5Tensor:
    """Location of one tensor, by its name in transformers; `offset` counts from the start of the file."""

    name: str
    values: int
    dtype: Literal["F32", "Q4_0"]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class E5Vocabulary:
    """The unigram vocabulary: pieces by id with their log probabilities, and what single characters are replaced by."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    bos: int
    eos: int
    pad: int
    unk: int
    replacements: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class E5Header:
    """Sizes of the model and its tensor table. `data_offset` is where the header ends."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    type_vocab_size: int
    layer_norm_eps: float
    pad: int
    tensors: dict[str, E5Tensor]
    data_offset: int


def e5_file_in(directory: Path) -> Path | None:
    """Returns the only file of a directory that ends in `.bin` and begins as an E5S1 file does, or None."""
    found = [path for path in directory.glob(f"*{E5_SUFFIX}") if is_e5_file(path)]
    return found[0] if len(found) == 1 else None


def is_e5_file(path: Path) -> bool:
    """Returns whether a file ends in `.bin` and begins as an E5S1 file does. Other `.bin` files are pickles, and never read."""
    if path.suffix != E5_SUFFIX or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_e5_header(path: Path) -> E5Header:
    """Parses and checks the header of an E5S1 file without reading tensor data or making the vocabulary.

    Raises:
        InvalidModelFile: the file is not sound; the message says why.
        UnsupportedModel: its version, or its blocks, are others than Deepwell knows.
    """
    with path.open("rb") as file:
        return _header(_Cursor(file.fileno(), path.name))


def read_e5_vocabulary(path: Path) -> E5Vocabulary:
    """Reads the vocabulary and the normalisation of an E5S1 file. Raises as `read_e5_header` does."""
    with path.open("rb") as file:
        cursor = _Cursor(file.fileno(), path.name)
    _sizes(cursor)
    count, bos, eos, pad, unk, text_bytes = _vocabulary_counts(cursor)
    offsets = np.frombuffer(cursor.take(4 * (count + 1), "the offsets of the pieces"), "<u4")
    scores = np.frombuffer(cursor.take(4 * count, "the scores of the pieces"), "<f4")
    text = cursor.take(text_bytes, "the pieces")
    lengths = np.diff(offsets.astype(np.int64))
    if offsets[0] != 0 or offsets[-1] != text_bytes or lengths.min(initial=1) < 1:
        raise cursor.error("the offsets of the pieces do not divide their text")
    if lengths.max(initial=0) > MAX_PIECE_BYTES:
        raise cursor.error(f"a piece has {lengths.max()} bytes, at most {MAX_PIECE_BYTES} are allowed")
    if not np.isfinite(scores).all():
        raise cursor.error("a score is not a finite number")
    ends = offsets.tolist()
    try:
        pieces = tuple(text[a:b].decode() for a, b in pairwise(ends))
    except UnicodeDecodeError:
        raise cursor.error("a piece is not UTF-8") from None
    if len(set(pieces)) != count:
        raise cursor.error(f"{count - len(set(pieces))} pieces occur twice")
    return E5Vocabulary(pieces, tuple(scores.tolist()), bos, eos, pad, unk, _replacements(cursor))


class _Cursor:
    """A read position in the mapped file that cannot leave the header's bounds."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self.pos = 0
        try:
            self.data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            raise self.error("it is empty") from None
        self.file_bytes = len(self.data)
        self.end = min(self.file_bytes, MAX_HEADER_BYTES)

    def error(self, reason: str) -> InvalidModelFile:
        return InvalidModelFile(f"{self.name} is not a sound E5S1 file: {reason}", fix="pull the model again")

    def need(self, nbytes: int, what: str) -> None:
        if not 0 <= nbytes <= self.end - self.pos:
            raise self.error(
                f"{what} need {nbytes} bytes at byte {self.pos}, and the header ends at {self.end}"
            )

    def take(self, nbytes: int, what: str) -> bytes:
        self.need(nbytes, what)
        start = self.pos
        self.pos = start + nbytes
        return self.data[start : self.pos]

    def unpack(self, fields: struct.Struct, what: str) -> tuple[int, ...]:
        return fields.unpack(self.take(fields.size, what))


def _sizes(cursor: _Cursor) -> tuple[float, ...]:
    """Reads the magic, the version and the sizes of the model."""
    if (magic := cursor.take(4, "the magic number")) != MAGIC:
        raise cursor.error(f"it starts with {magic!r}, not with {MAGIC!r}")
    if (version := int.from_bytes(cursor.take(4, "the version"), "little")) != 1:
        raise UnsupportedModel(f"{cursor.name} is E5S1 version {version}, version 1 is supported")
    sizes = cursor.unpack(_SIZES, "the sizes")
    if sizes[-1] != _Q4_0[0]:
        raise UnsupportedModel(f"{cursor.name} has blocks of {sizes[-1]} weights, blocks of 32 are supported")
    if any(size < 1 for size in sizes[:7]):
        raise cursor.error(f"a size of the model is not positive: {sizes[:7]}")
    return sizes


def _vocabulary_counts(cursor: _Cursor) -> tuple[int, ...]:
    """Reads the number of pieces, the special ids and the bytes of the text."""
    count, *special, text_bytes = cursor.unpack(_VOCABULARY, "the counts of the vocabulary")
    if not 1 <= count <= MAX_PIECES:
        raise cursor.error(f"it claims {count} pieces, expected 1 to {MAX_PIECES}")
    cursor.need(8 * count + 4 + text_bytes, "the pieces")
    if not all(0 <= token < count for token in special) or len(set(special)) != len(special):
        raise cursor.error(f"the special tokens {special} are not four ids below {count}")
    return count, *special, text_bytes


def _replacements(cursor: _Cursor) -> dict[str, str]:
    count, nbytes = cursor.unpack(_RULES, "the counts of the normalisation")
    if not 0 <= count <= min(MAX_RULES, nbytes // MIN_RULE_BYTES):
        raise cursor.error(f"it claims {count} replaced characters in {nbytes} bytes")
    data = cursor.take(nbytes, "the normalisation")
    result: dict[str, str] = {}
    pos = 0
    try:
        for _ in range(count):
            point, length = struct.unpack_from("<IB", data, pos)
            points = struct.unpack_from(f"<{length}I", data, pos + 5)
            pos += 5 + 4 * length
            result[chr(point)] = "".join(map(chr, points))
        "".join((*result, *result.values())).encode()
    except (struct.error, ValueError, OverflowError):  # a surrogate raises UnicodeEncodeError, a ValueError
        raise cursor.error("the normalisation is cut off, or replaces what is no character") from None
    if pos != nbytes or len(result) != count or "\0" in result:
        raise cursor.error("the normalisation names a character twice, or has bytes left over")
    if any("\0" in text for text in result.values()):
        raise cursor.error("the normalisation inserts U+0000")
    return result


def _header(cursor: _Cursor) -> E5Header:
    hidden, layers, heads, inner, vocab, positions, types, eps, _ = _sizes(cursor)
    count, _, _, pad, _, text_bytes = _vocabulary_counts(cursor)
    cursor.take(8 * count + 4 + text_bytes, "the pieces")
    _, nbytes = cursor.unpack(_RULES, "the counts of the normalisation")
    cursor.take(nbytes, "the normalisation")
    if count > vocab:
        raise cursor.error(f"it has {count} pieces for {vocab} embeddings")
    if not 0.0 < eps < 1.0 or math.isnan(eps):
        raise cursor.error(f"the epsilon of the layer norms is {eps}")
    number = int.from_bytes(cursor.take(4, "the number of tensors"), "little")
    if number > min(MAX_TENSORS, (cursor.end - cursor.pos) // MIN_TENSOR_BYTES):
        raise cursor.error(f"it claims {number} tensors, which do not fit the header")
    tensors: dict[str, E5Tensor] = {}
    for _ in range(number):
        tensor = _tensor(cursor)
        if tensor.name in tensors:
            raise cursor.error(f"the tensor {tensor.name!r} appears twice")
        tensors[tensor.name] = tensor
    _check_extents(cursor, tensors)
    return E5Header(
        hidden_size=int(hidden),
        num_layers=int(layers),
        num_heads=int(heads),
        intermediate_size=int(inner),
        vocab_size=int(vocab),
        max_positions=int(positions),
        type_vocab_size=int(types),
        # The file holds a float32, so 1e-12 reads as 9.99999996e-13. Seven digits give back the value that was written.
        layer_norm_eps=float(f"{eps:.7g}"),
        pad=pad,
        tensors=tensors,
        data_offset=cursor.pos,
    )


def _tensor(cursor: _Cursor) -> E5Tensor:
    length = int.from_bytes(cursor.take(2, "the length of a name"), "little")
    if length > MAX_NAME_BYTES:
        raise cursor.error(f"a tensor's name has {length} bytes, at most {MAX_NAME_BYTES} are allowed")
    raw = cursor.take(length, "a tensor's name").decode("ascii", "replace")
    kind, values, offset, nbytes = cursor.unpack(_TENSOR, f"the entry of {raw!r}")
    if kind not in (0, 1):
        raise UnsupportedModel(f"{cursor.name}: the tensor {raw!r} has the unknown kind {kind}")
    block_values, block_bytes = _Q4_0 if kind else (1, 4)
    if not values or values % block_values or nbytes != values // block_values * block_bytes:
        raise cursor.error(f"the tensor {raw!r} has {values} values in {nbytes} bytes")
    return E5Tensor(_name(cursor, raw), values, "Q4_0" if kind else "F32", offset, nbytes)


def _name(cursor: _Cursor, raw: str) -> str:
    """Maps `l3.ao.w` to `encoder.layer.3.attention.output.dense.weight`."""
    if raw in _EMBEDDINGS:
        return _EMBEDDINGS[raw]
    layer, _, rest = raw.partition(".")
    module, _, part = rest.partition(".")
    number = layer.removeprefix("l")
    if (
        not (layer.startswith("l") and number.isdecimal() and number == str(int(number)))
        or module not in _MODULES
        or part not in _PARTS
    ):
        raise UnsupportedModel(f"{cursor.name}: the tensor {raw!r} belongs to no model of this kind")
    return f"encoder.layer.{number}.{_MODULES[module]}.{_PARTS[part]}"


def _check_extents(cursor: _Cursor, tensors: Mapping[str, E5Tensor]) -> None:
    """Checks that every tensor lies between the header and the end of the file, and that no two overlap."""
    previous_end = cursor.pos
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < previous_end:
            raise cursor.error(f"the tensor {tensor.name!r} overlaps what lies before it")
        previous_end = tensor.offset + tensor.nbytes
        if previous_end > cursor.file_bytes:
            raise cursor.error(f"the tensor {tensor.name!r} ends at byte {previous_end}, the file before")

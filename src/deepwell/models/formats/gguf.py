"""Parses the header of a GGUF file without trusting any number in it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian. Every
count and length is checked against the remaining bytes before anything of that size is allocated. Memory therefore
stays proportional to the header, whose size is limited by `MAX_HEADER_BYTES`.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import numpy as np

from deepwell.errors import InvalidModelFile, UnsupportedModel

__all__ = ["GGML_TYPES", "GGUFHeader", "GGUFTensorInfo", "read_gguf_header"]

MAX_HEADER_BYTES: Final = 64 << 20  # the largest vocabularies in use (262k tokens, 514k merges) need 16 MB
MAX_OBJECTS: Final = 2 << 20  # strings and arrays in the metadata, ~60 bytes of memory each
MAX_KEY_BYTES: Final = 65_535  # the format's own limit
MAX_NAME_BYTES: Final = 256  # tensor names; the format allows 64, but some writers exceed it
MAX_ARRAY_DEPTH: Final = 2
MAX_DIMS: Final = 4
MAX_ALIGNMENT: Final = 1 << 20
MIN_ENTRY_BYTES: Final = 13  # a metadata entry: key length 8, type 4, value 1
MIN_TENSOR_BYTES: Final = 33  # a tensor: name 8 + 1, dimension count 4, one dimension 8, type 4, offset 8

# ggml's tensor types: number -> (name, values per block, bytes per block).
GGML_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

_STRING: Final = 8
_ARRAY: Final = 9
_BOOL: Final = 7
# Metadata scalars: type number -> numpy dtype.
_SCALARS: Final[dict[int, np.dtype[Any]]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("<u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_U64: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GGUFTensorInfo:
    """Location of one tensor: `shape` is in numpy order, [out, in]; `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    ggml_type: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True, weakref_slot=True)
class GGUFHeader:
    """Metadata and tensor table. Arrays of numbers are numpy arrays, arrays of strings are lists. It is shared: see `_live`."""

    version: int
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensorInfo]
    data_offset: int
    alignment: int
    file_bytes: int


# Headers that somebody still holds, by device, inode, size and time of change. The memory plan and the tokenizer of a server
# read the same file, whose vocabulary takes 30 ms to parse.
_live: Final[WeakValueDictionary[tuple[int, ...], GGUFHeader]] = WeakValueDictionary()


def read_gguf_header(path: Path) -> GGUFHeader:
    """Parses and checks the header of a GGUF file without reading the tensor data.

    While somebody holds the header of an unchanged file, the next caller gets the same object.

    Raises:
        InvalidModelFile: the file is not a sound GGUF file; the message says why.
        UnsupportedModel: the file has a GGUF version or tensor type that Deepwell does not know.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if (known := _live.get(key)) is not None:
            return known
        file_bytes = file.seek(0, 2)
        if file_bytes < 24:
            raise InvalidModelFile(f"{path.name} has {file_bytes} bytes, a GGUF header needs at least 24")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _live[key] = _parse(_Cursor(data, file_bytes, path.name))
            return header


class _Cursor:
    """A read position in the mapped file that cannot leave the header's bounds."""

    def __init__(self, data: mmap.mmap, file_bytes: int, name: str) -> None:
        self.data = data
        self.file_bytes = file_bytes
        self.end = min(file_bytes, MAX_HEADER_BYTES)
        self.name = name
        self.pos = 0
        self.objects = 0

    def error(self, reason: str) -> InvalidModelFile:
        return InvalidModelFile.of("gguf_unsound", name=self.name, reason=reason[:400])

    def need(self, nbytes: int, what: str) -> None:
        if nbytes > self.end - self.pos:
            if self.end < self.file_bytes:
                raise self.error(f"{what} makes the header larger than {MAX_HEADER_BYTES >> 20} MiB")
            raise self.error(
                f"{what} needs {nbytes} bytes at byte {self.pos}, the file ends at {self.file_bytes}"
            )

    def count_objects(self, count: int) -> None:
        self.objects += count
        if self.objects > MAX_OBJECTS:
            raise self.error(f"more than {MAX_OBJECTS} strings and arrays in the metadata")

    def take(self, nbytes: int, what: str) -> bytes:
        self.need(nbytes, what)
        start = self.pos
        self.pos = start + nbytes
        return self.data[start : self.pos]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str, max_bytes: int) -> str:
        length = self.u64(what)
        if length > max_bytes:
            raise self.error(f"{what} is {length} bytes long, at most {max_bytes} are allowed")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            raise self.error(f"{what} is not UTF-8") from None

    def strings(self, count: int, what: str) -> list[str]:
        """Reads `count` strings. The loop is inlined because vocabularies hold half a million of them."""
        self.need(8 * count, what)
        self.count_objects(count)
        data, pos, end, unpack = self.data, self.pos, self.end, _U64.unpack_from
        result: list[str] = []
        try:
            for _ in range(count):
                start = pos + 8
                pos = start + unpack(data, pos)[0]
                if pos > end:
                    self.pos = start
                    self.need(pos - start, f"string {len(result)} of {what}")
                result.append(data[start:pos].decode())
        except UnicodeDecodeError:
            raise self.error(f"string {len(result)} of {what} is not UTF-8") from None
        except struct.error:  # the length itself runs past the mapped bytes
            raise self.error(f"{what} runs past the end of the file") from None
        self.pos = pos
        return result

    def scalar(self, kind: int, what: str) -> int | float | bool:
        dtype = _SCALARS[kind]
        value = np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()
        if kind == _BOOL:
            if value > 1:
                raise self.error(f"{what} is a boolean with the value {value}")
            return bool(value)
        return value

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind == _STRING:
            self.count_objects(1)
            return self.string(what, MAX_HEADER_BYTES)
        if kind == _ARRAY:
            return self.array(what, depth + 1)
        if kind in _SCALARS:
            return self.scalar(kind, what)
        raise self.error(f"{what} has the unknown value type {kind}")

    def array(self, what: str, depth: int) -> Any:
        if depth > MAX_ARRAY_DEPTH:
            raise self.error(f"{what} nests arrays deeper than {MAX_ARRAY_DEPTH}")
        self.count_objects(1)
        kind, count = self.u32(what), self.u64(what)
        if kind == _STRING:
            return self.strings(count, what)
        if kind == _ARRAY:
            self.need(12 * count, what)
            return [self.array(what, depth + 1) for _ in range(count)]
        if kind not in _SCALARS:
            raise self.error(f"{what} has the unknown value type {kind}")
        dtype = _SCALARS[kind]
        values = np.frombuffer(self.take(dtype.itemsize * count, what), dtype)
        return values.astype(np.bool_) if kind == _BOOL else values


def _parse(cursor: _Cursor) -> GGUFHeader:
    magic = cursor.take(4, "the magic number")
    if magic != b"GGUF":
        raise cursor.error(f"it starts with {magic!r}, not with b'GGUF'")
    version = cursor.u32("the version")
    if version not in (2, 3):
        if version & 0xFFFF == 0:
            raise UnsupportedModel(
                f"{cursor.name} is a big-endian GGUF file", fix="convert it to little endian first"
            )
        raise UnsupportedModel(f"{cursor.name} is GGUF version {version}, versions 2 and 3 are supported")
    tensor_count = cursor.u64("the tensor count")
    entry_count = cursor.u64("the metadata count")
    remaining = cursor.end - cursor.pos
    for what, count, size in (
        ("metadata entries", entry_count, MIN_ENTRY_BYTES),
        ("tensors", tensor_count, MIN_TENSOR_BYTES),
    ):
        if count * size > remaining:
            raise cursor.error(f"it claims {count} {what}, the header has room for {remaining // size}")

    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        key = cursor.string("a metadata key", MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error(f"the metadata key {key[:80]!r} appears twice")
        what = f"metadata {key[:80]!r}"
        metadata[key] = cursor.value(cursor.u32(what), what)

    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.error(f"the alignment {alignment!r} is not a power of two up to {MAX_ALIGNMENT}")

    tensors: dict[str, GGUFTensorInfo] = {}
    for _ in range(tensor_count):
        info = _tensor_info(cursor, alignment)
        if info.name in tensors:
            raise cursor.error(f"the tensor {info.name!r} appears twice")
        tensors[info.name] = info

    data_offset = -(-cursor.pos // alignment) * alignment
    tensors = {
        name: GGUFTensorInfo(name, info.shape, info.ggml_type, info.offset + data_offset, info.nbytes)
        for name, info in tensors.items()
    }
    _check_extents(cursor, tensors)
    return GGUFHeader(version, metadata, tensors, data_offset, alignment, cursor.file_bytes)


def _tensor_info(cursor: _Cursor, alignment: int) -> GGUFTensorInfo:
    """Reads one entry of the tensor table; its offset is still relative to the data section."""
    name = cursor.string("a tensor name", MAX_NAME_BYTES)
    what = f"tensor {name!r}"
    dims = cursor.u32(what)
    if not 1 <= dims <= MAX_DIMS:
        raise cursor.error(f"{what} has {dims} dimensions, 1 to {MAX_DIMS} are allowed")
    extents = [cursor.u64(what) for _ in range(dims)]  # fastest dimension first
    type_number = cursor.u32(what)
    offset = cursor.u64(what)
    if type_number not in GGML_TYPES:
        raise UnsupportedModel(f"{what} of {cursor.name} has the unknown ggml type {type_number}")
    ggml_type, block_values, block_bytes = GGML_TYPES[type_number]
    if 0 in extents:
        raise cursor.error(f"{what} has a dimension of zero")
    if extents[0] % block_values:
        raise cursor.error(
            f"{what} has rows of {extents[0]} values, not a multiple of {ggml_type}'s {block_values}"
        )
    values = 1
    for extent in extents:
        values *= extent
    nbytes = values // block_values * block_bytes
    if nbytes > cursor.file_bytes:
        raise cursor.error(f"{what} claims {nbytes} bytes, the file has {cursor.file_bytes}")
    if offset % alignment:
        raise cursor.error(f"{what} starts at {offset}, which is not a multiple of {alignment}")
    return GGUFTensorInfo(name, tuple(reversed(extents)), ggml_type, offset, nbytes)


def _check_extents(cursor: _Cursor, tensors: dict[str, GGUFTensorInfo]) -> None:
    """Checks that every tensor lies within the file and that no two overlap."""
    previous: GGUFTensorInfo | None = None
    for info in sorted(tensors.values(), key=lambda info: info.offset):
        if info.offset + info.nbytes > cursor.file_bytes:
            end = info.offset + info.nbytes
            raise cursor.error(f"tensor {info.name!r} ends at byte {end}, the file at {cursor.file_bytes}")
        if previous is not None and info.offset < previous.offset + previous.nbytes:
            raise cursor.error(f"tensors {previous.name!r} and {info.name!r} overlap")
        previous = info

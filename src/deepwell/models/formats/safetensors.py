"""Parses the headers of safetensors files, single and sharded, without trusting them.

Format: https://github.com/huggingface/safetensors#format. As in the reference implementation, the tensors must cover
the data section exactly. Overlaps and holes are refused because they could hide a second file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from deepwell.errors import InvalidModelFile

__all__ = ["SafetensorsInfo", "read_json", "read_safetensors_header", "read_safetensors_index"]

MAX_HEADER_BYTES: Final = 16 << 20  # DeepSeek-V3 in a single file would need 14 MB; Python objects take ~20 x
MAX_JSON_BYTES: Final = 16 << 20  # config.json and the shard index, 9 MB for DeepSeek-V3
MAX_DIMS: Final = 8
DTYPE_BYTES: Final[dict[str, int]] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}


@dataclass(frozen=True, slots=True)
class SafetensorsInfo:
    """Location of one tensor; `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    offset: int
    nbytes: int


def read_safetensors_index(directory: Path) -> dict[str, SafetensorsInfo]:
    """Returns every tensor of the model in `directory`, from `model.safetensors.index.json` or else the only file.

    Raises:
        InvalidModelFile: there are no weights, a shard is missing or unsound, or the index names something other than
            a file of this directory.
    """
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors_header(_single_file(directory))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _error(index, "it has no weight_map")
    shards: dict[str, dict[str, SafetensorsInfo]] = {}
    tensors: dict[str, SafetensorsInfo] = {}
    for name, shard in cast("dict[str, Any]", weight_map).items():
        if not isinstance(shard, str) or not _is_plain_file_name(shard):
            raise _error(index, f"the shard {str(shard)[:80]!r} of {name[:80]!r} is not a plain file name")
        if shard not in shards:
            path = directory / shard
            if not path.is_file():
                raise InvalidModelFile(
                    f"{shard}, named by {index.name}, is missing", fix="pull the model again"
                )
            shards[shard] = read_safetensors_header(path)
        if name not in shards[shard]:
            raise _error(index, f"{shard} does not hold {name[:80]!r}")
        tensors[name] = shards[shard][name]
    return tensors


def read_safetensors_header(path: Path) -> dict[str, SafetensorsInfo]:
    """Reads the tensor table of one file without reading the tensor data.

    Raises:
        InvalidModelFile: the file is not a sound safetensors file; the message says why.
    """
    with path.open("rb") as file:
        file_bytes = file.seek(0, 2)
        file.seek(0)
        if file_bytes < 10:
            raise _error(path, f"it has {file_bytes} bytes, a header needs at least 10")
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise _error(
                path, f"the header claims {header_bytes} bytes, at most {MAX_HEADER_BYTES} are allowed"
            )
        if header_bytes > file_bytes - 8:
            raise _error(path, f"the header claims {header_bytes} bytes, the file has {file_bytes}")
        text = file.read(header_bytes)
    if not text.startswith(b"{"):
        raise _error(path, "the header is not a JSON object")
    header = _parse_json(path, text)
    header.pop("__metadata__", None)
    start = 8 + header_bytes
    infos = [_tensor_info(path, name, entry, start, file_bytes - start) for name, entry in header.items()]
    _check_coverage(path, infos, start, file_bytes)
    return {info.name: info for info in infos}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file of bounded size and depth, without duplicate keys.

    Raises:
        InvalidModelFile: the file does not hold such an object.
    """
    with path.open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise _error(path, f"it is larger than {MAX_JSON_BYTES} bytes")
    return _parse_json(path, text)


def _error(path: Path, reason: str) -> InvalidModelFile:
    return InvalidModelFile(
        f"{path.name} is not sound: {reason[:400]}", fix="download it again or from another source"
    )


def _single_file(directory: Path) -> Path:
    path = directory / "model.safetensors"
    if path.is_file():
        return path
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidModelFile(
            f"{directory} holds {len(found)} safetensors files and no model.safetensors.index.json",
            fix="pull the model again",
        )
    raise InvalidModelFile(
        f"{directory} holds no safetensors file", fix="give the directory that holds the weights"
    )


def _is_plain_file_name(name: str) -> bool:
    return name.endswith(".safetensors") and not any(char in name for char in "/\\:\0") and name[0] != "."


def _parse_json(path: Path, text: bytes) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise _error(path, "a JSON object has the same key twice")
        return result

    try:
        value = json.loads(text, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _error(path, f"it is not JSON ({str(error)[:80]})") from None
    if not isinstance(value, dict):
        raise _error(path, "it is not a JSON object")
    return cast("dict[str, Any]", value)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _tensor_info(path: Path, name: str, entry: Any, start: int, data_bytes: int) -> SafetensorsInfo:
    """Parses one entry of the header; `start` is the file offset of the data section."""
    what = f"tensor {name[:80]!r}"
    if not isinstance(entry, dict):
        raise _error(path, f"{what} is not described by an object")
    fields = cast("dict[str, Any]", entry)
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _error(path, f"{what} has the unknown dtype {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or len(cast("list[Any]", shape)) > MAX_DIMS:
        raise _error(path, f"{what} has no shape of at most {MAX_DIMS} dimensions")
    extents = cast("list[Any]", shape)
    if not all(_is_size(extent) for extent in extents):
        raise _error(path, f"{what} has a shape that is not made of sizes")
    if not isinstance(offsets, list) or len(cast("list[Any]", offsets)) != 2:
        raise _error(path, f"{what} has no pair of data_offsets")
    begin, end = cast("list[Any]", offsets)
    if not _is_size(begin) or not _is_size(end) or not begin <= end <= data_bytes:
        raise _error(path, f"{what} lies at {begin}..{end}, the data section has {data_bytes} bytes")
    nbytes = DTYPE_BYTES[dtype]
    for extent in extents:
        nbytes *= extent
    if nbytes != end - begin:
        raise _error(path, f"{what} of shape {extents} needs {nbytes} bytes, its offsets span {end - begin}")
    return SafetensorsInfo(name, tuple(extents), dtype, path, start + begin, nbytes)


def _check_coverage(path: Path, infos: list[SafetensorsInfo], start: int, file_bytes: int) -> None:
    """Checks that the tensors follow one another without overlaps or holes up to the end of the file."""
    position, previous = start, "the header"
    for info in sorted(infos, key=lambda info: (info.offset, info.nbytes)):
        if info.offset != position:
            problem = "overlap" if info.offset < position else "leave a hole"
            raise _error(path, f"{previous[:80]!r} and {info.name[:80]!r} {problem}")
        position, previous = info.offset + info.nbytes, info.name
    if position != file_bytes:
        raise _error(path, f"{file_bytes - position} bytes after the last tensor belong to none")

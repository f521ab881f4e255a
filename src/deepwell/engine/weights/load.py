"""Streams a checkpoint into packed matrices, and keeps them in a file that the next start reads.

The packed file (`*.dwpack`, little endian) holds magic, header length, CRC-32 of the header, a JSON header (fingerprint,
tensor table with offsets and checksums), then the data, each tensor 64-byte aligned. The fingerprint covers format
version, precision, configuration and source. A file with another fingerprint is rebuilt, and so is one whose bytes do not
match their checksums.

Files of `MAP_BYTES` and more are mapped instead of read, so a start takes no time and memory holds them only once. Their
header, table and size are always checked, but their checksums only by `verify_packed` (`deepwell models verify`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures import tensor_plan
from deepwell.engine.architectures.tensors import MatrixPlan, TensorPlan, VectorPlan, row_map
from deepwell.engine.layouts import PANEL, Precision, Scheme
from deepwell.engine.weights.packed import PackedMatrix, Weights
from deepwell.engine.weights.quantize import (
    FLOATS,
    QuantizationReport,
    Quantized,
    decode_q4_0,
    decode_q4_1,
    decode_q4_k,
    interleave_gate_up,
    layout,
    packed_nbytes,
    quantize,
)
from deepwell.errors import InvalidModelFile, InvalidRequest
from deepwell.models.formats.checkpoint import Checkpoint, StoredTensor
from deepwell.models.formats.config import ModelConfig
from deepwell.process.turns import Turn

__all__ = [
    "load_weights",
    "resolve_precision",
    "verify_packed",
    "weights_fingerprint",
    "weights_nbytes",
    "write_packed",
]

Progress = Callable[[int, int], None]  # bytes packed, total bytes

log = logging.getLogger(__name__)

FORMAT_VERSION: Final = 2
MAGIC: Final = b"DWPACK\r\n"  # the line ending reveals a transfer in text mode
MAX_HEADER_BYTES: Final = 64 << 20
ALIGNMENT: Final = 64
HUGE_PAGE: Final = 2 << 20
_PREFIX: Final = struct.Struct("<8sII")  # magic, header bytes, header CRC-32
_CHUNK_WEIGHTS: Final = 1 << 22  # weights quantised at a time: 16 MB of float32
# Between two chances of other processes to compute: some 5 ms of one core, up to 25 ms where 6-bit blocks are decoded.
_SLICE_WEIGHTS: Final = 1 << 18
_SLICE_BYTES: Final = 8 << 20
_RELEASE_BYTES: Final = 64 << 20  # packed bytes after which the pages read so far are released
_READ_BYTES: Final = 1 << 30  # Linux reads at most 2 GiB per call
# Packed files of this size are mapped, because reading them takes a second or two per 4 GiB
MAP_BYTES: Final = 4 << 30

_SCHEMES: Final[dict[Precision, dict[str, Scheme]]] = {
    "fp32": {"body": "fp32", "embedding": "fp32"},
    "bf16": {"body": "bf16", "embedding": "bf16"},
    "fp16": {"body": "fp16", "embedding": "fp16"},
    "int8": {"body": "int8", "embedding": "int8"},
    "int4": {"body": "int4", "embedding": "int8"},
    "int4-full": {"body": "int4", "embedding": "int4"},
}


@dataclass(frozen=True, slots=True)
class _Slot:
    """The position of one tensor in the buffer; `scheme` is None for a vector."""

    name: str
    scheme: Scheme | None
    offset: int
    nbytes: int


# GGUF blocks whose integers int4 uses unchanged.
_DECODE_INT4: Final[dict[str, Callable[[NDArray[np.uint8], int], Quantized]]] = {
    "Q4_0": decode_q4_0,
    "Q4_1": decode_q4_1,
    "Q4_K": decode_q4_k,
}


def resolve_precision(
    requested: Precision | Literal["auto"], checkpoint: Checkpoint
) -> tuple[Precision, str]:
    """Returns the precision to run at, and the reason. With "auto", 4-bit sources run as int4, everything else as int8.

    An encoder whose token embedding is stored in blocks that int4 takes unchanged runs as int4-full: nothing is rounded twice.

    Raises:
        InvalidRequest: a model that exists only in packed form was requested in another precision.
    """
    if checkpoint.packed_precision is not None:
        packed = cast("Precision", checkpoint.packed_precision)
        if packed not in _SCHEMES or requested not in ("auto", packed):
            raise InvalidRequest(
                f"{checkpoint.paths[0].name} holds weights packed as {packed} and no others",
                fix="leave --precision away" if packed in _SCHEMES else "write it again",
                param="precision",
            )
        return packed, "the weights are packed so"
    if requested != "auto":
        return requested, f"{requested} was asked for"
    if checkpoint.source_bits == 4:
        if checkpoint.config.is_encoder and _keeps_embedding(checkpoint):
            return "int4-full", "all matrices of the source are 4-bit, and are taken as they are"
        return "int4", "most weights of the source are 4-bit"
    return "int8", f"most weights of the source are {checkpoint.source_bits}-bit"


def _keeps_embedding(checkpoint: Checkpoint) -> bool:
    """Returns whether int4 takes the token embedding of an encoder without a second rounding."""
    (embedding,) = (one for one in tensor_plan(checkpoint.config).matrices if one.role == "embedding")
    return all(checkpoint.tensor(name).dtype in _DECODE_INT4 for name in embedding.sources)


def weights_nbytes(config: ModelConfig, precision: Precision) -> int:
    """Returns the bytes of the packed weights, in memory and on disk (without the file's header)."""
    return _slots(tensor_plan(config), precision)[1]


def load_weights(
    checkpoint: Checkpoint,
    precision: Precision,
    cache_dir: Path | None = None,
    *,
    progress: Progress | None = None,
    map_bytes: int = MAP_BYTES,
    turn: Turn | None = None,
) -> Weights:
    """Reads the packed file of this checkpoint and precision in `cache_dir`, or packs the weights and writes it.

    Without `cache_dir`, or if it cannot be written, the weights are packed only in memory. In addition to the weights,
    packing needs some tens of megabytes, regardless of the size of the model. Packed files of `map_bytes` and more are
    mapped. With a `turn`, reading and packing are done in slices of some milliseconds, between which other processes compute.

    Raises:
        InvalidModelFile: a tensor holds values that are not finite, or too large for float16; or the weights exist only
            in packed form, and that file is damaged.
    """
    try:
        return _loaded(checkpoint, precision, cache_dir, progress, map_bytes, turn)
    finally:
        if turn is not None:
            turn.give()


def _loaded(
    checkpoint: Checkpoint,
    precision: Precision,
    cache_dir: Path | None,
    progress: Progress | None,
    map_bytes: int,
    turn: Turn | None,
) -> Weights:
    config = checkpoint.config
    plan = tensor_plan(config)
    slots, nbytes = _slots(plan, precision)
    if checkpoint.packed_precision is not None:
        try:
            path = checkpoint.paths[0]
            buffer, report, fingerprint = _open_packed(path, None, slots, nbytes, map_bytes, turn)
        except (OSError, _UntrustedFileError) as error:
            raise InvalidModelFile(f"{checkpoint.paths[0]}: {error}", fix="write or copy it again") from error
        return _views(config, precision, plan, slots, buffer, fingerprint, report)
    fingerprint = weights_fingerprint(checkpoint, precision)
    path = cache_dir / f"{_cache_stem(checkpoint)}-{precision}.dwpack" if cache_dir else None

    loaded = _read_packed(path, fingerprint, slots, nbytes, map_bytes, turn) if path else None
    if loaded is not None:
        buffer, report = loaded
    else:
        buffer = _allocate(nbytes)
        report = _pack_all(checkpoint, plan, slots, buffer, progress, turn)
        if path is not None:
            _write_packed(path, fingerprint, slots, buffer, report, turn)
    checkpoint.release_pages()
    return _views(config, precision, plan, slots, buffer, fingerprint, report)


def _slots(plan: TensorPlan, precision: Precision) -> tuple[dict[str, _Slot], int]:
    slots: dict[str, _Slot] = {}
    offset = 0
    for matrix in plan.matrices:
        scheme = _SCHEMES[precision][matrix.role]
        nbytes = packed_nbytes(matrix.rows, matrix.cols, scheme)  # whole blocks: a multiple of 64
        slots[matrix.name] = _Slot(matrix.name, scheme, offset, nbytes)
        offset += nbytes
    for vector in plan.vectors:
        nbytes = -(-4 * vector.size // ALIGNMENT) * ALIGNMENT
        slots[vector.name] = _Slot(vector.name, None, offset, nbytes)
        offset += nbytes
    return slots, offset


def _views(
    config: ModelConfig,
    precision: Precision,
    plan: TensorPlan,
    slots: dict[str, _Slot],
    buffer: NDArray[np.uint8],
    fingerprint: str,
    report: dict[str, QuantizationReport],
) -> Weights:
    def data(name: str) -> NDArray[np.uint8]:
        return buffer[slots[name].offset :][: slots[name].nbytes]

    matrices = {
        matrix.name: PackedMatrix(
            data(matrix.name), matrix.rows, matrix.cols, _SCHEMES[precision][matrix.role]
        )
        for matrix in plan.matrices
    }
    vectors = {vector.name: data(vector.name).view(np.float32)[: vector.size] for vector in plan.vectors}
    return Weights(config, precision, matrices, vectors, len(buffer), fingerprint, report)


def packed_files(checkpoint: Checkpoint, cache_dir: Path) -> list[Path]:
    """Returns the packed files of a checkpoint in `cache_dir`, one for each precision that it was loaded in."""
    return sorted(cache_dir.glob(f"{_cache_stem(checkpoint)}-*.dwpack"))


def _cache_stem(checkpoint: Checkpoint) -> str:
    return hashlib.sha256(checkpoint.fingerprint.encode()).hexdigest()[:16]


def weights_fingerprint(checkpoint: Checkpoint, precision: Precision) -> str:
    """Returns the digest of format version, precision, configuration and source that packed weights carry."""
    key = f"{FORMAT_VERSION}|{precision}|{checkpoint.config!r}|{checkpoint.fingerprint}"
    return hashlib.sha256(key.encode()).hexdigest()


def _pack_all(
    checkpoint: Checkpoint,
    plan: TensorPlan,
    slots: dict[str, _Slot],
    buffer: NDArray[np.uint8],
    progress: Progress | None,
    turn: Turn | None,
) -> dict[str, QuantizationReport]:
    report: dict[str, QuantizationReport] = {}
    chunk_weights = _CHUNK_WEIGHTS if turn is None else _SLICE_WEIGHTS
    for matrix in plan.matrices:
        slot = slots[matrix.name]
        assert slot.scheme is not None
        noise = _Noise()
        position = released = slot.offset
        _next_slice(turn)
        for quantized in _quantized_chunks(checkpoint, matrix, slot.scheme, noise, chunk_weights):
            packed = layout(quantized, slot.scheme)
            buffer[position : position + packed.nbytes] = packed
            position += packed.nbytes
            if position - released > _RELEASE_BYTES:  # stacked experts can be as large as a model
                checkpoint.release_pages()
                released = position
            if progress is not None:
                progress(position, len(buffer))
            _next_slice(turn)
        assert position == slot.offset + slot.nbytes
        report[matrix.name] = noise.report()
        checkpoint.release_pages()
    for vector in plan.vectors:
        slot = slots[vector.name]
        buffer[slot.offset :][: 4 * vector.size].view(np.float32)[:] = _vector(checkpoint, vector)
    if progress is not None:
        progress(len(buffer), len(buffer))
    return report


def _next_slice(turn: Turn | None) -> None:
    """Lets other processes compute if they wait and this one has computed for long enough."""
    if turn is not None:
        turn.offer()
        turn.take()


class _Noise:
    """Signal and noise energies of one matrix, summed over its chunks."""

    def __init__(self) -> None:
        self.signal = self.noise = self.max_error = 0.0

    def add(self, weights: NDArray[np.float32], quantized: Quantized, scheme: Scheme) -> None:
        error = quantized.dequantized(scheme)[:, : weights.shape[1]]
        error -= weights
        self.signal += float(np.vdot(weights, weights))
        self.noise += float(np.vdot(error, error))
        self.max_error = max(self.max_error, float(error.max(initial=0)), -float(error.min(initial=0)))

    def report(self) -> QuantizationReport:
        exact = self.noise == 0
        sqnr_db = math.inf if exact else 10 * math.log10(max(self.signal, 1e-300) / self.noise)
        return QuantizationReport(sqnr_db, self.max_error)


def _vector(checkpoint: Checkpoint, vector: VectorPlan) -> NDArray[np.float32]:
    values = np.concatenate([checkpoint.tensor(source).float32().reshape(-1) for source in vector.sources])
    if not np.isfinite(values).all():
        raise InvalidModelFile(f"{vector.sources[0]} holds values that are not finite")
    return values


def _quantized_chunks(
    checkpoint: Checkpoint, matrix: MatrixPlan, scheme: Scheme, noise: _Noise, chunk_weights: int
) -> Iterator[Quantized]:
    """Yields the quantised matrix in order, in runs of whole panels (except the last)."""
    if matrix.order == "transpose":
        yield from _transposed_chunks(checkpoint, matrix, scheme, noise, chunk_weights)
        return
    sources = [_Source(checkpoint.tensor(name), matrix.cols, scheme) for name in matrix.sources]
    step = max(PANEL, chunk_weights // matrix.cols // PANEL * PANEL)
    if not matrix.plain:
        source, row = row_map(matrix, [each.row_count for each in sources])
        for start in range(0, matrix.rows, step):
            chunk = slice(start, min(start + step, matrix.rows))
            yield _gathered(sources, source[chunk], row[chunk], noise)
        return
    for start in range(0, matrix.rows, step):
        stop = min(start + step, matrix.rows)
        if matrix.order == "interleave":
            yield _interleaved([source.rows(start // 2, stop // 2, noise) for source in sources])
            continue
        parts: list[Quantized] = []
        first = 0
        for source in sources:
            begin, end = max(start - first, 0), min(stop - first, source.row_count)
            if begin < end:
                parts.append(source.rows(begin, end, noise))
            first += source.row_count
        yield _concatenated(parts)


class _Source:
    """One stored tensor as a source of quantised rows."""

    def __init__(self, tensor: StoredTensor, cols: int, scheme: Scheme) -> None:
        self.row_count = tensor.shape[0]
        self._tensor, self._cols = tensor, cols
        self._scheme: Scheme = scheme
        self._decode = _DECODE_INT4.get(tensor.dtype) if scheme == "int4" else None

    def rows(self, start: int, stop: int, noise: _Noise) -> Quantized:
        """Returns rows start..stop. Rows beyond the last are left out (the interleaving pads them)."""
        return self.take(slice(start, min(stop, self.row_count)), noise)

    def take(self, rows: slice | NDArray[np.intp], noise: _Noise) -> Quantized:
        """Returns the given rows, in the given order."""
        weights = self._tensor.float32(rows)
        if self._decode is not None:
            quantized = self._decode(self._tensor.raw_rows(rows), self._cols)
        else:
            if weights.shape[1] != self._cols:  # `down` is widened to the padded intermediate size
                weights = np.pad(weights, ((0, 0), (0, self._cols - weights.shape[1])))
            quantized = quantize(weights, self._scheme)
        noise.add(weights, quantized, self._scheme)
        _check_finite(quantized, self._scheme, self._tensor.name)
        return quantized


def _gathered(
    sources: list[_Source], source: NDArray[np.int32], row: NDArray[np.intp], noise: _Noise
) -> Quantized:
    """Gathers rows from several sources, with zeros where the source is -1."""
    arrays: list[NDArray[Any]] = []
    first = int(source.min(initial=len(sources), where=source >= 0))
    for index in range(first, int(source.max()) + 1):
        places = np.flatnonzero(np.equal(source, index))
        part = sources[index].take(row[places], noise)
        if not arrays:
            arrays = [np.zeros((len(source), a.shape[1]), a.dtype) for a in (part.q, part.d, part.m)]
        for whole, piece in zip(arrays, (part.q, part.d, part.m), strict=True):
            if piece.shape[1]:  # floats have no scales
                whole[places] = piece
    q, d, m = arrays
    return Quantized(q, d, m)


def _transposed_chunks(
    checkpoint: Checkpoint, matrix: MatrixPlan, scheme: Scheme, noise: _Noise, chunk_weights: int
) -> Iterator[Quantized]:
    """Yields the transposed heads, several at a time. The selected rows of a head become columns."""
    tensor, selection = checkpoint.tensor(matrix.sources[0]), matrix.heads[0]
    assert selection is not None and selection.count == matrix.cols
    head_rows = matrix.rows // selection.heads
    order = selection.order().reshape(selection.heads, selection.count)
    step = max(1, chunk_weights // (matrix.cols * head_rows))
    for start in range(0, selection.heads, step):
        taken = order[start : start + step]
        stored = tensor.float32(taken.reshape(-1)).reshape(*taken.shape, -1)  # [heads, cols, stored columns]
        weights = np.zeros((len(taken), head_rows, matrix.cols), np.float32)
        weights[:, : stored.shape[2]] = stored.swapaxes(1, 2)
        rows = weights.reshape(-1, matrix.cols)
        quantized = quantize(rows, scheme)
        noise.add(rows, quantized, scheme)
        _check_finite(quantized, scheme, tensor.name)
        yield quantized


def _check_finite(quantized: Quantized, scheme: Scheme, name: str) -> None:
    if not quantized.is_finite(scheme):
        limit = scheme if scheme in FLOATS else "a float16 scale"
        raise InvalidModelFile(f"{name} holds values that are not finite, or too large for {limit}")


def _concatenated(parts: list[Quantized]) -> Quantized:
    if len(parts) == 1:
        return parts[0]
    return Quantized(
        np.concatenate([part.q for part in parts]),
        np.concatenate([part.d for part in parts]),
        np.concatenate([part.m for part in parts]),
    )


def _interleaved(halves: list[Quantized]) -> Quantized:
    gate, up = halves
    return Quantized(
        interleave_gate_up(gate.q, up.q), interleave_gate_up(gate.d, up.d), interleave_gate_up(gate.m, up.m)
    )


def _allocate(nbytes: int) -> NDArray[np.uint8]:
    """Allocates an anonymous buffer, 2 MiB aligned, on huge pages if the system has them.

    Decoding streams all weights once per token, and reads 1.4 times faster from 2 MiB pages than from 4 KiB ones
    (measured on two cores of a Zen 4 server).
    """
    # Private, because the default, shared memory, gets no huge pages.
    region = mmap.mmap(-1, nbytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without transparent huge pages
            region.madvise(mmap.MADV_HUGEPAGE)
    buffer = np.frombuffer(region, np.uint8)
    start = -buffer.ctypes.data % HUGE_PAGE
    return buffer[start : start + nbytes]


def _checksum(data: NDArray[np.uint8]) -> int:
    """Returns the sum of the 64-bit words modulo 2**64. It runs at memory speed, but does not detect reordering."""
    return int(np.add.reduce(data.view("<u8"), dtype=np.uint64))


def _header(fingerprint: str, nbytes: int, table: dict[str, dict[str, Any]], size: int = 0) -> bytes:
    """Returns prefix and JSON, padded to whole pages or to `size` bytes, whichever is more."""
    text = json.dumps({"fingerprint": fingerprint, "nbytes": nbytes, "tensors": table}).encode()
    whole = max(size, -(-(_PREFIX.size + len(text)) // mmap.PAGESIZE) * mmap.PAGESIZE)
    text += b" " * (whole - _PREFIX.size - len(text))
    return _PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text


def _write_packed(
    path: Path,
    fingerprint: str,
    slots: dict[str, _Slot],
    buffer: NDArray[np.uint8],
    report: dict[str, QuantizationReport],
    turn: Turn | None,
) -> None:
    """Writes a temporary file and renames it to `path`, so that a reader sees a whole file or none.

    An error such as a full disk is only logged.
    """
    table: dict[str, dict[str, Any]] = {}
    for slot in slots.values():
        _next_slice(turn)
        entry: dict[str, Any] = {
            "scheme": slot.scheme,
            "offset": slot.offset,
            "nbytes": slot.nbytes,
            "checksum": _checksum(buffer[slot.offset :][: slot.nbytes]),
        }
        if slot.name in report:
            quality = report[slot.name]
            entry["sqnr_db"] = None if math.isinf(quality.sqnr_db) else quality.sqnr_db
            entry["max_error"] = quality.max_error
        table[slot.name] = entry
    header = _header(fingerprint, len(buffer), table)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary_name = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
        temporary = Path(temporary_name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(header)
            for start in range(0, len(buffer), _SLICE_BYTES):
                _next_slice(turn)
                file.write(memoryview(buffer[start : start + _SLICE_BYTES].data))
            file.flush()
            if turn is not None:
                turn.give()  # the disk's time is not the cores'
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        log.warning("cannot keep the packed weights at %s (%s): the next start packs them again", path, error)


def _read_packed(
    path: Path, fingerprint: str, slots: dict[str, _Slot], nbytes: int, map_bytes: int, turn: Turn | None
) -> tuple[NDArray[np.uint8], dict[str, QuantizationReport]] | None:
    """Returns the buffer and report of a packed file, or None if there is no trustworthy file."""
    try:
        buffer, report, _ = _open_packed(path, fingerprint, slots, nbytes, map_bytes, turn)
    except FileNotFoundError:
        return None
    except (OSError, _UntrustedFileError) as error:
        log.warning("packing the weights again, since %s cannot be used: %s", path, error)
        return None
    return buffer, report


def _open_packed(
    path: Path,
    fingerprint: str | None,
    slots: dict[str, _Slot],
    nbytes: int,
    map_bytes: int,
    turn: Turn | None,
) -> tuple[NDArray[np.uint8], dict[str, QuantizationReport], str]:
    """Returns the buffer, report and fingerprint of a packed file. It must have `fingerprint`, unless that is None."""
    with path.open("rb", buffering=0) as file:
        found, table = _read_header(file.read(_PREFIX.size), file.read, fingerprint, slots, nbytes)
        start = file.tell()
        if os.fstat(file.fileno()).st_size != start + nbytes:
            raise _UntrustedFileError("its size is wrong")
        if nbytes >= map_bytes:
            buffer = _map(file.fileno(), start, nbytes)
        else:
            buffer = _read(file, slots, table, nbytes, turn)
    report = {
        name: QuantizationReport(
            math.inf if entry["sqnr_db"] is None else float(entry["sqnr_db"]), float(entry["max_error"])
        )
        for name, entry in table.items()
        if "sqnr_db" in entry
    }
    return buffer, report, found


def _map(descriptor: int, start: int, nbytes: int) -> NDArray[np.uint8]:
    """Maps the file read-only, on huge pages if the system has them for files. Nothing is read yet."""
    mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without transparent huge pages
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapped, np.uint8, nbytes, start)


def _read(
    file: FileIO, slots: dict[str, _Slot], table: dict[str, dict[str, Any]], nbytes: int, turn: Turn | None
) -> NDArray[np.uint8]:
    """Reads the rest of the file into memory and compares its checksums."""
    buffer = _allocate(nbytes)
    view = memoryview(buffer.data)
    piece_bytes = _READ_BYTES if turn is None else _SLICE_BYTES
    for slot in slots.values():
        position, end = slot.offset, slot.offset + slot.nbytes
        while position < end:
            count = _read_into(file, view[position : min(end, position + piece_bytes)], turn)
            if not count:
                raise _UntrustedFileError("it ends early")
            position += count
        if _checksum(buffer[slot.offset : end]) != table[slot.name]["checksum"]:
            raise _UntrustedFileError(f"the bytes of {slot.name} have changed")
    return buffer


def _read_into(file: FileIO, piece: memoryview, turn: Turn | None) -> int:
    """Reads the next bytes of a file. A piece that lies in memory is copied in a turn; the disk is waited for in none."""
    if turn is not None:
        _next_slice(turn)
        with contextlib.suppress(OSError):  # not in memory, or a file system that cannot tell
            count = os.preadv(file.fileno(), [piece], file.tell(), os.RWF_NOWAIT)
            file.seek(count, os.SEEK_CUR)
            if count:
                return count
        turn.give()
    return file.readinto(piece) or 0


def verify_packed(path: Path, *, progress: Progress | None = None) -> list[str]:
    """Reads a whole packed file and returns the names of tensors whose bytes do not match their checksums.

    Raises:
        InvalidModelFile: the file is not a packed file, or its header or size is damaged.
    """
    try:
        with path.open("rb", buffering=0) as file:
            _, table, nbytes = _read_table(file.read(_PREFIX.size), file.read)
            start = file.tell()
            if os.fstat(file.fileno()).st_size != start + nbytes:
                raise _UntrustedFileError("its size is wrong")
            data = _map(file.fileno(), start, nbytes)
    except (OSError, _UntrustedFileError) as error:
        raise InvalidModelFile(f"{path}: {error}", fix="delete it: the next start packs it again") from error
    damaged: list[str] = []
    for name, entry in table.items():
        offset, size = int(entry["offset"]), int(entry["nbytes"])
        if size % 8 or _checksum(data[offset:][:size]) != entry["checksum"]:
            damaged.append(name)
        if progress is not None:
            progress(offset + size, nbytes)
    return damaged


def write_packed(
    path: Path,
    config: ModelConfig,
    precision: Precision,
    fingerprint: str,
    generate: Callable[[str, Scheme | None, int], Iterable[NDArray[np.uint8]]],
    *,
    progress: Progress | None = None,
) -> int:
    """Writes a packed file of `config` tensor by tensor, without holding it in memory.

    `generate(name, scheme, nbytes)` returns the bytes of a tensor. Vectors have the scheme None and are padded to 64 bytes
    here. The file gets its name when it is complete.

    Returns:
        The total bytes of its tensors.
    """
    slots, nbytes = _slots(tensor_plan(config), precision)
    table: dict[str, dict[str, Any]] = {
        slot.name: {
            "scheme": slot.scheme,
            "offset": slot.offset,
            "nbytes": slot.nbytes,
            "checksum": 2**64 - 1,
        }
        for slot in slots.values()
    }
    for entry in table.values():
        if entry["scheme"] is not None:
            entry |= {"sqnr_db": None, "max_error": 0.0}
    reserved = len(_header(fingerprint, nbytes, table))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.seek(reserved)
            for slot in slots.values():
                checksum = written = 0
                for part in generate(slot.name, slot.scheme, slot.nbytes):
                    padded = np.pad(part, (0, -len(part) % ALIGNMENT)) if len(part) % ALIGNMENT else part
                    file.write(padded.data)
                    checksum = (checksum + _checksum(padded)) % 2**64
                    written += len(padded)
                if written != slot.nbytes:
                    raise ValueError(f"{slot.name} takes {slot.nbytes} bytes, got {written}")
                table[slot.name]["checksum"] = checksum
                if progress is not None:
                    progress(slot.offset + slot.nbytes, nbytes)
            file.seek(0)
            file.write(_header(fingerprint, nbytes, table, reserved))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return nbytes


class _UntrustedFileError(Exception):
    """Raised for a packed file that cannot be trusted. The message says why."""


def _read_header(
    prefix: bytes,
    read: Callable[[int], bytes],
    fingerprint: str | None,
    slots: dict[str, _Slot],
    nbytes: int,
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Returns fingerprint and tensor table, after checking that they describe exactly the expected tensors."""
    found, table, described_bytes = _read_table(prefix, read)
    if fingerprint is not None and found != fingerprint:
        raise _UntrustedFileError("it was made from another source or by another version")
    described = {
        name: _Slot(name, entry.get("scheme"), entry["offset"], entry["nbytes"])
        for name, entry in table.items()
    }
    if described != slots or described_bytes != nbytes:
        raise _UntrustedFileError("its tensor table does not match the model")
    return found, table


def _read_table(prefix: bytes, read: Callable[[int], bytes]) -> tuple[str, dict[str, dict[str, Any]], int]:
    """Returns the fingerprint, the tensor table and the bytes of data in the header, after checking it."""
    if len(prefix) < _PREFIX.size:
        raise _UntrustedFileError("it is too short")
    magic, header_bytes, crc = _PREFIX.unpack(prefix)
    if magic != MAGIC or header_bytes > MAX_HEADER_BYTES:
        raise _UntrustedFileError("it is no packed file")
    header = read(header_bytes)
    if len(header) != header_bytes or zlib.crc32(header) != crc:
        raise _UntrustedFileError("its header is damaged")
    try:
        fields = json.loads(header)
        for entry in fields["tensors"].values():
            offset, size, _ = (int(entry[key]) for key in ("offset", "nbytes", "checksum"))
            if not 0 <= offset <= offset + size <= fields["nbytes"]:
                raise ValueError("a tensor lies outside of the file")
        return str(fields["fingerprint"]), fields["tensors"], int(fields["nbytes"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _UntrustedFileError(f"its header makes no sense: {error}") from error

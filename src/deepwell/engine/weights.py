"""Streams a checkpoint into packed matrices, and keeps them in a file that the next start just reads.

The packed file (`*.dwpack`, little endian): magic, header length, CRC-32 of the header, a JSON header (fingerprint,
tensor table with offsets and checksums), then the data, each tensor 64-byte aligned. The fingerprint covers format
version, precision, configuration and source, so a file that belongs to anything else is rebuilt, as is one whose bytes
do not match their checksums.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures import tensor_plan
from deepwell.engine.architectures.tensors import MatrixPlan, TensorPlan, VectorPlan
from deepwell.engine.backend import Scheme
from deepwell.engine.quantize import (
    FLOATS,
    PANEL,
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
from deepwell.errors import InvalidModelFile
from deepwell.models.checkpoint import Checkpoint, StoredTensor
from deepwell.models.config import ModelConfig

__all__ = [
    "PackedMatrix",
    "Precision",
    "Weights",
    "load_weights",
    "resolve_precision",
    "weights_nbytes",
]

Precision = Literal["fp32", "bf16", "fp16", "int8", "int4", "int4-full"]
Progress = Callable[[int, int], None]  # bytes packed, bytes in all

log = logging.getLogger(__name__)

FORMAT_VERSION: Final = 2
MAGIC: Final = b"DWPACK\r\n"  # the line ending betrays a transfer in text mode
MAX_HEADER_BYTES: Final = 64 << 20
ALIGNMENT: Final = 64
HUGE_PAGE: Final = 2 << 20
_PREFIX: Final = struct.Struct("<8sII")  # magic, header bytes, header CRC-32
_CHUNK_WEIGHTS: Final = 1 << 22  # weights quantised at a time: 16 MB of float32
_READ_BYTES: Final = 1 << 30  # Linux reads at most 2 GiB a call

_SCHEMES: Final[dict[Precision, dict[str, Scheme]]] = {
    "fp32": {"body": "fp32", "embedding": "fp32"},
    "bf16": {"body": "bf16", "embedding": "bf16"},
    "fp16": {"body": "fp16", "embedding": "fp16"},
    "int8": {"body": "int8", "embedding": "int8"},
    "int4": {"body": "int4", "embedding": "int8"},
    "int4-full": {"body": "int4", "embedding": "int4"},
}


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """The packed bytes of one matrix [rows, cols]; `quantize` specifies their layout."""

    data: NDArray[np.uint8]
    rows: int
    cols: int
    scheme: Scheme


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """All weights of a model, views into one buffer."""

    config: ModelConfig
    precision: Precision
    matrices: dict[str, PackedMatrix]
    vectors: dict[str, NDArray[np.float32]]
    nbytes: int
    fingerprint: str  # of source, configuration, precision and format: equal fingerprints, equal weights
    report: dict[str, QuantizationReport]  # per matrix


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of one tensor in the buffer; `scheme` is None for a vector."""

    name: str
    scheme: Scheme | None
    offset: int
    nbytes: int


# GGUF blocks whose integers int4 takes as they are.
_DECODE_INT4: Final[dict[str, Callable[[NDArray[np.uint8], int], Quantized]]] = {
    "Q4_0": decode_q4_0,
    "Q4_1": decode_q4_1,
    "Q4_K": decode_q4_k,
}


def resolve_precision(
    requested: Precision | Literal["auto"], checkpoint: Checkpoint
) -> tuple[Precision, str]:
    """The precision to run at, and why: with "auto", 4-bit sources run as int4, everything else as int8."""
    if requested != "auto":
        return requested, f"{requested} was asked for"
    if checkpoint.source_bits == 4:
        return "int4", "most weights of the source are 4-bit"
    return "int8", f"most weights of the source are {checkpoint.source_bits}-bit"


def weights_nbytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes the packed weights will take, in memory as on disk (but for the file's header)."""
    return _slots(tensor_plan(config), precision)[1]


def load_weights(
    checkpoint: Checkpoint,
    precision: Precision,
    cache_dir: Path | None = None,
    *,
    progress: Progress | None = None,
) -> Weights:
    """Read the packed file of this checkpoint and precision in `cache_dir`, or pack the weights and write it.

    Without `cache_dir`, and where it cannot be written, the weights are packed in memory alone. Beyond the weights
    themselves packing needs some tens of megabytes, whatever the size of the model.

    Raises:
        InvalidModelFile: a tensor holds values that are not finite, or too large for float16.
    """
    config = checkpoint.config
    plan = tensor_plan(config)
    slots, nbytes = _slots(plan, precision)
    fingerprint = _fingerprint(checkpoint, precision)
    path = cache_dir / f"{_cache_stem(checkpoint)}-{precision}.dwpack" if cache_dir else None

    loaded = _read_packed(path, fingerprint, slots, nbytes) if path else None
    if loaded is not None:
        buffer, report = loaded
    else:
        buffer = _allocate(nbytes)
        report = _pack_all(checkpoint, plan, slots, buffer, progress)
        if path is not None:
            _write_packed(path, fingerprint, slots, buffer, report)
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


def _cache_stem(checkpoint: Checkpoint) -> str:
    return hashlib.sha256(checkpoint.fingerprint.encode()).hexdigest()[:16]


def _fingerprint(checkpoint: Checkpoint, precision: Precision) -> str:
    key = f"{FORMAT_VERSION}|{precision}|{checkpoint.config!r}|{checkpoint.fingerprint}"
    return hashlib.sha256(key.encode()).hexdigest()


def _pack_all(
    checkpoint: Checkpoint,
    plan: TensorPlan,
    slots: dict[str, _Slot],
    buffer: NDArray[np.uint8],
    progress: Progress | None,
) -> dict[str, QuantizationReport]:
    report: dict[str, QuantizationReport] = {}
    for matrix in plan.matrices:
        slot = slots[matrix.name]
        assert slot.scheme is not None
        noise = _Noise()
        position = slot.offset
        for quantized in _quantized_chunks(checkpoint, matrix, slot.scheme, noise):
            packed = layout(quantized, slot.scheme)
            buffer[position : position + packed.nbytes] = packed
            position += packed.nbytes
            if progress is not None:
                progress(position, len(buffer))
        assert position == slot.offset + slot.nbytes
        report[matrix.name] = noise.report()
        checkpoint.release_pages()
    for vector in plan.vectors:
        slot = slots[vector.name]
        buffer[slot.offset :][: 4 * vector.size].view(np.float32)[:] = _vector(checkpoint, vector)
    if progress is not None:
        progress(len(buffer), len(buffer))
    return report


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
    checkpoint: Checkpoint, matrix: MatrixPlan, scheme: Scheme, noise: _Noise
) -> Iterator[Quantized]:
    """The matrix in order, in runs of whole panels (the last one excepted)."""
    sources = [_Source(checkpoint.tensor(name), matrix.cols, scheme) for name in matrix.sources]
    step = max(PANEL, _CHUNK_WEIGHTS // matrix.cols // PANEL * PANEL)
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
    """One stored tensor as a supplier of quantised rows."""

    def __init__(self, tensor: StoredTensor, cols: int, scheme: Scheme) -> None:
        self.row_count = tensor.shape[0]
        self._tensor, self._cols = tensor, cols
        self._scheme: Scheme = scheme
        self._decode = _DECODE_INT4.get(tensor.dtype) if scheme == "int4" else None

    def rows(self, start: int, stop: int, noise: _Noise) -> Quantized:
        """Rows start..stop; those beyond the last are not there (the interleaving pads them)."""
        rows = slice(start, min(stop, self.row_count))
        weights = self._tensor.float32(rows)
        if self._decode is not None:
            quantized = self._decode(self._tensor.raw_rows(rows), self._cols)
        else:
            if weights.shape[1] != self._cols:  # `down` is widened to the padded intermediate size
                weights = np.pad(weights, ((0, 0), (0, self._cols - weights.shape[1])))
            quantized = quantize(weights, self._scheme)
        noise.add(weights, quantized, self._scheme)
        if not quantized.is_finite(self._scheme):
            limit = self._scheme if self._scheme in FLOATS else "a float16 scale"
            raise InvalidModelFile(
                f"{self._tensor.name} holds values that are not finite, or too large for {limit}"
            )
        return quantized


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
    """An anonymous buffer, 2 MiB aligned, on huge pages where the system has them.

    Decoding streams all weights once a token, and reads 1.4 times faster from 2 MiB pages than from 4 KiB ones
    (measured on two cores of a Zen 4 server).
    """
    # Private: the default, shared memory, gets no huge pages.
    region = mmap.mmap(-1, nbytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without transparent huge pages
            region.madvise(mmap.MADV_HUGEPAGE)
    buffer = np.frombuffer(region, np.uint8)
    start = -buffer.ctypes.data % HUGE_PAGE
    return buffer[start : start + nbytes]


def _checksum(data: NDArray[np.uint8]) -> int:
    """Sum of the 64-bit words modulo 2**64: as fast as memory, and blind only to reordering."""
    return int(np.add.reduce(data.view("<u8"), dtype=np.uint64))


def _write_packed(
    path: Path,
    fingerprint: str,
    slots: dict[str, _Slot],
    buffer: NDArray[np.uint8],
    report: dict[str, QuantizationReport],
) -> None:
    """Write beside `path`, then rename: a reader sees a whole file or none. A full disk costs a warning."""
    table: dict[str, dict[str, Any]] = {}
    for slot in slots.values():
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
    header = json.dumps({"fingerprint": fingerprint, "nbytes": len(buffer), "tensors": table}).encode()
    header += b" " * (-(_PREFIX.size + len(header)) % mmap.PAGESIZE)

    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary_name = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
        temporary = Path(temporary_name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_PREFIX.pack(MAGIC, len(header), zlib.crc32(header)))
            file.write(header)
            file.write(memoryview(buffer.data))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        log.warning("cannot keep the packed weights at %s (%s): the next start packs them again", path, error)


def _read_packed(
    path: Path, fingerprint: str, slots: dict[str, _Slot], nbytes: int
) -> tuple[NDArray[np.uint8], dict[str, QuantizationReport]] | None:
    """The buffer and report of a packed file, or None when there is none that can be trusted."""
    try:
        with path.open("rb", buffering=0) as file:
            table = _read_header(file.read(_PREFIX.size), file.read, fingerprint, slots, nbytes)
            if os.fstat(file.fileno()).st_size != file.tell() + nbytes:
                raise _UntrustedFileError("its size is wrong")
            buffer = _allocate(nbytes)
            view = memoryview(buffer.data)
            for slot in slots.values():
                position, end = slot.offset, slot.offset + slot.nbytes
                while position < end:
                    count = file.readinto(view[position : min(end, position + _READ_BYTES)])
                    if not count:
                        raise _UntrustedFileError("it ends early")
                    position += count
                if _checksum(buffer[slot.offset : end]) != table[slot.name]["checksum"]:
                    raise _UntrustedFileError(f"the bytes of {slot.name} have changed")
    except FileNotFoundError:
        return None
    except (OSError, _UntrustedFileError) as error:
        log.warning("packing the weights again, since %s cannot be used: %s", path, error)
        return None
    report = {
        name: QuantizationReport(
            math.inf if entry["sqnr_db"] is None else float(entry["sqnr_db"]), float(entry["max_error"])
        )
        for name, entry in table.items()
        if "sqnr_db" in entry
    }
    return buffer, report


class _UntrustedFileError(Exception):
    """A packed file that must be rebuilt; the message says why."""


def _read_header(
    prefix: bytes,
    read: Callable[[int], bytes],
    fingerprint: str,
    slots: dict[str, _Slot],
    nbytes: int,
) -> dict[str, dict[str, Any]]:
    """The tensor table, once it is proved to describe exactly the tensors that are expected."""
    if len(prefix) < _PREFIX.size:
        raise _UntrustedFileError("it is too short")
    magic, header_bytes, crc = _PREFIX.unpack(prefix)
    if magic != MAGIC or header_bytes > MAX_HEADER_BYTES:
        raise _UntrustedFileError("it is no packed file")
    header = read(header_bytes)
    if len(header) != header_bytes or zlib.crc32(header) != crc:
        raise _UntrustedFileError("its header is damaged")
    fields: dict[str, Any] = json.loads(header)
    if fields.get("fingerprint") != fingerprint:
        raise _UntrustedFileError("it was made from another source or by another version")
    table: dict[str, dict[str, Any]] = fields["tensors"]
    described = {
        name: _Slot(name, entry["scheme"], entry["offset"], entry["nbytes"]) for name, entry in table.items()
    }
    if described != slots or fields["nbytes"] != nbytes:
        raise _UntrustedFileError("its tensor table does not match the model")
    return table

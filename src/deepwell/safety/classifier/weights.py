"""The file of weights: a safetensors file of a few small tensors, read without trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile
from deepwell.models.formats.safetensors import read_safetensors_header
from deepwell.safety.classifier.features import BUCKET_BITS

__all__ = ["CATEGORIES", "SHIPPED", "Weights", "read_weights", "write_weights"]

CATEGORIES: Final = ("injection", "jailbreak", "harmful")
SHIPPED: Final = Path(__file__).with_name("weights.safetensors")
"""The weights of the package. `card.toml` beside them says what they were made from."""

COLUMNS: Final = 4
"""int8 values a bucket: one for each category, and one that fills a 32-bit word."""
MAX_WINDOWS: Final = 8
LONGEST_WINDOW: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Weights:
    """A trained classifier.

    Attributes:
        table: int8 [2**18, 4]; a row for each bucket, a column for each category and one that is not used.
        scales: float32 [3]; value of one unit of the table.
        biases: float32 [3].
        thresholds: float32 [3]; a window at or above it is a finding.
        slopes: float32 [3]; score of a finding = 1 / (1 + exp(-slope * (logit - threshold) - offset)).
        offsets: float32 [3].
        windows: int32 [sizes]; lengths of the sliding windows, in characters.
    """

    table: NDArray[np.int8]
    scales: NDArray[np.float32]
    biases: NDArray[np.float32]
    thresholds: NDArray[np.float32]
    slopes: NDArray[np.float32]
    offsets: NDArray[np.float32]
    windows: NDArray[np.int32]


_VECTORS: Final = ("biases", "offsets", "scales", "slopes", "thresholds")
_TYPES: Final = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4"), "I8": np.dtype("i1")}


def read_weights(path: Path = SHIPPED) -> Weights:
    """Returns the weights in a file.

    Raises:
        InvalidModelFile: the file is no safetensors file, or its tensors are not those of this classifier.
    """
    shapes: dict[str, tuple[tuple[int, ...], str]] = {name: ((len(CATEGORIES),), "F32") for name in _VECTORS}
    shapes["table"] = ((1 << BUCKET_BITS, COLUMNS), "I8")
    header = read_safetensors_header(path)
    if set(header) != {*shapes, "windows"}:
        raise _error(path, f"it holds {sorted(header)[:9]} and not {sorted({*shapes, 'windows'})}")
    for name, (shape, dtype) in shapes.items():
        if (header[name].shape, header[name].dtype) != (shape, dtype):
            raise _error(
                path,
                f"`{name}` is {header[name].dtype} {list(header[name].shape)}, not {dtype} {list(shape)}",
            )
    windows = header["windows"]
    if windows.dtype != "I32" or len(windows.shape) != 1 or not 1 <= windows.shape[0] <= MAX_WINDOWS:
        raise _error(path, f"`windows` must be 1 to {MAX_WINDOWS} lengths in I32")
    data = path.read_bytes()
    tensors: dict[str, Any] = {
        name: np.frombuffer(
            data, _TYPES[one.dtype], count=int(np.prod(one.shape)), offset=one.offset
        ).reshape(one.shape)
        for name, one in header.items()
    }
    if not all(np.isfinite(tensors[name]).all() for name in _VECTORS) or (tensors["scales"] <= 0).any():
        raise _error(path, "a scale, bias or threshold is no usable number")
    if ((tensors["windows"] < 16) | (tensors["windows"] > LONGEST_WINDOW)).any():
        raise _error(path, f"a window is not 16 to {LONGEST_WINDOW} characters long")
    return Weights(**tensors)


def write_weights(weights: Weights, path: Path) -> None:
    """Writes weights as a safetensors file. The same weights give the same bytes."""
    from safetensors.numpy import save_file

    names = (*_VECTORS, "table", "windows")
    save_file({name: np.ascontiguousarray(getattr(weights, name)) for name in names}, path)


def _error(path: Path, reason: str) -> InvalidModelFile:
    return InvalidModelFile(
        f"{path} is no file of classifier weights: {reason}",
        fix="restore it from the package, or train it again with `deepwell guard train`",
    )

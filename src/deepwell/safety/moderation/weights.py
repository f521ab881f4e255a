"""The file of moderation's weights: a safetensors file of six small tensors, read without trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile
from deepwell.models.formats.safetensors import read_safetensors_header
from deepwell.safety.moderation.features import BUCKETS, MEASURES

__all__ = ["MOST", "SHIPPED", "Weights", "read_weights", "write_weights"]

SHIPPED: Final = Path(__file__).with_name("weights.safetensors")
"""The weights of the package. `card.toml` beside them says what they were made from."""

MOST: Final = 4.0
"""A figure counts as at most so many standard deviations."""

_SHAPES: Final = {
    "centres": (len(MEASURES),),
    "scales": (len(MEASURES),),
    "measures": (len(MEASURES),),
    "grams": (BUCKETS,),
    "idf": (BUCKETS,),
    "line": (3,),
}
_TYPES: Final = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


@dataclass(frozen=True, slots=True)
class Weights:
    """A linear model.

    Attributes:
        measures: float32 [65]; weights of the figures, which count in standard deviations.
        centres: float32 [65]; means of the figures.
        scales: float32 [65]; standard deviations of the figures.
        grams: float32 [32768]; weights of the buckets.
        idf: float32 [32768]; inverse frequencies of the buckets in texts.
        line: float32 [3]; mean score, and slope and offset of the logistic function.
    """

    measures: NDArray[np.float32]
    centres: NDArray[np.float32]
    scales: NDArray[np.float32]
    grams: NDArray[np.float32]
    idf: NDArray[np.float32]
    line: NDArray[np.float32]

    def output(self, measures: NDArray[np.float64], buckets: NDArray[np.int64]) -> float:
        """Returns the score that people would give a text, of its figures and its buckets; not bounded."""
        idf = self.idf[buckets].astype(np.float64)
        gram = float(self.grams[buckets] @ idf) / (float(np.sqrt(idf @ idf)) or 1.0)
        figures = np.clip((measures - self.centres) / self.scales, -MOST, MOST)
        return float(self.line[0]) + gram + float(figures @ self.measures)

    def probability(self, output: float) -> float:
        """Returns how likely people find a text harmful."""
        return float(1 / (1 + np.exp(-np.clip(self.line[1] * output + self.line[2], -30, 30))))


def read_weights(path: Path = SHIPPED) -> Weights:
    """Returns the weights in a file.

    Raises:
        InvalidModelFile: the file is no safetensors file, or its tensors are not those of moderation.
    """
    header = read_safetensors_header(path)
    if set(header) != set(_SHAPES):
        raise _error(path, f"it holds {sorted(header)[:9]} and not {sorted(_SHAPES)}")
    data = path.read_bytes()
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in _SHAPES.items():
        one = header[name]
        if one.shape != shape or one.dtype not in _TYPES:
            raise _error(path, f"`{name}` is {one.dtype} {list(one.shape)}, not F32 or F16 {list(shape)}")
        values = np.frombuffer(data, _TYPES[one.dtype], count=shape[0], offset=one.offset)
        tensors[name] = values.astype(np.float32)
        if not np.isfinite(tensors[name]).all():
            raise _error(path, f"`{name}` holds a number that is not finite")
    if (tensors["scales"] <= 0).any():
        raise _error(path, "`scales` holds a number that is not positive")
    return Weights(**tensors)


def write_weights(weights: Weights, path: Path) -> None:
    """Writes weights as a safetensors file, the buckets in half precision. The same weights give the same bytes."""
    from safetensors.numpy import save_file

    halves = ("grams", "idf")
    save_file(
        {
            name: np.ascontiguousarray(getattr(weights, name), np.float16 if name in halves else np.float32)
            for name in _SHAPES
        },
        path,
    )


def _error(path: Path, reason: str) -> InvalidModelFile:
    return InvalidModelFile(
        f"{path} is no file of moderation weights: {reason}",
        fix="restore it from the package, or train it again with `deepwell guard train --moderation`",
    )

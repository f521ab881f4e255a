"""`Weights`: the packed matrices and vectors of one model in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.layouts import Precision, Scheme
from deepwell.engine.weights.quantize import QuantizationReport
from deepwell.models.formats.config import ModelConfig

__all__ = ["PackedMatrix", "Weights"]


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """The packed bytes of one matrix [rows, cols]; `quantize` specifies their layout."""

    data: NDArray[np.uint8]
    rows: int
    cols: int
    scheme: Scheme


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """All weights of a model, as views into one buffer."""

    config: ModelConfig
    precision: Precision
    matrices: dict[str, PackedMatrix]
    vectors: dict[str, NDArray[np.float32]]
    nbytes: int
    # Hash of source, configuration, precision and format; equal fingerprints mean equal weights
    fingerprint: str
    report: dict[str, QuantizationReport]  # per matrix

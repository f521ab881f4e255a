"""What an architecture asks of a checkpoint: which stored tensors become which matrices and vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MatrixPlan", "TensorPlan", "VectorPlan"]


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """One packed matrix [rows, cols], made of the rows of the stored tensors that `sources` names."""

    name: str
    rows: int
    cols: int
    sources: tuple[str, ...]
    role: Literal["body", "embedding"]  # token embedding and output head may be kept wider than the body
    order: Literal["concatenate", "interleave"] = "concatenate"  # interleave: `quantize.interleave_gate_up`


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """One float32 vector, the concatenation of stored ones; a table is stored row after row."""

    name: str
    size: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """Everything one model loads, in the order of the packed file."""

    matrices: tuple[MatrixPlan, ...]
    vectors: tuple[VectorPlan, ...]

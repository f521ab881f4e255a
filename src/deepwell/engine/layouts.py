"""Layouts of weights and pages: names and sizes shared by checkpoints, packed files, backends and kernels."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["GATE_UP_ROWS", "GROUP", "PANEL", "KVDtype", "Precision", "Scheme"]

Precision = Literal["fp32", "bf16", "fp16", "int8", "int4", "int4-full"]
"""Precision of a whole model. int4 keeps embeddings as int8; int4-full keeps everything as int4."""

Scheme = Literal["fp32", "bf16", "fp16", "int8", "int4"]
"""Storage scheme of one matrix."""

KVDtype = Literal["fp32", "bf16", "int8"]
"""Data type of the cache pages. int8 has one float32 scale for each key and each value of a head."""

PANEL: Final = 32  # rows of a panel
GATE_UP_ROWS: Final = 16  # runs of this many rows of gate and of up alternate in their common matrix
# Columns of a block, which share a scale or, in bf16, a 32-bit word.
GROUP: Final[dict[Scheme, int]] = {"int8": 64, "int4": 32, "bf16": 2, "fp16": 1, "fp32": 1}

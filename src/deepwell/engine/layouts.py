"""How weights and pages are laid out: names and sizes on which checkpoints, packed files, backends and kernels agree."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["GATE_UP_ROWS", "GROUP", "PANEL", "KVDtype", "Precision", "Scheme"]

Precision = Literal["fp32", "bf16", "fp16", "int8", "int4", "int4-full"]
"""How a whole model is kept: int4 keeps embeddings as int8, int4-full everything as int4."""

Scheme = Literal["fp32", "bf16", "fp16", "int8", "int4"]
"""How one matrix is kept."""

KVDtype = Literal["fp32", "bf16", "int8"]
"""How pages are kept. int8 has one float32 scale for each key and each value of a head."""

PANEL: Final = 32  # rows of a panel
GATE_UP_ROWS: Final = 16  # rows of gate, then of up, that alternate in their common matrix
# Columns of a block: they share a scale or, in bf16, a 32-bit word.
GROUP: Final[dict[Scheme, int]] = {"int8": 64, "int4": 32, "bf16": 2, "fp16": 1, "fp32": 1}

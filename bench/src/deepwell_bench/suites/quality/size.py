"""The size of a packed model."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import PRECISIONS
from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.store.layout import expected_tensors

__all__ = ["bench_model_size"]


def bench_model_size(report: Report, model: Path) -> dict[str, Any]:
    """Measures bytes of the packed files, written anew into a temporary folder, over four bytes a parameter."""
    checkpoint = open_checkpoint(model)
    fp32 = 4 * sum(math.prod(shape) for _, shape in expected_tensors(checkpoint.config))
    value: dict[str, Any] = {"fp32_mb": rounded(fp32 / 1e6)}
    rows: list[list[Any]] = [["fp32", fp32 / 1e6, ""]]
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            load_weights(checkpoint, precision, Path(folder))
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
        name = precision.replace("-", "_")
        value |= {name: rounded(size / fp32, 3), f"{name}_mb": rounded(size / 1e6)}
        rows.append([precision, size / 1e6, f"{size / fp32:.1%}"])
    report.table("Packed model files", ["precision", "MB", "of fp32"], rows)
    return value

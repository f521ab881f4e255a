"""The peaks of this machine, on one thread and on all."""

from __future__ import annotations

from typing import Any

from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.harness.roofs import measure_roofs
from deepwell.engine.backends.native import isa

__all__ = ["bench_roofline"]

_KINDS = ("int8", "int4", "bf16", "fp32")


def bench_roofline(report: Report, *, threads: int) -> dict[str, Any]:
    """Measures bytes a second read and multiply-adds a second of every kind."""
    value: dict[str, Any] = {"isa": isa()}
    rows: list[list[Any]] = []
    for count in sorted({1, threads}):
        roofs = measure_roofs(count)
        rows.append([count, roofs.memory, *(getattr(roofs, kind) for kind in _KINDS)])
        value[f"threads_{count}"] = {
            "memory_gb_per_s": rounded(roofs.memory),
            **{f"{kind}_gmac_per_s": rounded(getattr(roofs, kind)) for kind in _KINDS},
        }
    columns = ["threads", "memory GB/s", "int8 GMAC/s", "int4 GMAC/s", "bf16 GMAC/s", "fp32 GMAC/s"]
    report.table(f"Roofs, {isa()} kernels", columns, rows)
    return value

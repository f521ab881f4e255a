"""The peaks of this machine beside its manual's, and the phases of real steps beside the peaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.machine import cpu_family
from deepwell.cli.bench.phases import bench_profile
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import Kind, manual_macs, measure_roof, measure_roofs
from deepwell.engine.backends.native import isa
from deepwell.engine.layouts import Precision

__all__ = ["bench_roofline"]

_KINDS: Final[tuple[Kind, ...]] = ("int8", "int4", "bf16", "fp32")
_PROFILED: Final[tuple[Precision, ...]] = ("int8", "int4")
_ROWS: Final = (1, 16, 64)  # sequences of the decode steps whose phases are held against the peaks
_PROMPT: Final = 512  # tokens of the prompt
_TURNS: Final = 3  # of clock and loop; the best of each counts, since neighbours can only slow them


def bench_roofline(report: Report, *, threads: int, phases_of: Path | None = None) -> dict[str, Any]:
    """Measures bytes a second read and multiply-adds a second of every kind, and what the manuals give one core.

    Args:
        phases_of: a model whose decode steps and prompt are profiled too. No phase may exceed its roof: one that does shows
            that the roof is none.
    """
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
    value |= _beside_manual(report)
    if phases_of is not None:
        value |= _beside_phases(report, phases_of, threads)
    return value


def _beside_manual(report: Report) -> dict[str, Any]:
    """Returns the loops of one thread beside the manual's products a cycle at the clock of the same moment."""
    macs = manual_macs(isa(), *cpu_family())
    rows: list[list[Any]] = []
    value: dict[str, Any] = {}
    for kind, per_cycle in macs.items():
        pairs = [
            (measure_roof("clock", 1, seconds=0.1), measure_roof(kind, 1, seconds=0.2)) for _ in range(_TURNS)
        ]
        clock, loop = (max(one) for one in zip(*pairs, strict=True))
        manual = per_cycle * clock
        if not manual:
            continue
        rows.append([kind, f"{clock:.2f}", per_cycle, f"{manual:.0f}", f"{loop:.0f}", f"{loop / manual:.0%}"])
        value |= {"clock_ghz": rounded(clock, 3), f"{kind}_of_manual": rounded(loop / manual, 3)}
    if rows:
        value["least_of_manual"] = min(value[f"{row[0]}_of_manual"] for row in rows)
        title = "One thread beside the manual"
        report.table(title, ["products", "GHz", "a cycle", "GMAC/s", "loop, GMAC/s", "of the manual"], rows)
    else:
        value["least_of_manual"] = None
        report.note("the manuals are not known for this processor")
    return value


def _beside_phases(report: Report, model: Path, threads: int) -> dict[str, Any]:
    """Returns the phase of any step that came nearest to its roof."""
    shares: dict[str, float] = {}
    for precision in _PROFILED:
        steps: dict[str, dict[str, int]] = {f"{rows} rows": {"rows": rows} for rows in _ROWS}
        steps[f"prompt of {_PROMPT}"] = {"prefill": _PROMPT}
        for step, options in steps.items():
            made = bench_profile(report, model, precision=precision, threads=threads, **options)
            for phase, figures in made["phases"].items():
                if "roof" in figures:
                    shares[f"{precision}, {step}, {phase}"] = figures["roof"]
    highest = max(shares, key=lambda step: shares[step])
    return {"phases": len(shares), "highest_share": shares[highest], "highest": highest, "shares": shares}

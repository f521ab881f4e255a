"""One conformance suite over every store, on SQLite and on a real PostgreSQL server: the same tests, the same results."""

from __future__ import annotations

from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.junit import SuiteRun, run_pytest

__all__ = ["bench_storage_suite"]

_SIDES = ("sqlite", "postgres")


def bench_storage_suite(report: Report) -> dict[str, Any]:
    """Counts tests passed on each database, and those whose results differ. A server that is missing is a failure here.

    Raises:
        DeepwellError: the suite did not run.
    """
    done = run_pytest(["tests/storage"], {"CI": "true"})
    outcomes = _outcomes(done)
    if done.status:
        report.note(done.output[-8000:])
    passed = {
        side: sum(found[side] == "passed" for found in outcomes.values() if side in found) for side in _SIDES
    }
    differences = sorted(
        name for name, found in outcomes.items() if len({found.get(side) for side in _SIDES}) > 1
    )
    report.table("Tests of storage passed", ("database", "passed"), [(side, passed[side]) for side in _SIDES])
    for name in differences:
        report.note(f"differs: {name}: {outcomes[name]}")
    return {
        **{f"{side}_passed": passed[side] for side in _SIDES},
        "differences": len(differences),
        "not_passed": sum(result != "passed" for found in outcomes.values() for result in found.values()),
    }


def _outcomes(done: SuiteRun) -> dict[str, dict[str, str]]:
    """Returns, for each test that has a database, its result on each."""
    outcomes: dict[str, dict[str, str]] = {}
    for full, result in done.outcomes():
        name, _, parameters = full.removesuffix("]").partition("[")
        words = parameters.split("-")
        if (side := next((side for side in _SIDES if side in words), None)) is None:
            continue
        words.remove(side)
        outcomes.setdefault("-".join([name, *words]), {})[side] = result
    return outcomes

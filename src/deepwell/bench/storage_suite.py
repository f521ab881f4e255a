"""One conformance suite over every store, on SQLite and on a real PostgreSQL server: the same tests, the same results."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from deepwell.bench.assets import repository
from deepwell.bench.report import Report
from deepwell.errors import DeepwellError

__all__ = ["bench_storage_suite"]

_SIDES = ("sqlite", "postgres")


def bench_storage_suite(report: Report) -> dict[str, Any]:
    """Tests passed on each database, and those whose results differ. A server that is missing is a failure here.

    Raises:
        DeepwellError: the suite did not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "tests/storage",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={results}",
        ]
        done = subprocess.run(
            command,
            cwd=repository(),
            env={**os.environ, "CI": "true"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if not results.exists():
            raise DeepwellError(
                f"pytest ended with status {done.returncode}:\n{done.stdout[-1500:]}",
                fix="run python -m pytest tests/storage",
            )
        outcomes = _outcomes(results)
    if done.returncode:
        report.note(done.stdout[-8000:])
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


def _outcomes(results: Path) -> dict[str, dict[str, str]]:
    """For each test that has a database: its result on each."""
    outcomes: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(results).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it just now
        name, _, parameters = f"{case.get('classname')}.{case.get('name')}".removesuffix("]").partition("[")
        words = parameters.split("-")
        if (side := next((side for side in _SIDES if side in words), None)) is None:
            continue
        words.remove(side)
        tags = {child.tag for child in case}
        result = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        outcomes.setdefault("-".join([name, *words]), {})[side] = result
    return outcomes

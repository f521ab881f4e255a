"""The page of measured figures: the latest of every row on each kind of machine, and the commit it was measured at."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Outcome
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.targets import Target, load_targets

__all__ = ["write_page"]

_CODE = ("src", "csrc")  # a figure is of the code as it was: what changes here may change it
_HEAD = """\
# Benchmarks

Written by `deepwell bench targets`; every row names the command that made it. Ratios are medians of interleaved
rounds on one machine in one run; a roof is the bytes or multiply-adds a token really needs over the peaks measured
in the same run. A row keeps its latest figures on each kind of machine, which is named after the kernels in use there.
The last column has the machine's number, the day and the commit, and says where code has changed since.

| what | measured | bar | holds | measured on |
|---|---|---|---|---|
"""


def write_page(outcomes: Sequence[Outcome], threads: int) -> Path:
    """Merges the outcomes of this run into `docs/benchmarks.json` and renders `docs/benchmarks.md` from it.

    The store holds, for each row, a result by kind of machine: the kernel table in use.
    """
    root = repository()
    store, page = root / "docs" / "benchmarks.json", root / "docs" / "benchmarks.md"
    rows: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    here, commit = machine(threads), _commit(root)
    for outcome in outcomes:
        result = {"value": dict(outcome.value), "holds": outcome.holds, "machine": here, "commit": commit}
        kept = rows.get(outcome.name, {}) | {here["kernels"]: result}
        rows[outcome.name] = dict(sorted(kept.items()))
    targets = load_targets()
    rows = {name: rows[name] for name in targets if name in rows}
    store.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(_render(rows, targets, root), encoding="utf-8")
    return page


def _commit(root: Path) -> str | None:
    """Returns the commit of the code that ran; None where it has changes that no commit holds."""
    if _git(root, "diff", "--quiet", "HEAD", "--", *_CODE) != (0, ""):
        return None
    status, said = _git(root, "rev-parse", "--short", "HEAD")
    return None if status else said.strip()


def _git(root: Path, *arguments: str) -> tuple[int, str]:
    """Returns the exit status of git and what it printed; 127 where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return 127, ""
    return done.returncode, done.stdout


@cache
def _since(root: Path, commit: str | None) -> str:
    """Returns the words for a commit beside a figure: its hash, and whether code has changed since."""
    if commit is None:
        return "commit unknown"
    status, _ = _git(root, "diff", "--quiet", commit, "--", *_CODE)
    return {0: commit, 1: f"{commit}, code changed since"}.get(status, f"{commit}, unknown here")


def _render(rows: Mapping[str, Any], targets: Mapping[str, Target], root: Path) -> str:
    machines: list[str] = []
    lines: list[str] = []
    for name, kinds in rows.items():
        cells: list[tuple[str, str, str]] = []
        for kind, result in kinds.items():
            place = _machine_line(result["machine"])
            if place not in machines:
                machines.append(place)
            where = f"{kind} ({machines.index(place) + 1}), {result['machine']['date']}, {_since(root, result['commit'])}"
            verdict = "yes" if result["holds"] else "**no**"
            cells.append((_figures(targets[name], result["value"]), verdict, where))
        measured, holds, places = ("<br>".join(column) for column in zip(*cells, strict=True))
        lines.append(f"| {targets[name].what} | {measured} | {targets[name].bar} | {holds} | {places} |")
    if missing := [name for name in targets if name not in rows]:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", "## Machines", "", *(f"{number}. {place}" for number, place in enumerate(machines, 1))]
    lines += ["", "## Every figure", ""]
    for name, kinds in rows.items():
        lines += [f"### {name}", "", f"`{targets[name].command}`", ""]
        for kind, result in kinds.items():
            value = json.dumps(result["value"], indent=1, ensure_ascii=False)
            lines += [f"On {kind}:", "", "```json", value, "```", ""]
    return _HEAD + "\n".join(lines).rstrip() + "\n"


def _figures(target: Target, value: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{key} {value[key]}" for key in target.limits if key in value)
    return figures or str(value.get("error", ""))


def _machine_line(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, {facts['memory_gib']} GiB, {facts['system']}, "
        f"Python {facts['python']}, Deepwell {facts['deepwell']}"
    )

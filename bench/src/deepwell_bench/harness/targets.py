"""Every promised figure: its command, its bar, its minutes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from deepwell.cli.bench.machine import kernels
from deepwell.cli.bench.report import Outcome
from deepwell.errors import DeepwellError
from deepwell_bench.harness.assets import repository

__all__ = ["Limit", "Target", "judge", "load_targets", "run_target", "select"]

TARGETS_FILE = Path(__file__).parents[1] / "targets.toml"


@dataclass(frozen=True, slots=True)
class Limit:
    """The bar of one figure.

    Attributes:
        min_avx512: takes the place of `min` where the kernels are those of AVX512.
        or_roof: it also holds where the figure `roof` is at least this.
    """

    min: float | None = None
    min_avx512: float | None = None
    max: float | None = None
    equals: Any = None
    or_roof: float | None = None

    def holds(self, value: Any, roof: float | None, table: str = "") -> bool:
        """Tells whether `value` is within the limit, measured with the kernels of `table`."""
        if self.or_roof is not None and roof is not None and roof >= self.or_roof:
            return True
        if self.equals is not None and value != self.equals:
            return False
        least = self.min
        if self.min_avx512 is not None and table.startswith("avx512"):
            least = self.min_avx512
        if least is not None and not value >= least:
            return False
        return self.max is None or bool(value <= self.max)


@dataclass(frozen=True, slots=True)
class Target:
    """One row of `targets.toml`.

    Attributes:
        needs: what not every machine has: "gpu", or nothing. Without it the row is left out: neither held nor missed.
    """

    name: str
    what: str
    command: str
    bar: str
    minutes: float
    limits: Mapping[str, Limit] = field(default_factory=dict[str, Limit])
    needs: Literal["", "gpu"] = ""


LONGEST_MINUTES: Final = 75  # an hour of load, and what stands around it


def load_targets(path: Path = TARGETS_FILE) -> dict[str, Target]:
    """Reads `targets.toml`.

    Raises:
        DeepwellError: a row is incomplete, named twice, or promises more than `LONGEST_MINUTES`.
    """
    targets: dict[str, Target] = {}
    for row in tomllib.loads(path.read_text(encoding="utf-8"))["target"]:
        try:
            target = Target(
                name=row["name"],
                what=row["what"],
                command=row["command"],
                bar=row["bar"],
                minutes=row["minutes"],
                limits={figure: Limit(**limit) for figure, limit in row["limits"].items()},
                needs=row.get("needs", ""),
            )
        except (KeyError, TypeError) as error:
            raise DeepwellError(f"{path.name}: row {row.get('name')!r}: {error}", fix="complete it") from None
        if target.needs not in ("", "gpu"):
            raise DeepwellError(f"{path.name}: row {target.name!r} needs {target.needs!r}", fix="write gpu")
        if target.name in targets or not 0 < target.minutes <= LONGEST_MINUTES or not target.limits:
            raise DeepwellError(
                f"{path.name}: row {target.name!r} is named twice, has no limit, or needs more than {LONGEST_MINUTES} minutes",
                fix="split it",
            )
        targets[target.name] = target
    return targets


def judge(name: str, value: Mapping[str, Any]) -> Outcome:
    """Holds measured figures against the bar of row `name`.

    Raises:
        DeepwellError: there is no such row, or a figure that the bar needs was not measured.
    """
    targets = load_targets()
    if name not in targets:
        raise DeepwellError(f"no target is called {name!r}", fix=f"use one of {', '.join(targets)}")
    target = targets[name]
    if missing := set(target.limits) - set(value):
        raise DeepwellError(
            f"the bar of {name} needs {', '.join(sorted(missing))}, which were not measured",
            fix=f"run {target.command}",
        )
    roof = value.get("roof")
    table = kernels()
    holds = all(limit.holds(value[figure], roof, table) for figure, limit in target.limits.items())
    return Outcome(name, value, target.bar, holds)


def select(pattern: str | None) -> list[Target]:
    """Returns the rows whose name matches the regular expression; all without one.

    Raises:
        DeepwellError: none does.
    """
    targets = load_targets()
    chosen = [target for target in targets.values() if pattern is None or re.search(pattern, target.name)]
    if not chosen:
        raise DeepwellError(f"no target matches {pattern!r}", fix=f"use one of {', '.join(targets)}")
    return chosen


def run_target(target: Target) -> Outcome:
    """Runs a row's command as a user would; a command that fails or overruns is a row that does not hold."""
    arguments = target.command.split()
    if arguments[0] == "deepwell":
        arguments = [sys.executable, "-m", "deepwell", *arguments[1:]]
    start = time.monotonic()
    try:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd=repository(),
            env={**os.environ, "COLUMNS": os.environ.get("COLUMNS", "120")},
            start_new_session=True,
        )
    except FileNotFoundError:
        return Outcome(
            target.name, {"error": f"there is no {arguments[0]}: run `make tune`"}, target.bar, False
        )
    with child:
        try:
            output, _ = child.communicate(timeout=target.minutes * 60)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)  # what it started would disturb the next row
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            late = {"error": f"took more than {target.minutes:g} minutes"}
            return Outcome(target.name, late, target.bar, False)
    seconds = round(time.monotonic() - start, 1)
    last = output.strip().rpartition("\n")[2]
    try:
        line = json.loads(last)
        return Outcome(target.name, {**line["value"], "seconds": seconds}, target.bar, line["holds"])
    except (ValueError, KeyError, TypeError):
        return Outcome(
            target.name, {"error": f"exit status {child.returncode}: {last[:200]}"}, target.bar, False
        )

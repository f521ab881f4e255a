"""`deepwell bench confinement`: actions of a hostile file's code inside every kind of child, in four environments."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.errors import InvalidRequest
from deepwell.settings import Settings
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.worker import Worker
from deepwell_bench.workers.confinement.actions import ACTIONS, REACHED
from deepwell_bench.workers.confinement.environment import ENVIRONMENTS, command_in
from deepwell_bench.workers.confinement.kinds import KINDS

__all__ = ["bench_confinement"]

_PATIENCE_S: Final = 300.0
_SERVER: Final = "deepwell_bench.workers.confinement.server"


@dataclass(frozen=True, slots=True)
class _Cell:
    """Outcomes of one kind of child in one environment."""

    kind: str
    environment: str
    confined: bool
    outcomes: dict[str, str]
    seconds: float

    @property
    def reached(self) -> list[str]:
        return [name for name, outcome in self.outcomes.items() if outcome.startswith(REACHED)]


def bench_confinement(
    report: Report, *, kinds: Sequence[str] = (), environments: Sequence[str] = (), only: Sequence[str] = ()
) -> dict[str, Any]:
    """Tries every action in every kind of child in every environment, and counts those that reach something.

    Args:
        kinds: kinds of children; empty: all.
        environments: names of environments; empty: all. Somebody who is not root has the one of a user alone.
        only: names of actions; empty: all.

    Raises:
        InvalidRequest: a name is not known.
    """
    own = ENVIRONMENTS if os.geteuid() == 0 else ("user",)
    for asked, known in ((kinds, KINDS), (environments, own), (only, ACTIONS)):
        for name in asked:
            if name not in known:
                raise InvalidRequest(f"there is no {name!r} here", fix=f"name one of {', '.join(known)}")
    names = [name for name in ACTIONS if not only or name in only]
    cells: list[_Cell] = []
    absent: list[str] = []
    for environment in environments or own:
        for kind in kinds or KINDS:
            with report.console.status(f"{kind} in {environment}"):
                cell = _attack(kind, environment, names)
            if isinstance(cell, str):
                absent.append(f"{kind}, {environment}")
                report.note(f"{kind} in {environment}: does not run: {cell}")
                continue
            cells.append(cell)
            report.note(
                f"{kind} in {environment}: {len(cell.reached)} of {len(names)} reached: {', '.join(cell.reached)}"
            )
    return _result(report, cells, names, absent)


def _attack(kind: str, environment: str, names: Sequence[str]) -> _Cell | str:
    """Tries actions in one kind of child; or returns why it does not run. A server that an action ends is started again."""
    models = Settings.load().models_dir
    outcomes: dict[str, str] = {}
    confined, seconds, left = False, 0.0, list(names)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)  # the server may be somebody else
        while left:
            worker = _server(environment, models, Path(name))
            try:
                opened = worker.call("open", patience=_PATIENCE_S, kind=kind, models=str(models))
                if opened["absent"]:
                    return str(opened["absent"])
                confined, seconds = bool(opened["confined"]), float(opened["seconds"])
                while left:
                    action = left.pop(0)
                    try:
                        answer = worker.call("attempt", patience=_PATIENCE_S, name=action)
                    except PeerError as error:
                        outcomes[action] = f"{REACHED} (the server ended: {str(error).splitlines()[0]})"
                        break
                    harm = ", ".join(answer["harm"])
                    outcomes[action] = f"{REACHED} ({harm})" if harm else answer["outcome"]
            finally:
                worker.close()
    return _Cell(kind, environment, confined, outcomes, seconds)


def _server(environment: str, models: Path, folder: Path) -> Worker:
    command = [sys.executable, "-m", _SERVER, str(folder)]
    if os.geteuid() == 0:
        needed = [Path(sys.prefix), Path(sys.base_prefix), models, *(Path(one) for one in sys.path if one)]
        command = command_in(environment, needed, command)
    environ = {"PYTHONPATH": os.pathsep.join(one for one in sys.path if one), "PYTHONDONTWRITEBYTECODE": "1"}
    return Worker(f"attacked server in {environment}", command, environ, folder / "log")


def _result(
    report: Report, cells: Sequence[_Cell], names: Sequence[str], absent: Sequence[str]
) -> dict[str, Any]:
    rows = [
        (one.kind, one.environment, "yes" if one.confined else "no", len(one.outcomes), len(one.reached))
        for one in cells
    ]
    report.table("Actions in children", ("kind", "environment", "confined", "actions", "reached"), rows)
    reached = Counter(name for one in cells for name in one.reached)
    report.table("Reached", ("action", "cells"), reached.most_common())
    failed = Counter(
        f"{name}: {outcome}"
        for one in cells
        for name, outcome in one.outcomes.items()
        if outcome.startswith("error")
    )
    for said, count in failed.most_common():
        report.note(f"failed by itself in {count} cells: {said}")
    return {
        "kinds": len({one.kind for one in cells}),
        "absent": list(absent),
        "environments": len({one.environment for one in cells}),
        "actions": len(names),
        "attempts": sum(len(one.outcomes) for one in cells),
        "reached": sum(reached.values()),
        "reached_names": sorted(reached),
        "failed": len(failed),
        "start_s": rounded(percentile([one.seconds for one in cells], 0.5), 2) if cells else 0.0,
        "cells": {f"{one.kind}, {one.environment}": len(one.reached) for one in cells},
        "outcomes": {
            f"{one.kind}, {one.environment}": {name: one.outcomes[name] for name in one.reached}
            for one in cells
            if one.reached
        },
    }

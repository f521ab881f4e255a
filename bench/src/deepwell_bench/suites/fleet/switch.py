"""Switches of a deployment under load: canary by steps, blue-green, and versions that are slow, fail or are unsafe."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell.fleet.deploy.declaration import Grade
from deepwell.storage.registry.story import Steps
from deepwell_bench.suites.fleet.running import Fleet, Load, running_fleet

__all__ = ["bench_switch"]

_FIRST_MS, _TOKEN_MS, _TOKENS = 40, 10, 8
_STEPS = (0.05, 0.25, 0.5, 0.75, 1.0)
_POLICY = """version: 1
input: {rules: {}}
output:
  rules:
    personal.email: {action: redact}
"""
_LEAK = "say= write to lin@example.com now"
_MOST_BUSY = 0.85


def bench_switch(
    report: Report,
    model: Path,
    *,
    grade: Grade = "machine",
    rate: float = 100.0,
    hold: float = 6.0,
    real: bool = True,
) -> dict[str, Any]:
    """Switches a deployment while conversations go on, and counts what fails.

    Args:
        rate: requests a second of the paced engine's switches.
        hold: seconds that each step of the canary is held.
        real: switch a real model at its limit as well.
    """
    paced = (_FIRST_MS, _TOKEN_MS, _TOKENS)
    ways: dict[str, tuple[object, ...]] = {"v1": paced, "v2": paced, "v3": paced}
    ways |= {
        "slow": (_FIRST_MS + 400, _TOKEN_MS, _TOKENS),
        "failing": (*paced, "fail=0.5"),
        "unsafe": (*paced, _LEAK),
    }
    gates = {"error_rate": 0.02, "first_token_p95_ms": 200, "guard_rate": 0.1}
    terms = {"conversation_seconds": 15, "drain_seconds": 30, "gates": gates}
    rows: list[list[Any]] = []
    value: dict[str, Any] = {"failed": 0, "cut": 0, "mixed_conversations": 0, "requests": 0, "busy": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(_POLICY, encoding="utf-8")
        policy.chmod(0o644)
        Path(folder).chmod(0o755)
        declaration = {"policy": str(policy)}
        with running_fleet(model, ways, rollout=terms, grade=grade, declaration=declaration) as fleet:
            fleet.talk(3, rate=20)
            switches = (
                ("canary", "v2", Steps("canary", _STEPS, hold)),
                ("blue_green", "v3", Steps("blue_green", (1.0,), 5.0)),
            )
            for name, version, steps in switches:
                load, outcome = _switched(fleet, version, steps, rate)
                value[f"{name}_promoted"] = outcome.state == "promoted"
                _count(value, load)
                rows.append(_row(name, load, outcome.state, outcome.reason))
            for version in ("slow", "failing", "unsafe"):
                load, outcome = _switched(fleet, version, Steps("canary", (0.25, 1.0), 30.0), rate / 2, 120.0)
                value[f"{version}_aborted"] = outcome.state == "aborted"
                value["busy"] = max(value["busy"], round(load.busy, 3))
                others = [one for one in load.failed if version != "failing" or one["status"] in (0, 200)]
                value["failed"] += len(others)
                rows.append(_row(version, load, outcome.state, outcome.reason))
    if real:
        load, outcome = _real(model, terms)
        value["real_promoted"] = outcome.state == "promoted"
        value |= {"real_failed": len(load.failed), "real_cut": len(load.cut), "real_mixed": load.mixed}
        value["real_requests"] = len(load.results)
        rows.append(_row("smollm2 at its limit", load, outcome.state, outcome.reason))
    value["valid"] = value["busy"] <= _MOST_BUSY
    value["rate"] = rate
    report.table(
        f"Switches of the grade {grade} under load, {os.cpu_count()} cores; cpu as shares of one core",
        ["switch", "requests", "failed", "cut", "mixed", "busy", "client", "front", "replicas", "outcome"],
        rows,
    )
    return value


def _switched(
    fleet: Fleet, version: str, steps: Steps, rate: float, seconds: float = 0.0
) -> tuple[Load, Any]:
    """Rolls a version out under load, which goes on until the old replicas have ended."""
    length = seconds or steps.hold_seconds * (len(steps.shares) + 1) + 120

    def during() -> Any:
        return fleet.outcome(fleet.start(version, steps), length)

    return fleet.talk(length + 30, during, rate=rate, turns=3)


def _count(value: dict[str, Any], load: Load) -> None:
    value["failed"] += len(load.failed)
    value["cut"] += len(load.cut)
    value["mixed_conversations"] += load.mixed
    value["requests"] += len(load.results)
    for name, one in load.figures().items():
        value[name] = max(value.get(name, 0.0), one)


def _row(name: str, load: Load, state: str, reason: str) -> list[Any]:
    figures = load.figures()
    said = state if state == "promoted" else f"{state}: {reason[:60]}"
    said += f" {load.kinds}" if load.failed else ""
    return [name, len(load.results), len(load.failed), len(load.cut), load.mixed, *figures.values(), said]


def _real(model: Path, terms: dict[str, Any]) -> tuple[Load, Any]:
    """Switches smollm2 to itself under another name, with four clients that ask without a pause."""
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / f"{model.stem}-next{model.suffix}"
        shutil.copyfile(model, other)  # a link would be served under the name of what it links to
        served = {model.stem: str(model), other.stem: str(other)}
        declaration = {"alias": "smollm2@prod", "serve": {"threads": 1, "context": 1024}}
        gates = {"error_rate": 0.02, "least_requests": 10}
        with running_fleet(
            model,
            dict.fromkeys(served, ()),
            replicas=1,
            rollout=terms | {"gates": gates},
            served=served,
            declaration=declaration,
        ) as fleet:

            def during() -> Any:
                return fleet.outcome(fleet.start(other.stem, Steps("canary", (0.5, 1.0), 5.0)), 200)

            return fleet.talk(240, during, clients=4, turns=3, tokens=16)

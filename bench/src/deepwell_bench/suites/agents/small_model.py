"""`deepwell bench agents-small-model`: a model of 0.5 billion parameters on the tasks of 1 to 3 calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from deepwell.agents.loop.models.embedded import EmbeddedModel
from deepwell.agents.loop.models.wire import ModelOptions
from deepwell.cli.bench.report import Report, rounded
from deepwell.llm import AsyncLLM
from deepwell_bench.harness.proportions import wilson
from deepwell_bench.suites.agents.kit import opened_searcher
from deepwell_bench.suites.agents.runs import Condition, TaskRun, quiet, run_tasks
from deepwell_bench.workloads.agents.company import COMPANY
from deepwell_bench.workloads.agents.company_tasks import frozen_tasks
from deepwell_bench.workloads.agents.library import LIBRARY, LIBRARY_TASKS

__all__ = ["CONDITIONS", "bench_agents_small_model"]

MODEL: Final = "qwen2.5-coder-0.5b"
CONDITIONS: Final = {
    "without": Condition(checks=False, at_once=12),
    "with": Condition(at_once=12),
    "faults": Condition(faults=True, at_once=12),
}
"""Without and with the checks of the loop, and with them where a fifth of the calls fails."""
_RESAMPLES, _SEED = 10_000, 23


def bench_agents_small_model(report: Report, *, development: bool = False) -> dict[str, Any]:
    """Returns the shares of right answers with their 95 % intervals, and the paired gain of the checks.

    Args:
        development: runs the development tasks in place of the held-out ones.
    """
    with quiet():
        return asyncio.run(_bench(report, development=development))


async def _bench(report: Report, *, development: bool) -> dict[str, Any]:
    fixtures, tasks = (LIBRARY, LIBRARY_TASKS) if development else (COMPANY, frozen_tasks()[0])
    found = dict[str, list[TaskRun]]()
    async with opened_searcher(fixtures) as searcher, AsyncLLM(MODEL) as llm:
        model = EmbeddedModel(llm, MODEL, ModelOptions(temperature=0.0))
        for name, condition in CONDITIONS.items():
            ended = Counter[str]()

            def done(run: TaskRun, name: str = name, ended: Counter[str] = ended) -> None:
                ended[run.verdict] += 1
                if ended.total() % 10 == 0:
                    report.note(f"{name}: {ended.total()} of {len(tasks)} tasks, {ended['right']} right")

            found[name] = await run_tasks(
                tasks, fixtures, searcher, lambda _task: model, condition, done=done
            )
    _tables(report, found)
    return _figures(found)


def _figures(found: dict[str, list[TaskRun]]) -> dict[str, Any]:
    figures: dict[str, Any] = {"tasks": len(found["with"])}
    for name, runs in found.items():
        right = sum(one.right for one in runs)
        low, high = wilson(right, len(runs))
        figures |= {f"{name}_right": right, f"{name}_share": rounded(right / len(runs))}
        figures |= {f"{name}_low": rounded(low), f"{name}_high": rounded(high)}
    gain, low, high = paired_points(found["without"], found["with"])
    fall, fall_low, fall_high = paired_points(found["faults"], found["with"])
    return figures | {
        "checks_points": gain,
        "checks_low": low,
        "checks_high": high,
        "faults_fall_points": fall,
        "faults_fall_low": fall_low,
        "faults_fall_high": fall_high,
    }


def paired_points(before: Sequence[TaskRun], after: Sequence[TaskRun]) -> tuple[float, float, float]:
    """Returns the gain in points from one side to the other, and its 95 % interval over resamples of the tasks."""
    pairs = zip(before, after, strict=True)
    gains = np.asarray([int(late.right) - int(early.right) for early, late in pairs], np.float64)
    drawn = np.random.default_rng(_SEED).integers(0, len(gains), (_RESAMPLES, len(gains)))
    low, high = np.quantile(gains[drawn].mean(axis=1), (0.025, 0.975))
    return rounded(100 * float(gains.mean())), rounded(100 * float(low)), rounded(100 * float(high))


def _tables(report: Report, found: dict[str, list[TaskRun]]) -> None:
    names = list(found)
    groups = {f"{calls} calls": [one.task.calls == calls for one in found["with"]] for calls in (1, 2, 3)}
    groups |= {
        language: [one.task.language == language for one in found["with"]] for language in ("en", "zh")
    }
    kinds = dict.fromkeys(one.task.template for one in found["with"])
    groups |= {kind: [one.task.template == kind for one in found["with"]] for kind in kinds}
    rows = [
        (title, sum(chosen), *(_right(found[name], chosen) for name in names))
        for title, chosen in groups.items()
    ]
    report.table("Right answers", ("tasks", "number", *names), rows)
    ends = Counter((name, one.verdict) for name in names for one in found[name])
    verdicts = sorted({verdict for _, verdict in ends})
    report.table(
        "Ends", ("verdict", *names), [(one, *(ends[name, one] for name in names)) for one in verdicts]
    )
    checks = sorted({check for name in names for one in found[name] for check in one.notes})
    rows = [
        (check, *(f"{_right(noted := _noted(found[name], check))} of {len(noted)}" for name in names))
        for check in checks
    ]
    report.table("Runs that a check spoke in, and those of them that ended right", ("check", *names), rows)


def _right(runs: Sequence[TaskRun], chosen: Sequence[bool] | None = None) -> int:
    return sum(one.right for place, one in enumerate(runs) if chosen is None or chosen[place])


def _noted(runs: Sequence[TaskRun], check: str) -> list[TaskRun]:
    return [one for one in runs if one.notes.get(check)]

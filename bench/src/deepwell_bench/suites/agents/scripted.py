"""`deepwell bench agents-scripted`: a scripted model on all held-out tasks, with faults of tools, and hostile results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.suites.agents.fuzz import FuzzOutcome, fuzz
from deepwell_bench.suites.agents.kit import opened_searcher
from deepwell_bench.suites.agents.models import ScriptedModel
from deepwell_bench.suites.agents.runs import Condition, TaskRun, quiet, run_tasks
from deepwell_bench.workloads.agents.company import COMPANY
from deepwell_bench.workloads.agents.company_tasks import frozen_tasks
from deepwell_bench.workloads.agents.task import Task

__all__ = ["bench_agents_scripted"]

_FUZZED = 1000


def bench_agents_scripted(report: Report) -> dict[str, Any]:
    """Returns how many tasks a script solves, what faults of a fifth of the calls cost, and what hostile results did."""
    with quiet():
        return asyncio.run(_bench(report))


async def _bench(report: Report) -> dict[str, Any]:
    short, long = frozen_tasks()
    found = dict[str, list[TaskRun]]()
    async with opened_searcher(COMPANY) as searcher:
        for name, tasks in (("short", short), ("long", long)):
            for suffix, condition in (("", Condition()), ("_faults", Condition(faults=True))):
                report.note(f"{name}{suffix}: {len(tasks)} tasks")

                def script(_task: Task) -> ScriptedModel:
                    return ScriptedModel()

                found[name + suffix] = await run_tasks(tasks, COMPANY, searcher, script, condition)
    hostile = await fuzz(_FUZZED)
    _table(report, found, hostile)
    right = {name: sum(one.right for one in runs) for name, runs in found.items()}
    before, after = right["short"] + right["long"], right["short_faults"] + right["long_faults"]
    calls = [one.calls for one in found["long"]]
    return {
        **right,
        "tasks": len(short) + len(long),
        "long_calls_least": min(calls),
        "long_calls_most": max(calls),
        "faults_fall_points": rounded(100 * (before - after) / (len(short) + len(long))),
        "fuzzed_results": hostile.results,
        "fuzz_exceptions": hostile.exceptions,
        "fuzz_over_budget": hostile.over_budget,
        "fuzz_oversized": hostile.oversized,
    }


def _table(report: Report, found: dict[str, list[TaskRun]], hostile: FuzzOutcome) -> None:
    rows: list[Sequence[Any]] = [
        (name, len(runs), sum(one.right for one in runs), sum(one.calls for one in runs))
        for name, runs in found.items()
    ]
    report.table("Scripted model", ("tasks", "number", "right", "calls"), rows)
    for runs in found.values():
        for one in runs:
            if not one.right:
                report.note(f"{one.task.id} ({one.task.template}): {one.verdict}; {one.result.reason}")
    ends = ", ".join(f"{count} {name}" for name, count in sorted(hostile.ends.items()))
    report.note(f"hostile results: {hostile.results} in runs that ended {ends}")

"""Runs of tasks, several at once, each with its own copy of the fixtures; injected faults of tools."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepwell.agents.loop.agent import Agent, RunOf, RunResult, run_agent
from deepwell.agents.loop.budget import Budget
from deepwell.agents.loop.model import ChatModel, ToolCall
from deepwell.agents.loop.options import LoopOptions
from deepwell.agents.loop.steps import Noted
from deepwell.agents.tools import Searcher, Tool, ToolCallContext, ToolOutput
from deepwell_bench.suites.agents.kit import TENANT, tools_of
from deepwell_bench.workloads.agents.task import Fixtures, Task, build, judged

__all__ = ["Condition", "TaskRun", "quiet", "run_tasks", "with_faults"]

_BUDGET = Budget(turns=16, calls=24, tokens=60_000, seconds=3600)  # a busy machine is no reason to fail
FAULT_SHARE = 0.2
_FAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Condition:
    """Options of a run over tasks.

    Attributes:
        checks: whether the loop helps.
        faults: whether a fifth of the calls break or take too long.
        at_once: runs beside each other.
        turn_tokens: most tokens of one turn.
    """

    checks: bool = True
    faults: bool = False
    at_once: int = 8
    turn_tokens: int = 300


@dataclass(frozen=True, slots=True)
class TaskRun:
    """The outcome of one task.

    Attributes:
        verdict: whether the answer is right, or why not.
        calls: calls that the run made.
        notes: what the checks of the loop said, by their names.
    """

    task: Task
    verdict: str
    answer: str
    calls: int
    notes: Mapping[str, int]
    result: RunResult

    @property
    def right(self) -> bool:
        """True if the answer is right."""
        return self.verdict == "right"


async def run_tasks(
    tasks: Sequence[Task],
    fixtures: Fixtures,
    searcher: Searcher,
    model_of: Callable[[Task], ChatModel],
    condition: Condition,
    *,
    done: Callable[[TaskRun], None] = lambda run: None,
) -> list[TaskRun]:
    """Runs tasks in a loop of their own each, and judges the answers. Writes are approved, in the task's own folder."""
    slots = asyncio.Semaphore(condition.at_once)

    async def one(task: Task) -> TaskRun:
        async with slots:
            found = await _run(task, fixtures, searcher, model_of(task), condition)
        done(found)
        return found

    first = await one(tasks[0])  # alone, so that the others find the prompt of the tools in the prefix cache
    return [first, *await asyncio.gather(*map(one, tasks[1:]))]


async def _run(
    task: Task, fixtures: Fixtures, searcher: Searcher, model: ChatModel, condition: Condition
) -> TaskRun:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        build(fixtures, folder)
        tools = tools_of(folder, searcher, write=bool(task.written))
        options = LoopOptions(checks=condition.checks, turn_tokens=condition.turn_tokens)
        if condition.faults:
            tools = with_faults(tools, task.id)
            options = replace(options, call_timeout_s=_FAULT_TIMEOUT_S)
        agent = Agent(model, tools, budget=_BUDGET, options=options)
        result = await run_agent(agent, task.question, of=RunOf(TENANT), approver=_approved)
        answer = result.text if result.status == "completed" else ""
        verdict = judged(task, answer, folder)
    notes = Counter(entry.step.check for entry in result.entries if isinstance(entry.step, Noted))
    return TaskRun(task, verdict, result.text, result.spent.calls, notes, result)


async def _approved(_call: ToolCall, _tool: Tool) -> tuple[bool, str]:
    return True, ""


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the faults that are injected out of the log."""
    log = logging.getLogger("deepwell.agents")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def with_faults(tools: Sequence[Tool], seed: str, share: float = FAULT_SHARE) -> list[Tool]:
    """Returns tools of which a share of the calls fails before it does anything: half break, half never come back.

    The hash of the seed and the number of the call in its run decides, so that a run has the same faults again.
    """
    number = iter(range(1_000_000))

    def faulty(tool: Tool) -> Tool:
        async def run(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
            drawn = hashlib.sha256(f"{seed}/{next(number)}".encode()).digest()
            if drawn[0] < 256 * share:
                if drawn[1] % 2:
                    raise ConnectionError("the connection was reset")
                await asyncio.Event().wait()
            return await tool.run(arguments, context)

        return replace(tool, run=run)

    return [faulty(one) for one in tools]

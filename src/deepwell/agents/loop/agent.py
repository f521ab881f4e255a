"""`Agent` and `run_agent`: a model that calls tools until it has an answer, its budget is used up, or it is told to stop.

`next_action` decides, this module acts: it asks the model, makes calls, and keeps every step before the next one begins. A run
that stopped anywhere goes on by the same call with the same log.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from msgspec import structs

from deepwell.agents.loop.actions import Append, Ask, Call, ClientTool, Done, ReadyCall, Wait
from deepwell.agents.loop.arguments import check_schema
from deepwell.agents.loop.asking import ask_model
from deepwell.agents.loop.budget import Budget, Limit, Spent
from deepwell.agents.loop.calling import call_tool
from deepwell.agents.loop.deciding import next_action
from deepwell.agents.loop.guiding import narrowed, task_of
from deepwell.agents.loop.log import MemoryLog, RunLog
from deepwell.agents.loop.model import ChatModel, Message, ToolCall
from deepwell.agents.loop.options import LoopOptions
from deepwell.agents.loop.state import RunState
from deepwell.agents.loop.steps import (
    CallEnded,
    CallStarted,
    Decided,
    Ended,
    EndStatus,
    Entry,
    Guidance,
    OfferedTool,
    Started,
    Step,
    WorkedCall,
)
from deepwell.agents.tools.tool import Guide, Tool, ToolCallContext
from deepwell.errors import InvalidRequest
from deepwell.models.text.shipped import shipped

__all__ = ["INSTRUCTIONS", "Agent", "Approver", "RunOf", "RunResult", "begun", "run_agent"]

INSTRUCTIONS = shipped(
    "You solve the user's task with tools. Call a tool for every fact and every computation; do not guess. "
    "When the results hold the answer, give it in one short message."
)

_MOST_WORDS = 20_000  # characters of a task in which tools look for clues
_MOST_MENTIONS = 64  # words of a task that a tool is to be called with

Approver = Callable[[ToolCall, Tool], Awaitable[tuple[bool, str]]]
"""Asks a person about a call. Returns whether it may be made, and the reason."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A model with its tools and limits. Names of tools are unique.

    Attributes:
        model: answers each turn.
        tools: what it may call.
        instructions: the system's message; empty: there is none.
        budget: what one run may use.
        options: limits of turns and calls, and whether checks are on. A run keeps those that it began with.
    """

    model: ChatModel
    tools: Sequence[Tool | ClientTool]
    instructions: str = INSTRUCTIONS
    budget: Budget = field(default_factory=Budget)
    options: LoopOptions = field(default_factory=LoopOptions)


@dataclass(frozen=True, slots=True)
class RunOf:
    """The tenant of a run, and its id."""

    tenant: str = ""
    run_id: str = field(default_factory=lambda: f"run_{uuid.uuid4().hex}")


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of a run, or the place where it waits.

    Attributes:
        status: how it ended, or `requires_action` while it waits.
        text: the answer; without one, the last text of the model.
        reason: why it ended, where it was not by an answer.
        limit: the limit that was reached, if one was.
        spent: what it has used.
        approvals: calls that wait for a person.
        outputs: calls that wait for the client's results.
        entries: its steps.
    """

    status: EndStatus | Literal["requires_action"]
    text: str
    reason: str
    limit: Limit | None
    spent: Spent
    approvals: Sequence[ToolCall] = ()
    outputs: Sequence[ToolCall] = ()
    entries: Sequence[Entry] = ()


def begun(agent: Agent, task: str | Sequence[Message]) -> Started:
    """Returns the first step of a run.

    Raises:
        InvalidRequest: the task is empty, a schema cannot be used, or two tools have one name.
        MissingDependency: the extra `[agents]` is missing.
    """
    names = [one.name for one in agent.tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(
            f"two tools are called {twice!r}", fix="give each a name of its own", param="tools"
        )
    for one in agent.tools:
        check_schema(one.name, one.function().schema(), param="tools")
    given = [{"role": "user", "content": task}] if isinstance(task, str) else [dict(one) for one in task]
    if not given or (isinstance(task, str) and not task.strip()):
        raise InvalidRequest("the task is empty", fix="say what the agent is to do", param="input")
    system = [{"role": "system", "content": agent.instructions}] if agent.instructions else []
    # A longer text is material more than a task, and would be searched for thousands of words at each turn.
    words = task_of(given)[:_MOST_WORDS] if agent.options.checks else ""
    offered = [_offered(one, words) for one in agent.tools]
    return Started(agent.model.name, system + given, offered, agent.budget, agent.options)


def _offered(tool: Tool | ClientTool, words: str) -> OfferedTool:
    """Returns a tool as the log keeps it, with what the words of the task say of it."""
    schema = tool.function().schema()
    if isinstance(tool, ClientTool):
        return OfferedTool(tool.name, tool.description, schema, tool.strict, is_client=True)
    return OfferedTool(
        tool.name,
        tool.description,
        schema,
        tool.strict,
        tool.effects,
        tool.approval,
        guidance=_guidance(tool.guide, words) if tool.guide and words else None,
    )


def _guidance(guide: Guide, words: str) -> Guidance:
    found = guide.clues(words)
    worked = tuple(WorkedCall(one.known, one.task, dict(one.arguments), one.result) for one in guide.examples)
    return Guidance(
        found.weight,
        tuple(found.mentions[:_MOST_MENTIONS]),
        guide.advice,
        worked,
        guide.source,
        guide.fills,
        guide.computes,
    )


async def run_agent(
    agent: Agent,
    task: str | Sequence[Message] | None = None,
    *,
    log: RunLog | None = None,
    of: RunOf | None = None,
    cancelled: asyncio.Event | None = None,
    approver: Approver | None = None,
    on_step: Callable[[Entry], None] | None = None,
) -> RunResult:
    """Runs an agent until its run ends or has to wait. With a log that has entries, the run goes on where they end.

    Args:
        task: what is to be done, for a new run.
        log: keeps the steps; None: memory does.
        of: whose run it is.
        cancelled: set, it ends the run within one step.
        approver: asks a person; without it the run stops until the log has the decision.
        on_step: is told of each step once it is kept.

    Raises:
        InvalidRequest: there is no task, or a tool cannot be offered.
        DeepwellError: a step cannot be kept.
    """
    log = MemoryLog() if log is None else log
    driver = _Driver(agent, log, of or RunOf(), cancelled or asyncio.Event(), approver, on_step)
    await driver.load()
    if driver.state.started is None:
        if task is None:
            raise InvalidRequest("the run has no task", fix="give one")
        # Tools look into folders and tables for what the task names.
        await driver.keep(await asyncio.to_thread(begun, agent, task))
    waits = await driver.drive()
    ended = driver.state.ended or Ended("incomplete", driver.state.last_text)
    return RunResult(
        "requires_action" if waits else ended.status,
        ended.text,
        ended.reason,
        ended.limit,
        driver.state.spent,
        waits.approvals if waits else (),
        waits.outputs if waits else (),
        await log.entries(),
    )


class _Driver:
    """Acts for one run."""

    def __init__(
        self,
        agent: Agent,
        log: RunLog,
        of: RunOf,
        cancelled: asyncio.Event,
        approver: Approver | None,
        on_step: Callable[[Entry], None] | None,
    ) -> None:
        self.state = RunState()
        self._agent = agent
        self._log = log
        self._of = of
        self._cancelled = cancelled
        self._approver = approver
        self._on_step = on_step
        self._tools = {one.name: one for one in agent.tools}
        self._worked = 0.0  # seconds before `_since`
        self._since = time.monotonic()

    async def load(self) -> None:
        """Reads what the run has done."""
        self.state = RunState.folded(await self._log.entries())
        self._worked, self._since = self.state.spent.seconds, time.monotonic()

    async def keep(self, step: Step, *, clock: float | None = None) -> None:
        """Keeps a step, and takes it. `clock`: time of the decision for it; None: now."""
        entry = Entry(self.state.next, time.time(), self._clock() if clock is None else clock, step)
        await self._log.append(entry)
        self.state.apply(entry)
        if self._on_step is not None:
            self._on_step(entry)

    async def drive(self) -> Wait | None:
        """Acts until the run ends or waits. Returns what it waits for."""
        while True:
            now = max(self.state.spent.seconds, self._clock())
            self.state.spent.seconds = now  # the decision depends on it
            action = next_action(self.state, self._tools)
            if isinstance(action, Done):
                return None
            if self._cancelled.is_set():
                await self.keep(self._cancellation(), clock=now)
                continue
            match action:
                case Append():
                    await self.keep(action.step, clock=now)
                case Ask():
                    await self._ask(action)
                case Call():
                    await self._call(action.calls)
                case Wait():
                    if not await self._decide(action):
                        return action

    @property
    def _options(self) -> LoopOptions:
        assert self.state.started is not None
        return self.state.started.options

    def _clock(self) -> float:
        return self._worked + time.monotonic() - self._since

    def _left_s(self) -> float:
        assert self.state.started is not None
        return max(0.0, self.state.started.budget.seconds - self._clock())

    def _cancellation(self) -> Step:
        """Returns the end of a cancelled run; a call that may have been made has to be known first."""
        for id, begun_call in self.state.begun.items():
            outcome = "unknown" if begun_call.effects == "writes" else "cancelled"
            return CallEnded(id, outcome, "The run was cancelled before the result of this call was known.")
        return Ended("cancelled", self.state.last_text, f"the run was cancelled: {self.state.spent.shown()}")

    async def _ask(self, action: Ask) -> None:
        tools = [narrowed(self._tools[name].function(), action.fills) for name in action.offered]
        for step in await ask_model(
            self._agent.model, action, tools, self.state, seconds=self._left_s(), cancelled=self._cancelled
        ):
            await self.keep(step)

    async def _call(self, calls: Sequence[ReadyCall]) -> None:
        for call in calls:
            await self.keep(CallStarted(call.id, call.tool.name, call.arguments, call.tool.effects))
        slots = asyncio.Semaphore(self._options.parallel)
        making = [asyncio.ensure_future(self._one(call, slots)) for call in calls]
        try:
            for ended in asyncio.as_completed(making):
                await self.keep(await ended)
        finally:
            for one in making:
                one.cancel()
            await asyncio.gather(*making, return_exceptions=True)

    async def _one(self, call: ReadyCall, slots: asyncio.Semaphore) -> CallEnded:
        async with slots:
            seconds = min(self._options.call_timeout_s, self._left_s())
            context = ToolCallContext(self._of.tenant, self._of.run_id, call.id, seconds)
            ended = await call_tool(
                call.tool, call.arguments, context, self._options, cancelled=self._cancelled
            )
            return structs.replace(ended, text=call.note + ended.text) if call.note else ended

    async def _decide(self, wait: Wait) -> bool:
        """Asks about the next call, if there is someone to ask. Returns whether the run may go on."""
        if self._approver is None or not wait.approvals:
            return False
        call = wait.approvals[0]
        tool = self._tools[call.name]
        assert isinstance(tool, Tool)
        self._worked = self._clock()
        asking = asyncio.ensure_future(self._approver(call, tool))
        stop = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({asking, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not asking.done():
                asking.cancel()
            self._since = time.monotonic()
        if asking.done() and not asking.cancelled():
            is_approved, reason = asking.result()
            await self.keep(Decided(call.id, is_approved, reason))
        return True

"""Random models and random faults of tools: nothing is raised, budgets hold, and the log replays to the same conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.agents.loop.scripted import ADD, TEXT, Scripted

from deepwell.agents.loop.actions import ClientTool
from deepwell.agents.loop.agent import Agent, RunResult, run_agent
from deepwell.agents.loop.budget import Budget
from deepwell.agents.loop.log import MemoryLog
from deepwell.agents.loop.model import ModelTurn, ToolCall, TurnRefused
from deepwell.agents.loop.options import LoopOptions
from deepwell.agents.loop.replay import replay
from deepwell.agents.loop.state import RunState
from deepwell.agents.loop.steps import CallEnded, CallStarted, Ended, Entry
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput
from deepwell.errors import DeepwellError

NAMES = st.sampled_from(["add", "write", "ask", "client", "ADD", "", "weather"])
ARGUMENTS = st.sampled_from(
    ['{"a": 1, "b": 2}', '{"text": "x"}', "{}", "", "[", '{"a": 1e999}', '{"text": "\\ud800"}', "null"]
)
CALLS = st.builds(
    ToolCall, st.sampled_from(["", "c", "d", "turn0_0", "\ud800"]), NAMES, ARGUMENTS | st.text(max_size=8)
)
TURNS = st.builds(
    ModelTurn,
    st.sampled_from(
        ["", "42", "The answer is 977.", '{"name": "add", "arguments": {"a": 1, "b": 2}}', "\ud800\0"]
    ),
    st.lists(CALLS, max_size=4).map(tuple),
    st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    st.integers(-1, 50),
    st.integers(-1, 50),
)
ERRORS = st.sampled_from([DeepwellError("gone"), TurnRefused("no"), ValueError("\ud800")])
SCRIPTS = st.lists(TURNS | TURNS | TURNS | ERRORS, max_size=8)
RESULTS = st.lists(
    st.sampled_from(["ok", "fails", "raises", "hangs", "cancels", "nonsense", "long", "\ud800"]),
    min_size=1,
    max_size=8,
)
BUDGETS = st.builds(Budget, st.integers(1, 6), st.integers(1, 5), st.integers(1, 300), st.just(100.0))
DECISIONS = st.lists(st.booleans(), min_size=1, max_size=4)


def faulty(results: list[str]) -> Any:
    made = iter(range(1_000_000))

    async def run(_arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
        kind = results[next(made) % len(results)]
        match kind:
            case "fails":
                return ToolOutput("no", failed=True)
            case "raises":
                raise RuntimeError("broken \ud800")
            case "hangs":
                await asyncio.Event().wait()
            case "cancels":
                raise asyncio.CancelledError
            case "nonsense":
                return object()  # pyright: ignore[reportReturnType]
            case "long":
                return ToolOutput("9" * 10_000, data={1: float("nan")})
            case _:
                pass
        return ToolOutput(kind, data=object())

    return run


def tools_with(results: list[str]) -> list[Tool | ClientTool]:
    run = faulty(results)
    return [
        Tool("add", "", ADD, run),
        Tool("write", "", TEXT, run, "writes"),
        Tool("ask", "", TEXT, run, "writes", "always"),
        ClientTool("client", "", TEXT),
    ]


async def to_the_end(
    script: list[Any], results: list[str], budget: Budget, yes: list[bool], checks: bool
) -> RunResult:
    log = MemoryLog()
    options = LoopOptions(checks=checks, call_timeout_s=0.001, output_characters=50)
    agent = Agent(Scripted(list(script)), tools_with(results), budget=budget, options=options)
    asked = iter(range(1_000_000))

    async def decide(_call: ToolCall, _tool: Tool) -> tuple[bool, str]:
        return yes[next(asked) % len(yes)], "because"

    result = await run_agent(agent, "go", log=log, approver=decide)
    for _ in range(100):
        if result.status != "requires_action":
            return result
        for call in result.outputs:
            number = len(await log.entries())
            await log.append(Entry(number, 0.0, 0.0, CallStarted(call.id, call.name, {}, "reads")))
            await log.append(Entry(number + 1, 0.0, 0.0, CallEnded(call.id, "ok", "given")))
        result = await run_agent(agent, log=log, approver=decide)
    raise AssertionError("the run has no end")


@given(SCRIPTS, RESULTS, BUDGETS, DECISIONS, st.booleans())
async def test_any_run_ends_within_its_budgets_and_replays(
    script: list[Any], results: list[str], budget: Budget, yes: list[bool], checks: bool
) -> None:
    result = await to_the_end(script, results, budget, yes, checks)
    assert result.status in ("completed", "incomplete", "failed")
    assert result.status == "completed" or result.reason
    assert result.spent.turns <= budget.turns
    assert result.spent.calls <= budget.calls
    played = replay(result.entries)
    assert played.diverged_at is None, played.why
    assert played.messages == RunState.folded(result.entries).messages()
    assert isinstance(result.entries[-1].step, Ended)


@given(SCRIPTS, RESULTS, st.integers(0, 30))
async def test_a_run_that_stops_anywhere_goes_on_and_writes_nothing_twice(
    script: list[Any], results: list[str], stop: int
) -> None:
    class Crash(BaseException):
        pass

    class Log(MemoryLog):
        async def append(self, entry: Entry) -> None:
            if entry.number == stop:
                raise Crash
            await super().append(entry)

    made: list[str] = []
    run = faulty(results)

    async def counted(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
        made.append(context.call_id)
        return await run(arguments, context)

    tools = [Tool("add", "", ADD, run), Tool("write", "", TEXT, counted, "writes")]
    options = LoopOptions(call_timeout_s=0.001)
    agent = Agent(Scripted(list(script)), tools, options=options)
    log = Log()
    with suppress(Crash):
        await run_agent(agent, "go", log=log)
    log = MemoryLog(await log.entries())
    result = await run_agent(agent, "go", log=log)
    assert result.status in ("completed", "incomplete", "failed")
    assert len(set(made)) == len(made)
    played = replay(result.entries)
    assert played.diverged_at is None, played.why

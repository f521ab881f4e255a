"""A run: its calls, its budgets, its ends, and how it goes on after an interruption."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from tests.agents.loop.scripted import TEXT, Notebook, Scripted, adder, call, say

from deepwell.agents.loop.actions import ClientTool
from deepwell.agents.loop.agent import Agent, RunResult, run_agent
from deepwell.agents.loop.budget import Budget
from deepwell.agents.loop.log import MemoryLog
from deepwell.agents.loop.model import ModelTurn, ToolCall, TurnRefused
from deepwell.agents.loop.options import LoopOptions
from deepwell.agents.loop.replay import replay
from deepwell.agents.loop.steps import CallEnded, CallStarted, Decided, Entry, Turned
from deepwell.agents.tools.tool import Tool, ToolOutput
from deepwell.errors import ContextLengthExceeded, DeepwellError, InvalidRequest

PLAIN = LoopOptions(checks=False)


def outcomes(result: RunResult) -> list[str]:
    return [one.step.outcome for one in result.entries if isinstance(one.step, CallEnded)]


def texts(result: RunResult) -> list[str]:
    return [one.step.text for one in result.entries if isinstance(one.step, CallEnded)]


def read(model: Scripted, turn: int) -> list[Any]:
    """Results of tools that the model read in a turn."""
    return [one["content"] for one in model.asked[turn] if one["role"] == "tool"]


async def test_a_run_calls_tools_and_answers() -> None:
    model = Scripted([call(("add", '{"a": 20, "b": 22}')), say("It is 42.")])
    result = await run_agent(Agent(model, [adder()]), "What is 20 + 22?")
    assert (result.status, result.text, result.reason) == ("completed", "It is 42.", "")
    assert {"role": "tool", "tool_call_id": "c0", "content": "42"} in model.asked[1]
    assert (result.spent.turns, result.spent.calls, result.spent.tokens) == (2, 1, 40)


async def test_results_stand_in_the_order_of_the_calls() -> None:
    slow = asyncio.Event()

    async def first(_arguments: Any, _context: Any) -> ToolOutput:
        await slow.wait()
        return ToolOutput("first")

    async def second(_arguments: Any, _context: Any) -> ToolOutput:
        slow.set()
        return ToolOutput("second")

    tools = [Tool("one", "", {}, first), Tool("two", "", {}, second)]
    model = Scripted([call(("one", ""), ("two", "")), say("ok")])
    result = await run_agent(Agent(model, tools), "go")
    assert texts(result) == ["second", "first"]
    assert read(model, 1) == ["first", "second"]


async def test_reads_run_beside_each_other_and_a_write_alone() -> None:
    book = Notebook()
    reads = call(("read", ""), ("read", '{"x": 1}'), ("write", '{"text": "a"}'), ("write", '{"text": "b"}'))
    tools = [dataclasses.replace(book.read(), parameters={"type": "object"}), book.write()]
    await run_agent(Agent(Scripted([reads, say("ok")]), tools), "go")
    assert book.lines == ["a", "b"]
    assert book.most_running == 2


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Budget(turns=3), "turns"),
        (Budget(calls=3), "calls"),
        (Budget(tokens=70), "tokens"),
    ],
)
async def test_every_budget_ends_a_run_and_says_what_was_reached(budget: Budget, limit: str) -> None:
    turns = [call(("add", f'{{"a": {n}, "b": 1}}')) for n in range(20)]
    result = await run_agent(Agent(Scripted([*turns]), [adder()], budget=budget, options=PLAIN), "go")
    assert (result.status, result.limit) == ("incomplete", limit)
    assert f"{limit} is used up" in result.reason
    assert f"{result.spent.turns} turns" in result.reason
    assert getattr(result.spent, limit) <= getattr(budget, limit)


async def test_the_budget_of_seconds_ends_a_turn_and_a_call() -> None:
    class Slow(Scripted):
        async def complete(self, *_: Any, **__: Any) -> ModelTurn:
            await asyncio.Event().wait()
            raise AssertionError

    short = Budget(seconds=0.05)
    result = await run_agent(Agent(Slow([]), [adder()], budget=short), "go")
    assert (result.status, result.limit) == ("incomplete", "seconds")
    hang = Agent(Scripted([call(("hang", ""))]), [Notebook().hang()], budget=short)
    result = await run_agent(hang, "go")
    assert (result.status, result.limit, outcomes(result)) == ("incomplete", "seconds", ["timeout"])


@pytest.mark.parametrize("name", ["turns", "calls", "tokens", "seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_budget_of_nothing_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name):
        Budget(**{name: value})


async def test_with_checks_the_last_turn_is_for_the_answer() -> None:
    turns = [call(("add", f'{{"a": {n}, "b": 1}}')) for n in range(2)]
    model = Scripted([*turns, say("It is 2.")])
    result = await run_agent(Agent(model, [adder()], budget=Budget(turns=3)), "go")
    assert (result.status, result.text) == ("completed", "It is 2.")
    assert model.choices[-1][0] == "none"


async def test_a_call_that_takes_too_long_is_ended() -> None:
    options = LoopOptions(call_timeout_s=0.01)
    model = Scripted([call(("hang", "")), say("sorry"), say("sorry")])
    result = await run_agent(Agent(model, [Notebook().hang()], options=options), "go")
    assert outcomes(result) == ["timeout"]
    assert "longer than" in texts(result)[0]


async def test_a_writing_call_that_took_too_long_may_have_been_made() -> None:
    options = LoopOptions(call_timeout_s=0.01)
    model = Scripted([call(("hang", "")), say("sorry"), say("sorry")])
    result = await run_agent(Agent(model, [Notebook().hang("writes")], options=options), "go")
    assert "may have done its work" in texts(result)[0]


async def test_a_long_result_says_what_was_cut() -> None:
    async def long(_arguments: Any, _context: Any) -> ToolOutput:
        return ToolOutput("x" * 500)

    options = LoopOptions(output_characters=100)
    model = Scripted([call(("long", "")), say("ok")])
    result = await run_agent(Agent(model, [Tool("long", "", {}, long)], options=options), "go")
    assert "the first 100 of 500 characters" in texts(result)[0]
    ended = next(one.step for one in result.entries if isinstance(one.step, CallEnded))
    assert ended.characters == 500


@pytest.mark.parametrize(
    "fault", [ValueError("bad\ud800"), KeyError("x"), RecursionError(), asyncio.CancelledError()]
)
async def test_a_tool_that_breaks_is_a_result(fault: BaseException) -> None:
    async def broken(_arguments: Any, _context: Any) -> ToolOutput:
        raise fault

    model = Scripted([call(("broken", "")), say("it broke"), say("it broke")])
    result = await run_agent(Agent(model, [Tool("broken", "", {}, broken)]), "go")
    assert (result.status, outcomes(result)) == ("completed", ["fault"])


async def test_a_domain_error_is_words_that_the_model_can_use() -> None:
    async def refuse(_arguments: Any, _context: Any) -> ToolOutput:
        raise DeepwellError("no such file", fix="list the folder first")

    model = Scripted([call(("look", "")), say("no"), say("no")])
    result = await run_agent(Agent(model, [Tool("look", "", {}, refuse)]), "go")
    assert texts(result) == ["Error: no such file: list the folder first"]


async def test_cancelling_ends_the_turn_and_the_reading_call() -> None:
    book, cancelled = Notebook(), asyncio.Event()
    agent = Agent(Scripted([call(("hang", ""))]), [book.hang()])
    running = asyncio.ensure_future(run_agent(agent, "go", cancelled=cancelled))
    await book.began.wait()
    cancelled.set()
    result = await running
    assert (result.status, outcomes(result)) == ("cancelled", ["cancelled"])
    assert "cancelled" in result.reason


async def test_cancelling_lets_a_write_finish() -> None:
    cancelled = asyncio.Event()
    book = Notebook()

    async def write(arguments: Any, context: Any) -> ToolOutput:
        cancelled.set()
        await asyncio.sleep(0)
        book.lines.append(arguments["text"])
        return ToolOutput("written")

    model = Scripted([call(("write", '{"text": "a"}'), ("write", '{"text": "b"}'))])
    tool = Tool("write", "", TEXT, write, "writes")
    result = await run_agent(Agent(model, [tool]), "go", cancelled=cancelled)
    assert (result.status, outcomes(result), book.lines) == ("cancelled", ["ok"], ["a"])


async def test_a_run_waits_for_a_person_and_goes_on_with_the_decision() -> None:
    book, log = Notebook(), MemoryLog()
    model = Scripted([call(("write", '{"text": "a"}')), say("ok")])
    agent = Agent(model, [book.write("always")])
    result = await run_agent(agent, "go", log=log)
    assert (result.status, [one.name for one in result.approvals]) == ("requires_action", ["write"])
    assert book.lines == []
    again = await run_agent(agent, log=log)  # nothing has been decided
    assert again.status == "requires_action"
    number = len(await log.entries())
    await log.append(Entry(number, 0.0, 0.0, Decided(result.approvals[0].id, True)))
    result = await run_agent(agent, log=log)
    assert (result.status, book.lines) == ("completed", ["a"])


async def test_a_denied_call_is_not_made_and_the_model_reads_why() -> None:
    book = Notebook()
    model = Scripted([call(("write", '{"text": "a"}')), say("I may not.")])

    async def deny(_call: ToolCall, _tool: Tool) -> tuple[bool, str]:
        return False, "not on a Friday"

    result = await run_agent(Agent(model, [book.write("always")]), "go", approver=deny)
    assert (result.status, book.lines, outcomes(result)) == ("completed", [], ["denied"])
    assert "not on a Friday" in texts(result)[0]


async def test_a_clients_tool_waits_for_its_results() -> None:
    log = MemoryLog()
    tools = [ClientTool("weather", "Tells the weather.", TEXT)]
    agent = Agent(Scripted([call(("weather", '{"text": "Oslo"}')), say("rain")]), tools)
    result = await run_agent(agent, "go", log=log)
    assert [one.name for one in result.outputs] == ["weather"]
    id, number = result.outputs[0].id, len(await log.entries())
    await log.append(Entry(number, 0.0, 0.0, CallStarted(id, "weather", {"text": "Oslo"}, "reads")))
    await log.append(Entry(number + 1, 0.0, 0.0, CallEnded(id, "ok", "rain")))
    assert (await run_agent(agent, log=log)).text == "rain"


async def test_a_write_that_may_have_been_made_is_never_made_again() -> None:
    book = Notebook()
    begun = [
        *(await run_agent(Agent(Scripted([]), [book.write()]), "go", log=MemoryLog())).entries[:1],
        Entry(1, 0.0, 0.0, Turned("", [ToolCall("w", "write", '{"text": "a"}')], "tool_calls", 1, 1)),
        Entry(2, 0.0, 0.0, CallStarted("w", "write", {"text": "a"}, "writes")),
    ]
    model = Scripted([say("I cannot tell.")])
    result = await run_agent(Agent(model, [book.write()]), log=MemoryLog(begun))
    assert (result.status, outcomes(result), book.lines) == ("completed", ["unknown"], [])
    assert "not known whether" in read(model, 0)[0]


async def test_a_read_is_made_again_after_a_crash() -> None:
    book = Notebook()
    begun = [
        *(await run_agent(Agent(Scripted([]), [book.read()]), "go", log=MemoryLog())).entries[:1],
        Entry(1, 0.0, 0.0, Turned("", [ToolCall("r", "read", "")], "tool_calls", 1, 1)),
        Entry(2, 0.0, 0.0, CallStarted("r", "read", {}, "reads")),
    ]
    result = await run_agent(Agent(Scripted([say("empty")]), [book.read()]), log=MemoryLog(begun))
    assert (result.status, outcomes(result), result.spent.calls) == ("completed", ["ok"], 2)
    assert replay(result.entries).diverged_at is None


async def test_what_the_guard_refuses_is_taken_back() -> None:
    model = Scripted([call(("add", '{"a": 1, "b": 1}')), TurnRefused("injection"), say("I go on.")])
    result = await run_agent(Agent(model, [adder()]), "go")
    assert (result.status, outcomes(result)) == ("completed", ["ok", "withheld"])
    assert "guard withheld" in read(model, 2)[0]
    assert replay(result.entries).diverged_at is None


async def test_a_refused_task_fails() -> None:
    result = await run_agent(Agent(Scripted([TurnRefused("no")]), [adder()]), "go")
    assert (result.status, result.reason) == ("failed", "the guard refused the run: no")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeepwellError("gone", fix="start it"), "failed"),
        (ContextLengthExceeded("9000 tokens"), "incomplete"),
        (RuntimeError("bug"), "failed"),
        (asyncio.CancelledError(), "failed"),
    ],
)
async def test_a_model_that_does_not_answer_ends_the_run(error: BaseException, status: str) -> None:
    result = await run_agent(Agent(Scripted([error]), [adder()]), "go")
    assert result.status == status
    assert result.reason


async def test_ids_are_unique_whatever_the_server_gives() -> None:
    turn = ModelTurn(calls=tuple(ToolCall("same", "add", f'{{"a": {n}, "b": 0}}') for n in range(3)))
    again = ModelTurn(
        calls=(ToolCall("same", "add", '{"a": 9, "b": 0}'), ToolCall("", "add", '{"a": 8, "b": 0}'))
    )
    result = await run_agent(Agent(Scripted([turn, again, say("9")]), [adder()]), "go")
    ids = [one.id for entry in result.entries if isinstance(entry.step, Turned) for one in entry.step.calls]
    assert len(set(ids)) == len(ids) == 5
    assert outcomes(result) == ["ok"] * 5


async def test_a_turn_of_very_many_calls_is_cut_and_says_so() -> None:
    turn = ModelTurn(calls=tuple(ToolCall("", "add", f'{{"a": {n}, "b": 0}}') for n in range(50)))
    model = Scripted([turn, say("ok")])
    result = await run_agent(Agent(model, [adder()]), "go")
    assert len(outcomes(result)) == 32
    assert "first 32" in str(model.asked[1][-1]["content"])


@pytest.mark.parametrize("task", ["", "  ", []])
async def test_an_empty_task_is_refused(task: Any) -> None:
    with pytest.raises(InvalidRequest):
        await run_agent(Agent(Scripted([]), []), task)


async def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="two tools"):
        await run_agent(Agent(Scripted([]), [adder(), adder()]), "go")


async def test_a_log_that_was_changed_diverges() -> None:
    model = Scripted([call(("add", '{"a": 20, "b": 22}')), say("It is 42.")])
    entries = list((await run_agent(Agent(model, [adder()]), "go")).entries)
    assert replay(entries).diverged_at is None
    assert replay(entries).messages[-1]["content"] == "It is 42."
    changed = [entries[0], Entry(1, 0.0, 0.0, CallEnded("c0", "ok", "made up")), *entries[2:]]
    assert replay(changed).diverged_at == 1
    with pytest.raises(InvalidRequest, match="missing"):
        replay([entries[0], *entries[2:]])


async def entries_with(result: str) -> list[Entry]:
    """Steps of a run whose one tool returned a text."""

    async def tell(_arguments: Any, _context: Any) -> ToolOutput:
        return ToolOutput(result)

    model = Scripted([call(("tell", "")), say("ok")])
    return list((await run_agent(Agent(model, [Tool("tell", "", {}, tell)]), "go")).entries)

"""Checks: each speaks where a model goes wrong, once, and not where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.agents.loop.scripted import Notebook, Scripted, adder, call, say
from tests.agents.loop.test_agent import entries_with

from deepwell.agents.loop.agent import Agent, run_agent
from deepwell.agents.loop.checks import unsupported_numbers
from deepwell.agents.loop.options import LoopOptions
from deepwell.agents.loop.plan import plan_tool
from deepwell.agents.loop.state import RunState
from deepwell.agents.loop.steps import CallEnded, Noted
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput

SUM = call(("add", '{"a": 20, "b": 22}'))


async def notes(model: Scripted, *tools: object, checks: bool = True) -> list[str]:
    agent = Agent(model, tools or [adder()], options=LoopOptions(checks=checks))  # pyright: ignore
    result = await run_agent(agent, "What is 20 + 22?")
    assert result.status == "completed"
    return [
        one.step.check for one in result.entries if isinstance(one.step, Noted) and one.step.check != "remind"
    ]


async def test_a_good_run_hears_nothing() -> None:
    assert await notes(Scripted([SUM, say("20 + 22 is 42.")])) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([say("It is 42."), SUM, say("42")], ["no_call"]),
        ([say("Hello."), say("Hello.")], ["no_call"]),
        ([SUM, say(""), say("42")], ["empty"]),
        ([SUM, say("It is 43."), say("It is 42.")], ["unsupported"]),
        ([SUM, say("It is 43."), say("It is 43.")], ["unsupported"]),
        ([call(("add", "{}")), say("It is 20."), SUM, say("42")], ["failed_call"]),
    ],
)
async def test_a_check_speaks_once(script: list[object], said: list[str]) -> None:
    assert await notes(Scripted(list(script))) == said  # pyright: ignore


async def test_without_checks_nothing_is_said() -> None:
    assert await notes(Scripted([say("It is 43.")]), checks=False) == []


async def test_after_an_answer_without_a_call_the_model_has_to_read() -> None:
    model = Scripted([say("It is 42."), SUM, say("42")])
    await notes(model, adder(), Notebook().write())
    assert model.choices == [
        ("required", ["add"]),
        ("required", ["add"]),
        ("auto", ["add", "write"]),
    ]


async def test_the_first_turn_of_a_run_that_can_read_has_to_call() -> None:
    for tools, choice in (
        ([adder(), Notebook().write()], ("required", ["add"])),
        ([Notebook().write()], ("auto", ["write"])),
    ):
        model = Scripted([SUM, say("42"), say("42")])
        await run_agent(Agent(model, tools), "What is 20 + 22?")
        assert model.choices[0] == choice


async def test_a_figure_of_a_forced_answer_that_no_tool_gave_asks_for_another_tool() -> None:
    async def read(_arguments: object, _context: ToolCallContext) -> ToolOutput:
        return ToolOutput("seats: 24")

    reader = Tool("read", "", {}, read)
    model = Scripted([call(("read", "")), call(("read", "")), say("There are 66."), SUM, say("42")])
    result = await run_agent(Agent(model, [reader, adder()]), "How many are there?")
    assert (result.status, result.text) == ("completed", "42")
    assert model.choices[2:4] == [("none", ["read", "add"]), ("required", ["add"])]


async def test_a_plan_with_open_steps_is_no_end() -> None:
    plan = '{"steps": [{"text": "add", "done": %s}]}'
    model = Scripted(
        [call(("plan", plan % "false")), say("ok"), SUM, call(("plan", plan % "true")), say("42")]
    )
    assert await notes(model, adder(), plan_tool()) == ["open_plan"]


async def test_the_same_call_is_not_made_again_until_something_is_written() -> None:
    book = Notebook()
    read = call(("read", ""))
    model = Scripted([read, read, call(("write", '{"text": "a"}')), read, say("a")])
    result = await run_agent(Agent(model, [book.read(), book.write()]), "go")
    ended = [one.step for one in result.entries if isinstance(one.step, CallEnded)]
    assert [one.outcome for one in ended] == ["ok", "repeated", "ok", "ok"]
    assert "empty" in ended[1].text
    assert ended[3].text == "a"


async def test_a_model_that_goes_round_is_made_to_answer() -> None:
    model = Scripted([SUM, SUM, SUM, say("42")])
    result = await run_agent(Agent(model, [adder()]), "go")
    assert (result.status, model.choices[-1][0]) == ("completed", "none")


async def test_a_run_that_nothing_comes_of_ends() -> None:
    model = Scripted([call(("subtract", f'{{"a": {n}}}')) for n in range(20)])
    result = await run_agent(Agent(model, [adder()]), "go")
    assert result.status == "incomplete"
    assert result.reason.startswith("nothing came of the last 5 turns")


async def test_an_unknown_name_names_the_nearest() -> None:
    model = Scripted([call(("Add-", '{"a": 1, "b": 2}')), SUM, say("42")])
    result = await run_agent(Agent(model, [adder()]), "go")
    ended = next(one.step for one in result.entries if isinstance(one.step, CallEnded))
    assert "Did you mean 'add'" in ended.text


async def test_calls_in_text_are_made() -> None:
    model = Scripted(
        [say('I add.\n```json\n{"name": "add", "arguments": {"a": 20, "b": 22}}\n```'), say("42")]
    )
    result = await run_agent(Agent(model, [adder()]), "go")
    assert (result.text, result.spent.calls) == ("42", 1)
    plain = Agent(
        Scripted([say('{"name": "add", "arguments": {}}')]), [adder()], options=LoopOptions(checks=False)
    )
    assert (await run_agent(plain, "go")).spent.calls == 0


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("about 1,234.5 units", []),
        ("about 1235 units", []),
        ("3 of 9 files", []),
        ("99 bottles and 1.25 litres", ["99", "1.25"]),
        ("共1234元，另付88元", ["88"]),
    ],
)
async def test_numbers_come_from_the_task_or_a_tool(answer: str, missing: list[str]) -> None:
    assert unsupported_numbers(RunState.folded(await entries_with("1234.50")), answer) == missing


async def test_a_reading_call_that_breaks_is_made_again_and_a_writing_one_is_not() -> None:
    made: list[str] = []

    async def fragile(_arguments: object, context: ToolCallContext) -> ToolOutput:
        made.append(context.call_id)
        if len(made) % 3:
            raise OSError("busy")
        return ToolOutput("42")

    reads = Tool("fragile", "", {}, fragile)
    for tool, outcome, times in ((reads, "ok", 3), (replace(reads, effects="writes"), "fault", 1)):
        made.clear()
        result = await run_agent(Agent(Scripted([call(("fragile", "")), say("42")]), [tool]), "go")
        ended = next(one.step for one in result.entries if isinstance(one.step, CallEnded))
        assert (ended.outcome, len(made)) == (outcome, times)


async def test_a_call_that_was_refused_is_not_made_again() -> None:
    async def fail(_arguments: object, _context: ToolCallContext) -> ToolOutput:
        return ToolOutput("no such table", failed=True)

    same = call(("look", ""))
    model = Scripted([same, same, same, say("There is no such table.")])
    result = await run_agent(Agent(model, [Tool("look", "", {}, fail)]), "go")
    ended = [one.step.outcome for one in result.entries if isinstance(one.step, CallEnded)]
    assert (result.status, ended) == ("completed", ["failed", "repeated", "repeated"])


async def test_a_read_leaves_out_what_its_tool_does_not_know_and_a_write_is_not_made() -> None:
    book = Notebook()
    arguments = '{"text": "a", "dry_run": true}'
    model = Scripted([call(("write", arguments)), call(("add", '{"a": 1, "b": 2, "type": 0}')), say("3")])
    result = await run_agent(Agent(model, [book.write(), adder()]), "go")
    ended = [one.step for one in result.entries if isinstance(one.step, CallEnded)]
    assert [one.outcome for one in ended] == ["invalid", "ok"]
    assert ended[1].text == "[add has no argument type: left out]\n3"
    assert book.lines == []
    assert model.choices[1] == ("required", ["write"])


async def test_the_task_is_said_again_behind_results() -> None:
    model = Scripted([SUM, say("42")])
    await run_agent(Agent(model, [adder()]), "What is 20 + 22?")
    assert str(model.asked[1][-1]["content"]).endswith("The task: What is 20 + 22?")


async def test_a_call_that_takes_too_long_is_made_three_times_at_most() -> None:
    for hangs, outcomes in ((2, ["timeout", "timeout", "ok"]), (9, ["timeout"] * 3 + ["repeated"])):
        left = iter(range(hangs))

        async def run(
            _arguments: object, _context: ToolCallContext, left: Iterator[int] = left
        ) -> ToolOutput:
            if next(left, None) is not None:
                await asyncio.Event().wait()
            return ToolOutput("42")

        model = Scripted([*(SUM for _ in outcomes), say("42"), say("42")])
        options = LoopOptions(call_timeout_s=0.01)
        result = await run_agent(
            Agent(model, [replace(adder(), run=run)], options=options), "What is 20 + 22?"
        )
        assert [one.step.outcome for one in result.entries if isinstance(one.step, CallEnded)] == outcomes

"""Guidance: a model that goes round is asked for one call after the other, and for the answer from what is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.agents.loop.scripted import Notebook, Scripted, call, say

from deepwell.agents.loop.actions import ClientTool
from deepwell.agents.loop.agent import Agent, RunResult, run_agent
from deepwell.agents.loop.guiding import narrowed
from deepwell.agents.loop.options import LoopOptions
from deepwell.agents.loop.replay import replay
from deepwell.agents.loop.steps import CallEnded, Noted, Started, decode_entry, encode_entry
from deepwell.agents.tools import Clues, Example, Guide, Tool, ToolCallContext, ToolOutput, calculator
from deepwell.dialogue.tools import FunctionTool

FILES = {"a.txt": "Seats: 64", "b.txt": "Seats: 22", "room-7.txt": "Seats: 31"}
TASK = "How many seats do a.txt and b.txt have together?"
READ_A, READ_B = call(("read", '{"path": "a.txt"}')), call(("read", '{"path": "b.txt"}'))
SUM = call(("calculate", '{"expression": "64 + 22"}'))


def reader() -> Tool:
    async def run(arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
        text = FILES.get(arguments["path"])
        return ToolOutput(text or "there is no such file", failed=text is None)

    schema = {
        "type": "object",
        "properties": {"path": {"type": "string"}, "start": {"type": "integer"}},
        "required": ["path"],
    }

    def clues(task: str) -> Clues:
        found = tuple(one for one in FILES if one in task)
        return Clues(0.9 if found else 0.0, found)

    return Tool("read", "Reads a file.", schema, run, guide=Guide(clues, fills="path"))


async def run(model: Scripted, *tools: Tool, task: str = TASK, checks: bool = True) -> RunResult:
    agent = Agent(model, tools or [reader(), calculator()], options=LoopOptions(checks=checks))
    result = await run_agent(agent, task)
    assert replay(result.entries).diverged_at is None
    return result


def notes(result: RunResult) -> list[str]:
    return [one.step.check for one in result.entries if isinstance(one.step, Noted)]


def outcomes(result: RunResult) -> list[str]:
    return [one.step.outcome for one in result.entries if isinstance(one.step, CallEnded)]


def last_text(messages: Sequence[Mapping[str, Any]]) -> str:
    return str(messages[-1]["content"])


async def test_the_first_turn_offers_the_tool_that_the_task_names() -> None:
    model = Scripted([READ_A, say("86")])
    await run(model)
    assert model.choices[0] == ("required", ["read"])
    assert last_text(model.asked[0]) == "Call read with a.txt."


async def test_a_model_that_goes_round_is_led_through_the_task() -> None:
    model = Scripted([READ_A, READ_A, READ_B, SUM, say("There are 86 seats.")])
    result = await run(model)
    assert (result.status, result.text) == ("completed", "There are 86 seats.")
    assert outcomes(result) == ["ok", "repeated", "ok", "ok"]
    assert [choice for choice, _ in model.choices] == ["required", "auto", "required", "required", "none"]
    assert [offered for choice, offered in model.choices if choice == "required"] == [
        ["read"],
        ["read"],
        ["calculate"],
    ]
    # The dialogue, whose newest call it would repeat, is not shown any more.
    assert not any(one["role"] == "tool" for one in model.asked[2])
    assert "The result of 64 + 22 is 86." in last_text(model.asked[4])


async def test_a_comma_that_a_query_finds_is_no_number() -> None:
    async def run_query(_arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
        return ToolOutput("mark\n,")

    schema = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    guide = Guide(lambda _: Clues(0.9), source="tables", computes="rows")
    look = call(("query", '{"query": "SELECT mark"}'))
    model = Scripted([look, look, say("It is a comma."), say("It is a comma.")])
    task = "Which mark stands in the table?"
    result = await run(model, Tool("query", "Queries.", schema, run_query, guide=guide), task=task)
    assert (result.status, result.text) == ("completed", "It is a comma.")


async def test_a_task_of_a_million_numbers_is_looked_at_in_part() -> None:
    """Every number of it was kept in the log, and looked for in every call at every turn."""
    model = Scripted([SUM, SUM, say("86")])
    result = await run(model, task="Add: " + " ".join(map(str, range(100_000))))
    assert result.status == "completed"
    started = result.entries[0].step
    assert isinstance(started, Started)
    assert all(len(one.guidance.mentions) <= 64 for one in started.tools if one.guidance)


async def test_an_answer_may_name_any_path_that_a_result_has() -> None:
    """Only the first five were known, so a right answer was objected to, and one of the five asked for."""

    async def listed(_arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
        return ToolOutput("\n".join(f"note-{one}.txt" for one in range(9)))

    schema = {"type": "object", "properties": {}}
    files = Tool("list", "Lists files.", schema, listed, guide=Guide(lambda _: Clues(0.9), source="files"))
    model = Scripted([call(("list", "{}")), say("It is note-8.txt.")])
    result = await run(model, files, task="Which file is the newest?")
    assert (result.text, "no_path" in notes(result)) == ("It is note-8.txt.", False)


async def test_a_log_from_before_there_were_guides_is_replayed() -> None:
    tools = [replace(reader(), guide=None), replace(calculator(), guide=None)]
    options = LoopOptions(guidance=False)
    model = Scripted([READ_A, say("The path is not known. It cannot be found.")])
    result = await run_agent(Agent(model, tools, options=options), "Which file has the path?")
    told = [json.loads(encode_entry(one)) for one in result.entries]
    del told[0]["step"]["options"]["guidance"]
    for one in told[0]["step"]["tools"]:
        del one["guidance"]
    old = [decode_entry(json.dumps(one)) for one in told]
    assert replay(old).diverged_at is None, replay(old).why


async def test_blanks_without_end_in_a_call_are_read_once() -> None:
    """Each of them was a place to begin at, and the event loop stood for minutes."""
    blanks = " " * 200_000
    model = Scripted([call(("calculate", f'{{"expression": "6 * 7{blanks}"}}')), say("42")])
    assert (await run(model, task="What is 6 * 7?")).status == "completed"


async def test_functions_of_a_client_are_not_kept_from_the_first_turn() -> None:
    """The model was made to call a tool of the server, and told to compute where it had nothing to compute with."""
    weather = ClientTool("weather", "Tells the weather.", {"type": "object", "properties": {}})
    model = Scripted([call(("weather", "{}"))])
    agent = Agent(model, [calculator(), weather])
    result = await run_agent(agent, "How is the weather?")
    assert (result.status, [one.name for one in result.outputs]) == ("requires_action", ["weather"])
    assert model.choices == [("auto", ["calculate", "weather"])]


async def test_a_model_that_does_not_go_round_is_let_be() -> None:
    model = Scripted([READ_A, READ_B, SUM, say("86")])
    result = await run(model)
    assert [choice for choice, _ in model.choices[1:]] == ["auto", "auto", "auto"]
    assert notes(result) == ["remind", "remind", "remind"]


async def test_an_answer_before_the_task_is_done_is_asked_for_the_rest_once() -> None:
    model = Scripted([READ_A, say("64"), say("64")])
    result = await run(model)
    assert (result.status, result.text) == ("completed", "64")
    assert notes(result).count("unfinished") == 1


async def test_a_path_with_a_number_is_read_by_a_call_that_has_it() -> None:
    model = Scripted([call(("read", '{"path": "room-7.txt"}')), say("31")])
    result = await run(model, task="How many seats does room-7.txt have?")
    assert (result.text, notes(result)) == ("31", ["remind"])


async def test_a_call_is_asked_for_twice_and_then_no_more() -> None:
    wrong = call(("read", '{"path": "c.txt"}'))
    model = Scripted([READ_A, READ_A, wrong, wrong, say("64 in one of them")])
    result = await run(model)
    assert (result.status, notes(result).count("guide")) == ("completed", 2)


async def test_worked_calls_in_the_language_of_the_task_stand_before_the_first_try() -> None:
    names = call(("calculate", '{"expression": "a + b"}'))
    model = Scripted([READ_A, READ_A, READ_B, names, SUM, say("86")])
    await run(model, task="a.txt 和 b.txt 一共有多少个座位？")
    asked = [messages for messages in model.asked if "calculate" in last_text(messages)]
    assert [sum("tool_calls" in one for one in messages) for messages in asked] == [3, 0]
    assert "椅子每把 18 元" in str(asked[0])
    assert "'a' is unknown" in last_text(asked[1])


async def test_an_answer_without_the_computed_number_is_asked_for_it() -> None:
    model = Scripted([READ_A, READ_A, READ_B, SUM, say("Many."), say("86")])
    result = await run(model)
    assert (result.text, notes(result).count("left_out")) == ("86", 1)
    assert last_text(model.asked[-1]) == "Say in one short sentence that the result is 86."


async def test_an_answer_without_the_path_that_was_asked_for_is_asked_for_it() -> None:
    async def find(_arguments: object, _context: ToolCallContext) -> ToolOutput:
        return ToolOutput("letters/june.txt:2: The elevator stands still.")

    finder = Tool("find", "", {}, find, guide=Guide(lambda _: Clues(0.8)))
    same = call(("find", ""))
    model = Scripted([same, same, say("It stands still."), say("letters/june.txt")])
    result = await run(model, finder, task="Which file is about the elevator?")
    assert result.text == "letters/june.txt"
    assert last_text(model.asked[-1]).endswith("Answer with one of these paths: letters/june.txt")


async def test_a_computation_with_numbers_of_its_own_is_refused_twice_and_then_believed() -> None:
    rate = call(("calculate", '{"expression": "64 * 1.07"}'))
    model = Scripted([rate, say("?"), rate, rate, say("68.48")])
    result = await run(model, calculator(), task="What is 64 and 7 percent more?")
    assert outcomes(result)[:2] == ["invalid", "invalid"]
    assert "ok" in outcomes(result)


@pytest.mark.parametrize("expression", ["64 * 60", "22 / 100", "64 * 3", "64 + 22 = 86"])
async def test_numbers_of_the_task_small_ones_and_units_may_be_computed_with(expression: str) -> None:
    model = Scripted([call(("calculate", f'{{"expression": "{expression}"}}')), say("done")])
    result = await run(model, calculator(), task="Compute with 64 and 22.")
    assert outcomes(result)[0] == "ok"


async def test_tools_that_write_are_not_guided() -> None:
    model = Scripted([READ_A, READ_A, say("86")])
    result = await run(model, reader(), calculator(), Notebook().write())
    assert "guide" not in notes(result)


async def test_without_the_option_a_model_that_goes_round_reads_the_dialogue() -> None:
    model = Scripted([READ_A, READ_A, say("64")])
    agent = Agent(model, [reader(), calculator()], options=LoopOptions(guidance=False))
    result = await run_agent(agent, TASK)
    assert "guide" not in notes(result)
    assert all(any(one["role"] == "tool" for one in asked) for asked in model.asked[1:])


async def test_without_checks_there_is_no_guidance() -> None:
    model = Scripted([READ_A, READ_A, say("86")])
    result = await run(model, checks=False)
    assert (notes(result), model.choices[0][0]) == ([], "auto")
    assert all(len(asked) == 2 + 2 * place for place, asked in enumerate(model.asked))


def test_a_call_that_the_loop_asks_for_has_its_required_arguments_alone() -> None:
    tool = reader().function()
    assert narrowed(tool, None) is tool
    assert narrowed(tool, {"path": ["a.txt"]}).schema()["properties"] == {
        "path": {"type": "string", "enum": ["a.txt"]}
    }
    assert narrowed(FunctionTool("none"), {}).schema()["properties"] == {}


def test_examples_of_tools_fit_their_schemas() -> None:
    tool = calculator()
    assert tool.guide is not None
    assert all(
        isinstance(one, Example) and set(one.arguments) == {"expression"} for one in tool.guide.examples
    )


async def test_a_model_whose_calls_break_is_not_led() -> None:
    left = iter(range(2))
    whole = reader()

    async def hanging(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
        if next(left, None) is not None:
            await asyncio.Event().wait()
        return await whole.run(arguments, context)

    model = Scripted([READ_A, READ_A, READ_A, READ_B, SUM, say("86")])
    agent = Agent(
        model, [replace(whole, run=hanging), calculator()], options=LoopOptions(call_timeout_s=0.05)
    )
    result = await run_agent(agent, TASK)
    assert outcomes(result) == ["timeout", "timeout", "ok", "ok", "ok"]
    assert "guide" not in notes(result) and result.text == "86"

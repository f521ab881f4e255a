"""The tool `python`: what a model reads of a program that it wrote."""

from __future__ import annotations

import asyncio

import pytest
from tests.needs import SANDBOX

from deepwell.agents.sandbox import Sandbox, SandboxLimits
from deepwell.agents.tools import ToolCallContext, ToolOutput, python_tool

pytestmark = pytest.mark.needs(SANDBOX)

CONTEXT = ToolCallContext(tenant="t", run_id="r", call_id="c", timeout_s=20.0)


def call(code: str, limits: SandboxLimits | None = None, shown: int = 200) -> ToolOutput:
    """Returns the output of one call."""

    async def run() -> ToolOutput:
        return await python_tool(Sandbox(limits), shown_characters=shown).run({"code": code}, CONTEXT)

    return asyncio.run(run())


def test_what_is_printed_is_the_result() -> None:
    output = call("print(sum(range(101)))")
    assert (output.text, output.failed) == ("5050", False)
    assert output.data["exit_code"] == 0


def test_a_failure_is_the_end_of_the_traceback() -> None:
    output = call("print('before')\nint('x')")
    assert output.failed
    assert output.text.startswith("before\n")
    assert output.text.endswith("ValueError: invalid literal for int() with base 10: 'x'")


def test_long_output_is_cut_and_told() -> None:
    output = call("print('a' * 1000)")
    assert "[... 800 characters cut ...]" in output.text
    assert len(output.text) < 300


def test_a_program_that_prints_nothing_is_told_to() -> None:
    output = call("x = 1\nopen('out.csv', 'w').write('a,b')")
    assert not output.failed
    assert "printed nothing" in output.text
    assert "out.csv (3 bytes)" in output.text


@pytest.mark.fault
def test_limits_are_told() -> None:
    assert "more than 1 s" in call("while True: pass", SandboxLimits(seconds=1)).text
    memory = call("x = bytearray(10**10)")
    assert memory.failed
    assert memory.text.startswith("The program ran out of memory.")


def test_the_schema_takes_one_program() -> None:
    async def schema() -> dict[str, object]:
        return dict(python_tool().function().schema())

    parameters = asyncio.run(schema())
    assert parameters["required"] == ["code"]
    assert parameters["additionalProperties"] is False

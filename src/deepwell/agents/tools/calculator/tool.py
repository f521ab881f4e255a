"""`calculator`: the tool that evaluates arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepwell.agents.tools.calculator.arithmetic import ArithmeticProblem, evaluate, shown
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput

__all__ = ["calculator"]


def calculator() -> Tool:
    """Returns the tool that evaluates one arithmetic expression exactly. It runs no code."""
    return Tool(
        "calculate",
        "Evaluate arithmetic with numbers, for example (12.5 + 3) * 4 or 240 * 15%.",
        {
            "type": "object",
            "properties": {
                "expression": {"type": "string", "minLength": 1, "description": "Numbers and operators only."}
            },
            "required": ["expression"],
            "additionalProperties": False,
        },
        _run,
    )


async def _run(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
    try:
        text = shown(evaluate(str(arguments["expression"])))
    except ArithmeticProblem as error:
        return ToolOutput(str(error), failed=True)
    return ToolOutput(text, data=text)

"""`calculator`: the tool that evaluates arithmetic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from deepwell.agents.tools.calculator.arithmetic import ArithmeticProblem, evaluate, shown
from deepwell.agents.tools.clues import arithmetic_clues
from deepwell.agents.tools.tool import Example, Guide, Tool, ToolCallContext, ToolOutput
from deepwell.models.text.shipped import shipped

__all__ = ["calculator"]

_RESULT: Final = re.compile(r"(?<=\S)\s*=\s*(?:(?:-?\d[\d,]*(?:\.\d+)?|\?)\s*)?$")
"""A result that a model wrote behind the expression, which is not taken from it."""
_EXAMPLES: Final = tuple(
    Example(known, task, {"expression": expression}, result)
    for known, task, expression, result in (
        ("Height: 9\nWidth: 4\nWeight: 31", "By how much is the height larger than the width?", "9 - 4", "5"),
        ("A chair costs 18.\nA table costs 45.", "What do 6 chairs cost?", "6 * 18", "108"),
        ("apples,12\npears,7\nplums,25", "How many fruits are there in all?", "12 + 7 + 25", "44"),
        ("高：9\n宽：4\n重：31", "高比宽多多少？", "9 - 4", "5"),
        ("椅子每把 18 元。\n桌子每张 45 元。", "买 6 把椅子要多少元？", "6 * 18", "108"),
        ("苹果,12\n梨,7\n桃,25", "一共有多少个水果？", "12 + 7 + 25", "44"),
    )
)
_DESCRIPTION: Final = shipped("Compute an arithmetic expression of numbers that you know.")
_EXPRESSION: Final = shipped("Numbers with + - * / ^ % and brackets.")
_ADVICE: Final = (
    shipped("the expression that answers the question. Use only the numbers that it needs, and no names"),
    shipped("回答这个问题的算式，只写所需的数字，不写名称"),
)
_PLAIN: Final = re.compile(r"\s*-?\d[\d,]*(?:\.\d+)?\s*")


def calculator() -> Tool:
    """Returns the tool that evaluates one arithmetic expression exactly. It runs no code."""
    return Tool(
        "calculate",
        _DESCRIPTION,
        {
            "type": "object",
            "properties": {
                "expression": {
                    "type": "string",
                    "minLength": 1,
                    "description": _EXPRESSION,
                }
            },
            "required": ["expression"],
            "additionalProperties": False,
        },
        _run,
        guide=Guide(
            arithmetic_clues,
            _ADVICE,
            _EXAMPLES,
            computes="numbers",
        ),
    )


async def _run(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
    expression = _RESULT.sub("", str(arguments["expression"]))
    if _PLAIN.fullmatch(expression):  # models send a result back in place of an answer
        return ToolOutput(
            f"{expression.strip()[:100]} is a number already. Use it in the next step, or answer.",
            failed=True,
        )
    try:
        text = shown(evaluate(expression))
    except ArithmeticProblem as error:
        return ToolOutput(str(error), failed=True)
    return ToolOutput(text, data=text)

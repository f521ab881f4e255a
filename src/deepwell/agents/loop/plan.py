"""The tool `plan`: steps that the model means to take. They lie in the log of the run, so they survive a crash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepwell.agents.loop.clean import read_json
from deepwell.agents.loop.state import RunState
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput

__all__ = ["PLAN", "open_steps", "plan_tool"]

PLAN = "plan"

_SCHEMA = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "minItems": 1,
            "maxItems": 20,
            "items": {
                "type": "object",
                "properties": {
                    "text": {"type": "string", "maxLength": 200},
                    "done": {"type": "boolean"},
                },
                "required": ["text", "done"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["steps"],
    "additionalProperties": False,
}


def plan_tool() -> Tool:
    """Returns the tool, which replaces the plan and keeps nothing itself."""
    return Tool(
        PLAN,
        "Writes down the steps of a longer task, and which of them are done. Each call replaces the plan.",
        _SCHEMA,
        _plan,
    )


def open_steps(state: RunState) -> list[str]:
    """Returns the steps of the newest plan that are not done."""
    for call, result in reversed(list(state.results())):
        if call.name == PLAN and result.outcome == "ok":
            try:
                steps = read_json(call.arguments)["steps"]
                return [str(one["text"]) for one in steps if not one["done"]]
            except (ValueError, KeyError, TypeError):
                return []
    return []


async def _plan(arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
    steps = arguments["steps"]
    left = [one["text"] for one in steps if not one["done"]]
    return ToolOutput(f"The plan has {len(steps)} steps; {f'next: {left[0]}' if left else 'all are done'}.")

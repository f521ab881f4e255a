"""Tools and formats of a request, in the shape that all chat-like routes share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepwell.engine.protocol import Grammar
from deepwell.errors import InvalidRequest

__all__ = ["ANY_OBJECT", "FunctionTool", "ToolChoice", "allowed", "json_format", "names"]

ANY_OBJECT = Grammar("json_schema", '{"type": "object"}')  # for response_format json_object

# "required" means any function, a tuple means one of the functions with these names.
ToolChoice = Literal["none", "auto", "required"] | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function that the model may call. With `strict`, its arguments always fit the schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    strict: bool = False

    def rendered(self) -> dict[str, Any]:
        """Returns the tool in OpenAI's shape, which templates expect."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        function["parameters"] = self.schema()
        return {"type": "function", "function": function}

    def schema(self) -> dict[str, Any]:
        """Returns the schema of the arguments: an object, without properties if none are declared."""
        if not self.parameters:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}


def allowed(
    tools: Sequence[FunctionTool], some: Sequence[str], mode: Literal["auto", "required"]
) -> tuple[tuple[FunctionTool, ...], ToolChoice]:
    """Returns the tools to offer and the choice that lets a model call only the named ones.

    Raises:
        InvalidRequest: a name is not among the tools.
    """
    known = {tool.name for tool in tools}
    if missing := [name for name in some if name not in known]:
        raise InvalidRequest(
            f"tool_choice names {missing[0]!r}, which is not among the tools",
            fix=f"use one of {names(tools)}" if tools else "send tools",
            param="tool_choice",
        )
    if mode == "required":
        return tuple(tools), tuple(some)
    return tuple(tool for tool in tools if tool.name in some), "auto"


def json_format(schema: Mapping[str, Any]) -> Grammar:
    """Returns the grammar of a JSON schema. Equal schemas with keys in the same order give equal grammars."""
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False))


def names(tools: Sequence[FunctionTool]) -> str:
    """Returns the names of tools, for display."""
    return ", ".join(repr(tool.name) for tool in tools)

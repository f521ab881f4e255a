"""Tools and formats of a request, in the shape that all chat-like routes share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepwell.engine.protocol import Grammar

__all__ = ["ANY_OBJECT", "FunctionTool", "ToolChoice", "json_format"]

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


def json_format(schema: Mapping[str, Any]) -> Grammar:
    """Returns the grammar of a JSON schema. Equal schemas with keys in the same order give equal grammars."""
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False))


def names(tools: Sequence[FunctionTool]) -> str:
    """Returns the names of tools, for display."""
    return ", ".join(repr(tool.name) for tool in tools)

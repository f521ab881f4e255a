"""Tools and formats of a request, in the shape all chat-like routes share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepwell.engine.protocol import Grammar

__all__ = ["ANY_OBJECT", "FunctionTool", "ToolChoice", "json_format"]

ANY_OBJECT = Grammar("json_schema", '{"type": "object"}')  # response_format json_object

# "required": some function; a tuple: one of these functions, by name.
ToolChoice = Literal["none", "auto", "required"] | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function that the model may call. `strict`: arguments always fit the schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    strict: bool = False

    def rendered(self) -> dict[str, Any]:
        """The tool as templates expect it: OpenAI's shape."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        function["parameters"] = self.schema()
        return {"type": "function", "function": function}

    def schema(self) -> dict[str, Any]:
        """The schema of the arguments: an object, without properties where none are declared."""
        if not self.parameters:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}


def json_format(schema: Mapping[str, Any]) -> Grammar:
    """The grammar of a JSON schema; equal schemas give equal grammars."""
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False))


def names(tools: Sequence[FunctionTool]) -> str:
    """Their names, to be shown."""
    return ", ".join(repr(tool.name) for tool in tools)

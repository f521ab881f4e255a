"""Models that answer from a script, and small tools."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepwell.agents.loop.model import Choice, Message, ModelTurn, ToolCall
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput
from deepwell.dialogue.tools import FunctionTool


@dataclass
class Scripted:
    """Answers with the turns of a script, and then says that it is done. An exception in the script is raised."""

    script: list[ModelTurn | BaseException]
    name: str = "scripted"
    asked: list[list[Message]] = field(default_factory=list)
    choices: list[tuple[Choice, list[str]]] = field(default_factory=list)

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[FunctionTool], *, choice: Choice, max_tokens: int
    ) -> ModelTurn:
        self.asked.append(list(messages))
        self.choices.append((choice, [one.name for one in tools]))
        turn = self.script.pop(0) if self.script else ModelTurn("done", completion_tokens=1)
        if isinstance(turn, BaseException):
            raise turn
        return turn


def say(text: str, tokens: int = 10) -> ModelTurn:
    return ModelTurn(text, prompt_tokens=tokens, completion_tokens=tokens)


def call(*calls: tuple[str, str], text: str = "") -> ModelTurn:
    """A turn that calls tools, as (name, arguments)."""
    made = tuple(ToolCall(f"c{number}", name, arguments) for number, (name, arguments) in enumerate(calls))
    return ModelTurn(text, made, "tool_calls", 10, 10)


ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TEXT = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}


async def _add(arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
    return ToolOutput(str(arguments["a"] + arguments["b"]))


def adder() -> Tool:
    return Tool("add", "Adds two integers.", ADD, _add)


@dataclass
class Notebook:
    """Tools over a list of lines: one that writes, one that reads, and one that never ends."""

    lines: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, approval: Literal["never", "always"] = "never") -> Tool:
        return Tool("write", "Appends a line.", TEXT, self._write, "writes", approval)

    def read(self) -> Tool:
        return Tool("read", "Reads the lines.", {}, self._read)

    def hang(self, effects: Literal["reads", "writes"] = "reads") -> Tool:
        return Tool("hang", "Never ends.", {}, self._hang, effects)

    async def _write(self, arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
        self._enter()
        await asyncio.sleep(0)
        self.running -= 1
        self.lines.append(arguments["text"])
        return ToolOutput(f"line {len(self.lines)} written")

    async def _read(self, _arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
        self._enter()
        await asyncio.sleep(0)
        self.running -= 1
        return ToolOutput("\n".join(self.lines) or "empty")

    async def _hang(self, _arguments: Mapping[str, Any], _context: ToolCallContext) -> ToolOutput:
        self.began.set()
        await asyncio.Event().wait()
        raise AssertionError

    def _enter(self) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)

"""`ScriptedModel`: a model that is a script, and solves the held-out tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from deepwell.agents.loop.model import Choice, Message, ModelTurn, ToolCall
from deepwell.dialogue.tools import FunctionTool
from deepwell_bench.workloads.agents.scripted import Solver, solver_of

__all__ = ["ScriptedModel"]

_MOST_TRIES = 6
_FAULT = re.compile(r"^Error: \w+ (?:broke|took longer)")


class ScriptedModel:
    """Solves one task by a script that reads the question and the results. A call that broke is made again.

    Attributes:
        calls: number of calls that it has asked for, the repeated ones not counted.
    """

    name = "scripted"

    def __init__(self) -> None:
        self.calls = 0
        self._solver: Solver | None = None
        self._last: tuple[str, dict[str, Any]] = ("", {})
        self._tries = 0

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[FunctionTool], *, choice: Choice, max_tokens: int
    ) -> ModelTurn:
        """Returns the next call, or the answer."""
        try:
            if self._solver is None:
                question = next(one["content"] for one in messages if one["role"] == "user")
                self._solver = solver_of(question)
                self._last = next(self._solver)
                self.calls += 1
                return self._called()
            result = next(str(one["content"]) for one in reversed(messages) if one["role"] == "tool")
            if _FAULT.match(result) and self._tries < _MOST_TRIES:
                self._tries += 1
                return self._called()
            self._tries = 0
            self._last = self._solver.send(result)
            self.calls += 1
        except StopIteration as end:
            return ModelTurn(str(end.value))
        return self._called()

    def _called(self) -> ModelTurn:
        name, arguments = self._last
        call = ToolCall(f"call_{self.calls}_{self._tries}", name, json.dumps(arguments, ensure_ascii=False))
        return ModelTurn(calls=(call,), finish="tool_calls")

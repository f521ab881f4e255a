"""`ChatModel`: a model as the loop sees it, which answers messages with one turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import DeepwellError

__all__ = ["ChatModel", "Choice", "Message", "ModelTurn", "ToolCall", "TurnRefused"]

Message = Mapping[str, Any]
"""A message in the shape of OpenAI's chat completions."""

Choice = Literal["auto", "required", "none"]
"""The model may, must or must not call a tool in a turn."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asks for. `arguments` is the text that it wrote, which need not be JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ModelTurn:
    """One answer of a model.

    Attributes:
        text: what it said beside its calls.
        calls: calls that it asks for, in its order.
        finish: why it stopped: stop, length, tool_calls or content_filter.
        prompt_tokens: tokens that it read.
        completion_tokens: tokens that it wrote.
        reasoning: its thoughts before the answer, which it does not read again.
    """

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning: str = ""


class ChatModel(Protocol):
    """Answers a conversation. Being cancelled, it stops generating."""

    @property
    def name(self) -> str:
        """The name of the model."""
        ...

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[FunctionTool], *, choice: Choice, max_tokens: int
    ) -> ModelTurn:
        """Returns the next turn.

        Raises:
            TurnRefused: the guard does not let the model read the newest messages.
            DeepwellError: there is no answer, with the reason.
        """
        ...


class TurnRefused(DeepwellError):
    """Raised when a guard keeps the model from reading what a tool returned."""

    status = 400
    type = "invalid_request_error"
    code = "content_filter"

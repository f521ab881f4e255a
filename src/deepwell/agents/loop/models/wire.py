"""`/v1/chat/completions` as the loop writes and reads it, whoever carries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from deepwell.agents.loop.model import Choice, Message, ModelTurn, ToolCall, TurnRefused
from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import ContextLengthExceeded, DeepwellError

__all__ = ["ModelOptions", "chat_body", "error_of", "turn_of"]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Sampling of the turns of a model.

    Attributes:
        temperature: 0 takes the likeliest token, so that a run comes out the same again; None: the model's own.
        top_p: share of the likeliest tokens that are drawn from; None: the model's own.
        seed: of the draws; None: the server's.
        reasoning_effort: how long the model thinks before it answers; None: its own.
    """

    temperature: float | None = 0.0
    top_p: float | None = None
    seed: int | None = None
    reasoning_effort: str | None = None

    def given(self) -> dict[str, Any]:
        """Returns those that are set, by their names in a request."""
        fields = ("temperature", "top_p", "seed", "reasoning_effort")
        return {name: value for name in fields if (value := getattr(self, name)) is not None}


def chat_body(
    model: str,
    messages: Sequence[Message],
    tools: Sequence[FunctionTool],
    choice: Choice,
    max_tokens: int,
    options: ModelOptions,
) -> dict[str, Any]:
    """Returns the body of a request for one turn."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        "max_completion_tokens": max_tokens,
        **options.given(),
    }
    if tools:
        body["tools"] = [_offered(one) for one in tools]
        body["tool_choice"] = choice
        if choice == "required":  # small models would call every tool at once
            body["parallel_tool_calls"] = False
    return body


def turn_of(reply: bytes) -> ModelTurn:
    """Returns the turn that a reply holds.

    Raises:
        DeepwellError: it holds none.
    """
    try:
        found: Any = msgspec.json.decode(reply)
        choice = found["choices"][0]
        message = choice["message"]
        usage = found.get("usage") or {}
        calls = [
            ToolCall(
                str(one.get("id") or ""),
                str(one["function"]["name"]),
                str(one["function"]["arguments"] or ""),
            )
            for one in message.get("tool_calls") or ()
        ]
        return ModelTurn(
            str(message.get("content") or message.get("refusal") or ""),
            tuple(calls),
            str(choice.get("finish_reason") or "stop"),
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            str(message.get("reasoning_content") or message.get("reasoning") or ""),
        )
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise DeepwellError(
            f"the server's answer is no chat completion ({type(error).__name__})",
            fix="check that its address is that of an OpenAI-compatible server",
        ) from None


def error_of(status: int, reply: bytes) -> DeepwellError:
    """Returns the error that a reply holds."""
    try:
        error: Any = msgspec.json.decode(reply)["error"]
        message, code = str(error["message"]), str(error.get("code") or "")
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        message, code = f"the server answered with status {status}", ""
    kinds: Mapping[str, type[DeepwellError]] = {
        "context_length_exceeded": ContextLengthExceeded,
        "content_filter": TurnRefused,
    }
    return kinds.get(code, DeepwellError)(message)


def _offered(tool: FunctionTool) -> dict[str, Any]:
    shown = tool.rendered()
    if tool.strict:
        shown["function"]["strict"] = True
    return shown

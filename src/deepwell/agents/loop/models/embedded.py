"""`EmbeddedModel`: a model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepwell.agents.loop.model import Choice, Message, ModelTurn, ToolCall
from deepwell.agents.loop.models.wire import ModelOptions, chat_body
from deepwell.dialogue.tools import FunctionTool

if TYPE_CHECKING:
    from deepwell.llm.asynchronous import AsyncLLM

__all__ = ["EmbeddedModel"]


class EmbeddedModel:
    """Asks an open `AsyncLLM`. Being cancelled, it stops generating.

    Args:
        llm: the model; whoever opened it closes it.
        name: its name.
        options: how it writes.
    """

    def __init__(self, llm: AsyncLLM, name: str, options: ModelOptions | None = None) -> None:
        self._llm = llm
        self._name = name
        self._options = options or ModelOptions()

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._name

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[FunctionTool], *, choice: Choice, max_tokens: int
    ) -> ModelTurn:
        """Returns the next turn.

        Raises:
            DeepwellError: the conversation does not fit the model, or it cannot be rendered.
        """
        body = chat_body(self._name, messages, tools, choice, max_tokens, self._options)
        del body["model"]
        body["max_tokens"] = body.pop("max_completion_tokens")
        found = await self._llm.chat(body.pop("messages"), **body)
        first = found.choices[0]
        calls = tuple(ToolCall(one.id, one.name, one.arguments) for one in first.tool_calls)
        return ModelTurn(
            first.text,
            calls,
            first.finish_reason,
            found.prompt_tokens,
            first.completion_tokens,
            first.reasoning,
        )

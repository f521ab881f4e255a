"""The requests of `POST /tokenize` and `/detokenize`, with vLLM's names."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from deepwell.server.families.chat.schema import ChatMessage, ToolSpec
from deepwell.server.http.schema import MAX_ENTRIES, Strict, crossed, refuse

__all__ = ["MAX_TOKENS", "DetokenizeRequest", "TokenizeRequest"]

MAX_TOKENS = 300_000
"""The most tokens of a request or an answer, as for embeddings. A model with a longer context has that many."""

_CHAT_ALONE = ("add_generation_prompt", "continue_final_message", "chat_template_kwargs", "tools")


class TokenizeRequest(Strict):
    """`POST /tokenize`: a plain text, or a conversation as `/v1/chat/completions` would render it."""

    model: str | None = None
    prompt: str | None = Field(None, description="A plain text.")
    messages: list[ChatMessage] | None = Field(
        None, min_length=1, max_length=MAX_ENTRIES, description="A conversation, instead of a prompt."
    )
    add_special_tokens: bool | None = Field(
        None,
        description="Whether a prompt gets the tokens that the model wants around it. A conversation has its template's.",
    )
    return_token_strs: bool | None = Field(
        None, description="Whether each token is also given as the vocabulary spells it."
    )
    tools: list[ToolSpec] | None = Field(None, max_length=128, description="Tools that the model is shown.")
    add_generation_prompt: bool | None = Field(
        None, description="Whether a conversation ends with the beginning of the answer."
    )
    continue_final_message: Annotated[
        Any, refuse("an answer cannot be begun for the model: leave continue_final_message out", False)
    ] = None
    chat_template: Annotated[
        Any, refuse("a conversation is rendered by the model's own template: leave chat_template out")
    ] = None
    chat_template_kwargs: dict[str, bool | int | str] | None = Field(
        None, max_length=16, description="Switches of the model's chat template."
    )
    mm_processor_kwargs: Annotated[
        Any, refuse("only text is tokenized: leave mm_processor_kwargs out", {})
    ] = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise crossed("prompt", "send either prompt or messages")
        if self.messages is None:
            for name in _CHAT_ALONE:
                if getattr(self, name) is not None:
                    raise crossed(name, f"{name} belongs to messages: leave it out, or send messages")
        elif self.add_special_tokens:
            raise crossed(
                "add_special_tokens", "the chat template writes its own: leave add_special_tokens out"
            )
        return self


class DetokenizeRequest(Strict):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]] = Field(max_length=MAX_TOKENS)

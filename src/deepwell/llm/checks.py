"""Checks of a call before any of it runs: the model's task, adapters, the context, and the tokens of its prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from deepwell.dialogue.model import PromptTooLong, ServedModel
from deepwell.engine.protocol import Window
from deepwell.engine.window import MOST_TOKENS, check_window
from deepwell.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound
from deepwell.llm.arguments import Prompt, checked_prompts, place
from deepwell.llm.session import Session

__all__ = [
    "AT_ONCE",
    "check_adapter",
    "check_chats",
    "check_fits",
    "encoded",
    "generator",
    "larger",
    "room",
]

AT_ONCE: Final = 8  # short texts that are tokenised before other work of the loop gets a turn


def generator(session: Session) -> ServedModel:
    """Returns the model, if it generates text.

    Raises:
        InvalidRequest: it is an encoder.
    """
    model = session.model
    if not model.capabilities.generates:
        raise InvalidRequest(
            f"{model.name} is an encoder: it embeds text and generates none",
            fix='call embed(), or open a decoder such as LLM("smollm2")',
            param="model",
        )
    return model


def check_chats(model: ServedModel) -> None:
    """Checks that the model has a chat template.

    Raises:
        InvalidRequest: it has none.
    """
    try:
        model.codec.check_chats()
    except InvalidRequest:
        raise InvalidRequest(
            f"{model.name} has no chat template: it was not made for conversations",
            fix="call generate() with a prompt",
            param="messages",
        ) from None


def check_adapter(session: Session, adapter: str) -> None:
    """Checks that an adapter is loaded; the empty name is the base model.

    Raises:
        ModelNotFound: it is not.
    """
    if not adapter:
        return
    loaded = [one.name for one in session.engine.adapters()]
    if adapter not in loaded:
        known = f", or use one of {', '.join(map(repr, loaded))}" if loaded else ""
        raise ModelNotFound(
            f"no adapter {adapter!r} is loaded",
            fix=f"call load_adapter({adapter!r}, path) first{known}",
            param="adapter",
        )


async def encoded(
    session: Session, prompts: Sequence[Prompt], param: str, window: Window | None = None
) -> list[list[int]]:
    """Returns the tokens of each prompt. Each is tokenised by itself, so that only long ones go to the process for those.

    With a window, prompts may be longer than the context.
    """
    model = session.model
    checked = checked_prompts(prompts, param)
    found: list[list[int]] = []
    for number, prompt in enumerate(checked):
        where = place(param, number, len(checked))
        try:
            found += await model.encode_prompts([prompt], where, MOST_TOKENS if window else None)
        except PromptTooLong as error:
            raise larger(session, error) from None
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
    return found


def room(
    session: Session, prompt_tokens: int, max_tokens: int | None, where: str, window: Window | None
) -> int:
    """Returns the number of tokens that may follow a prompt: `max_tokens`, or all that fit if it is None.

    With a window everything fits, and None stands for as many tokens as the context holds.

    Raises:
        ContextLengthExceeded: the prompt, `max_tokens` or the window does not fit.
        InvalidRequest: the window cannot be held.
    """
    try:
        if window is not None:
            limit = session.model.capabilities.max_model_len
            most = max_tokens or limit
            check_window(window, prompt_tokens + most, limit)
            return most
        return session.model.room(prompt_tokens, max_tokens, where)
    except ContextLengthExceeded as error:
        raise larger(session, error) from None


def check_fits(session: Session, tokens: int, where: str) -> None:
    """Checks that a text fits the context.

    Raises:
        ContextLengthExceeded: it does not.
    """
    context = session.model.capabilities.max_model_len
    if tokens > context:
        error = ContextLengthExceeded(
            f"{where} has {tokens} tokens, and the context holds {context}",
            fix=f"shorten it to at most {context} tokens, or split it",
            param=where,
        )
        raise larger(session, error)


def larger(session: Session, error: ContextLengthExceeded) -> ContextLengthExceeded:
    """Returns an error for too many tokens whose fix names a larger context, if the model can have one."""
    most = session.most_context
    if most <= session.model.capabilities.max_model_len:
        return error
    fix = f"{error.fix}, or open the model with context= up to {most}"
    return ContextLengthExceeded(error.message, fix=fix, param=error.param)

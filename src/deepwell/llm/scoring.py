"""Calls that draw no tokens: embeddings, scores, and tokens of texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepwell.dialogue.completion import Caller
from deepwell.dialogue.dialogue import plan_dialogue
from deepwell.dialogue.text import InputType
from deepwell.llm.arguments import (
    ChatOptions,
    Conversation,
    Format,
    Prompt,
    dialogue_of,
    place,
    prompt_list,
    window_of,
)
from deepwell.llm.calls import Tally
from deepwell.llm.checks import check_adapter, check_chats, check_fits, encoded, generator, room
from deepwell.llm.results import Score
from deepwell.llm.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scored", "embed", "score", "score_items", "tokenize"]

Scored = Prompt | tuple[Prompt, Prompt]
"""A text, or a prompt and its continuation."""

_AT_ONCE = 256  # calls of the engine that wait at the same time


async def embed(
    session: Session, texts: Sequence[Prompt], adapter: str, input_type: InputType | None, tally: Tally
) -> NDArray[np.float32]:
    """Returns the vector of each text, of unit length: [texts, hidden_size]."""
    model = session.model
    check_adapter(session, adapter)
    inputs = await encoded(session, model.codec.prompted(texts, input_type), "text")
    for number, tokens in enumerate(inputs):
        check_fits(session, len(tokens), place("text", number, len(inputs)))
    tally.total = len(inputs)
    vectors = np.empty((len(inputs), model.capabilities.hidden_size), np.float32)

    async def one(number: int) -> None:
        tokens = inputs[number]
        vectors[number] = await model.engine.embed(tokens, adapter=adapter)
        tally.done += 1
        tally.tokens += len(tokens)

    await _all(one, len(inputs))
    return vectors


async def score(
    session: Session,
    items: Sequence[Scored],
    adapter: str,
    tally: Tally,
    sizes: tuple[int, ...] | None = None,
) -> list[Score]:
    """Returns the log probabilities of texts, or of continuations behind their prompts.

    Args:
        sizes: those of a window: the first and the most recent tokens that are kept, and a rank; see `Window`. None: all are.
    """
    window = window_of(sizes)
    model = generator(session)
    check_adapter(session, adapter)
    pairs = [_pair(item) for item in items]
    prompts = await encoded(session, [one for one, _ in pairs if one is not None], "prompt", window)
    texts = await encoded(session, [one for _, one in pairs], "text", window)
    before = iter(prompts)
    frame = model.codec.framed([])
    wholes: list[tuple[int, list[int]]] = []
    for (prompt, text), tokens in zip(pairs, texts, strict=True):
        if prompt is None:
            wholes.append((1, tokens))
            continue
        given = next(before)
        # A continuation has nothing in front of it but its prompt.
        inner = tokens[len(frame) :] if isinstance(text, str) else tokens
        wholes.append((len(given), [*given, *inner]))
    for number, (_, tokens) in enumerate(wholes):
        where = place("text", number, len(wholes))
        if window is None:
            check_fits(session, len(tokens), where)
        else:
            room(session, len(tokens) - 1, 1, where, window)
    tally.total = len(wholes)
    found: list[Score | None] = [None] * len(wholes)

    async def one(number: int) -> None:
        start, tokens = wholes[number]
        logprobs = await model.engine.score(tokens, adapter=adapter, start=start, window=window)
        gone = 0 if window is None else window.forgotten(len(tokens) - 1)
        found[number] = Score(tuple(tokens[start:]), tuple(map(float, logprobs)), start, gone)
        tally.done += 1
        tally.tokens += len(tokens)

    await _all(one, len(wholes))
    return [one for one in found if one is not None]


def score_items(texts: Scored | Sequence[Scored]) -> tuple[list[Scored], bool]:
    """Returns the items to score as a list, and whether there was only one, outside of a list."""
    if _is_pair(texts):
        return [cast("Scored", texts)], True
    many, single = prompt_list(cast("Any", texts))
    return cast("list[Scored]", many), single


async def tokenize(session: Session, text: str | Conversation) -> list[int]:
    """Returns the tokens of a prompt, or those of a conversation up to the answer, as `generate` and `chat` use them.

    A text may be longer than the context.
    """
    model = session.model
    if isinstance(text, str):
        return await asyncio.to_thread(model.codec.encode, text)
    check_chats(model)
    dialogue = dialogue_of(text, ChatOptions(), Format(), model.codec, "messages")
    return (await plan_dialogue(model, dialogue, Caller())).prompt


async def _all(one: Callable[[int], Coroutine[Any, Any, None]], count: int) -> None:
    """Runs work for each number, some at a time. The first failure cancels the rest."""
    for start in range(0, count, _AT_ONCE):
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(start, min(start + _AT_ONCE, count)):
                    group.create_task(one(number))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and not any(isinstance(one, int) for one in item)


def _pair(item: Scored) -> tuple[Prompt | None, Prompt]:
    return cast("tuple[Prompt, Prompt]", item) if _is_pair(item) else (None, cast("Prompt", item))

"""A cache of answers to questions that were asked before in other words. Off by default.

A question has to pass two gates. The lexical gate (`wording`) comes first, because it is free: both questions must have
the same normal form. The embedder then has a veto: where two questions of one normal form are less alike than
`min_cosine`, a rule was wrong. So a miss costs some tens of microseconds and no embedding at all.

Answers are shared within one tenant, among questions with the same history, model, adapter and sampling, and only where
the same question would get the same answer again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepwell.dialogue.completion import Choice, Question, Update
from deepwell.dialogue.model import PromptTooLong, ServedModel
from deepwell.errors import DeepwellError
from deepwell.server.caches.response_cache import AnswerKey, answer_bytes
from deepwell.server.options import SemanticOptions

if TYPE_CHECKING:
    from deepwell.server.caches.wording import NormalForm

__all__ = [
    "Embed",
    "SemanticCache",
    "cosine_gate",
    "embed_with",
    "is_limited",
    "replayed",
    "shelf_of",
]

Vector = NDArray[np.float32]
Embed = Callable[[str], Awaitable["Vector | None"]]
"""Returns a text's unit vector, or None if the embedder cannot read it."""

_ENTRY_BYTES = 1024  # forms, key and bookkeeping of one question, about
_WORDS_UNKNOWN = frozenset({"[UNK]", "<unk>"})


@dataclass(slots=True)
class _Entry:
    text: str
    form: NormalForm
    updates: tuple[Update, ...]
    expires: float
    nbytes: int
    vector: Vector | None = None


class SemanticCache:
    """An LRU cache of answers by question, for one event loop. `nbytes` never exceeds the capacity.

    Args:
        embed: computes the vectors of the second gate.
        on_lookup: called with "semantic" for every answer that is reused.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        embed: Embed,
        options: SemanticOptions,
        *,
        on_lookup: Callable[[str], object] = lambda _result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Its rules take longer to compile than most servers, which have no such cache, should wait at their start.
        from deepwell.server.caches import wording

        self._wording = wording
        self._embed = embed
        self._options = options
        self._on_lookup = on_lookup
        self._clock = clock
        self.nbytes = 0
        self._entries: OrderedDict[tuple[AnswerKey, str], _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def keeping(
        self, shelf: AnswerKey, text: str, updates: AsyncGenerator[Update, None], *, limited: bool
    ) -> AsyncGenerator[Update, None]:
        """Passes updates on, and keeps them as the answer to a question once they have ended.

        `limited`: the request sets the longest answer itself, so an answer cut there is cut for all requests of the shelf.
        """
        kept: list[Update] = []
        async with aclosing(updates):
            async for update in updates:
                kept.append(update)
                yield update
        # Where the context is the limit, a shorter question would have got a longer answer.
        reason = kept[-1].finish_reason if kept else None
        if reason == "stop" or (reason == "length" and limited):
            self.put(shelf, text, tuple(kept))

    async def find(self, shelf: AnswerKey, text: str) -> tuple[Update, ...] | None:
        """Returns the answer to a question that asks the same, or None."""
        form = self._wording.normal_form(text, shelf.tenant)
        if form is None:
            return None
        place = (shelf, form.folded)
        entry = self._entries.get(place)
        if entry is None:
            return None
        if entry.expires <= self._clock():
            self._drop(place)
            return None
        if not self._wording.asks_the_same(entry.form, form):
            return None
        if text != entry.text and not await self._alike(entry, text):
            return None
        if place in self._entries:
            self._entries.move_to_end(place)
        self._on_lookup("semantic")
        return entry.updates

    def put(self, shelf: AnswerKey, text: str, updates: tuple[Update, ...]) -> None:
        """Keeps an answer, if its question has a normal form."""
        form = self._wording.normal_form(text, shelf.tenant)
        if form is None:
            return
        place = (shelf, form.folded)
        self._drop(place)
        nbytes = _ENTRY_BYTES + 4 * len(text) + answer_bytes(shelf, updates)
        if nbytes > self._options.capacity_bytes:
            return
        self._entries[place] = _Entry(text, form, updates, self._clock() + self._options.ttl_s, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self._options.capacity_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.nbytes -= oldest.nbytes

    def clear(self) -> None:
        """Drops every answer."""
        self._entries.clear()
        self.nbytes = 0

    def _drop(self, place: tuple[AnswerKey, str]) -> None:
        dropped = self._entries.pop(place, None)
        if dropped is not None:
            self.nbytes -= dropped.nbytes

    async def _alike(self, entry: _Entry, text: str) -> bool:
        try:
            vector = await self._embed(text)
            if entry.vector is None:
                entry.vector = await self._embed(entry.text)
        except DeepwellError:  # without the embedder, the model answers
            return False
        return cosine_gate(entry.vector, vector, self._options.min_cosine)


async def replayed(answer: Sequence[Update], choice: Choice) -> AsyncGenerator[Update, None]:
    """Replays an answer for a choice of another request. The choice's whole prompt counts as cached."""
    prompt = len(choice.request.prompt)
    for update in answer:
        counts = replace(update.counts, prompt=prompt, cached=prompt)
        yield replace(update, index=choice.index, counts=counts)


def cosine_gate(one: Vector | None, other: Vector | None, min_cosine: float) -> bool:
    """Returns whether two unit vectors are alike enough. None, for a text that cannot be embedded, is like nothing."""
    return one is not None and other is not None and float(one @ other) >= min_cosine


def embed_with(model: ServedModel) -> Embed:
    """Returns a function that embeds texts with a served model.

    A text has no vector if it exceeds the context, or has words that the vocabulary lacks: it would be judged without them.
    """
    unknown = {token for token in map(model.codec.control_token, _WORDS_UNKNOWN) if token is not None}

    async def embed(text: str) -> Vector | None:
        try:
            (tokens,) = await model.encode_prompts([text], "input")
        except PromptTooLong:
            return None
        if unknown & set(tokens):
            return None
        return await model.engine.embed(tokens)

    return embed


def is_limited(choice: Choice, window: int) -> bool:
    """Returns whether a request limits the length of its answer itself; otherwise the context does."""
    return len(choice.request.prompt) + choice.request.params.max_tokens != window


def shelf_of(
    choice: Choice, question: Question, *, fingerprint: str, adapter: str, window: int
) -> AnswerKey | None:
    """Returns the shelf of a choice, which is the key of all that shapes its answer except the question.

    None if the answer is not deterministic, echoes its prompt, or carries log probabilities.
    """
    request = choice.request
    params = request.params
    if choice.offset or params.logprobs is not None or params.prompt_logprobs is not None:
        return None
    if not is_limited(choice, window):  # the room in the context depends on the wording
        params = replace(params, max_tokens=0)
    shaped = replace(choice, request=replace(request, params=params, prompt=()))
    key = AnswerKey.of(shaped, fingerprint=fingerprint, adapter=adapter)
    return None if key is None else replace(key, prompt=question.context())

"""`Fitter`: fits a conversation to the room that a model has for it, and accounts for every token.

    fitter = Fitter(model, room=3_500, recalling=Recalling(memories, key, embedder))
    fitted = await fitter.fit(messages, prompt, "auto")

NOTE: threads. Reading a long text takes as long as hundreds of steps of an event loop. A caller with other work on its loop
runs `fit` on a thread that has a loop of its own; `render` and the embedder then have to come back to the first one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from deepwell.engine.window import Window
from deepwell.errors import ContextLengthExceeded
from deepwell.knowledge.context.compress import ELLIPSIS
from deepwell.knowledge.context.fitting.draft import Draft
from deepwell.knowledge.context.fitting.layout import Layout, Message, text_of
from deepwell.knowledge.context.fitting.ledger import Fates, Ledger, LedgerRow
from deepwell.knowledge.context.fitting.notes import Asked, Note, Recalling, asked, looked_up, recalled
from deepwell.knowledge.context.fitting.placing import PromptMap
from deepwell.knowledge.context.fitting.policy import (
    FIT_OPTIONS,
    ContextPolicy,
    FitOptions,
    Mechanism,
    mechanism_of,
)
from deepwell.knowledge.context.fitting.question import asks_for_text, looked_for
from deepwell.knowledge.context.fitting.recent import slide
from deepwell.knowledge.context.fitting.texts import Part, nearest, newest, shorten
from deepwell.knowledge.context.tokens import CodecTokens

__all__ = ["FitModel", "Fitted", "Fitter", "ModelText", "Recalling"]

_TRIES: Final = 6
_SPARE: Final = 8  # tokens below the room that a further try aims at
_BLOCK: Final = 16  # sizes of a window are multiples of it


class ModelText(Protocol):
    """The part of `dialogue.text.Codec` that fitting needs."""

    def encode_text(self, text: str) -> list[int]:
        """Returns the tokens of a piece of text, in which control tokens are plain text."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes that a token stands for."""
        ...


@dataclass(frozen=True, slots=True)
class FitModel:
    """The model that is to read the conversation.

    Attributes:
        codec: its tokenizer.
        render: returns the tokens of a conversation by the model's template, with the tools of the request.
        context: tokens that it holds at once.
        windows: whether its engine has windows.
    """

    codec: ModelText
    render: Callable[[Sequence[Message]], Awaitable[list[int]]]
    context: int
    windows: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """A conversation that fits.

    Attributes:
        messages: as the model is to read them; those of the request where nothing was done.
        ledger: the account.
        window: the window to run it with; None: none.
    """

    messages: Sequence[Message]
    ledger: Ledger
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """One conversation, measured.

    Attributes:
        prompt: the owners of the original prompt's tokens.
        bare: what stays in any case.
        base: its tokens.
        frame: tokens of the template around a message, about.
    """

    messages: Sequence[Message]
    layout: Layout
    prompt: PromptMap
    query: str
    bare: Draft
    base: int
    frame: int

    def cost(self, index: int) -> int:
        """Returns the tokens of a message with those around it."""
        return self.prompt.placed[index].tokens + self.frame

    def turn_cost(self, turn: Sequence[int]) -> int:
        """Returns the tokens of a turn."""
        return sum(self.cost(index) for index in turn)

    def part(self, index: int) -> Part | None:
        """Returns the text of a message that may be shortened."""
        text, parts = text_of(self.messages[index]), self.layout.parts
        if not text or not text.strip():
            return None
        if index == self.layout.last:
            return Part(index, text, parts.start, parts.end) if parts.has_document else None
        return Part(index, text, 0, len(text))

    def size(self, part: Part) -> int:
        """Returns the tokens of a part."""
        return self.prompt.placed[part.index].between(part.start, part.end)


class Fitter:
    """Fits conversations to one model.

    Args:
        room: most tokens of a prompt.
        recalling: None: nothing is recalled, and sentences are chosen by their words alone.
        options: sizes.
    """

    def __init__(
        self,
        model: FitModel,
        room: int,
        *,
        recalling: Recalling | None = None,
        options: FitOptions = FIT_OPTIONS,
    ) -> None:
        self._model = model
        self._room = room
        self._recalling = recalling
        self._options = options
        self._tokens = CodecTokens(model.codec)
        self._nearest = nearest(None if recalling is None else recalling.embedder)

    async def fit(self, messages: Sequence[Message], prompt: Sequence[int], policy: ContextPolicy) -> Fitted:
        """Returns the conversation as the model is to read it, and the ledger of its tokens.

        Args:
            prompt: its tokens, as the template renders it.

        Raises:
            ContextLengthExceeded: what always stays whole does not fit, or the policy is strict.
        """
        mechanism = mechanism_of(
            policy,
            len(prompt),
            self._room,
            self._options,
            windows=self._model.windows,
            remembers=self._recalling is not None,
        )
        if mechanism == "none":
            if len(prompt) > self._room:
                raise self._too_long(len(prompt))
            return Fitted(messages, Ledger.whole(policy, len(prompt)))
        placed = PromptMap(prompt, [text_of(one) for one in messages], self._model.codec)
        if mechanism == "window":
            if (found := self._windowed(messages, placed, policy)) is not None:
                return found
            mechanism = "drop"
        case = await self._measured(messages, placed)
        if mechanism == "retrieve" and (self._recalling is None or not case.layout.turns):
            mechanism = (
                "compress"  # there is nothing to recall with, or nothing but the document of the question
            )
        lookup = await self._lookup(case) if policy in ("auto", "retrieve") else None
        if lookup is not None or (policy == "auto" and self._is_about_its_document(case)):
            mechanism = "retrieve"
        room = self._room
        for _ in range(_TRIES):
            draft = await self._draft(case, mechanism, max(room - case.base, 0), lookup)
            made = await self._model.render(draft.messages)
            if len(made) <= self._room:
                return self._fitted(case, draft, made, policy, mechanism)
            room -= len(made) - self._room + _SPARE
        # Messages without text, of which there may be many, cannot be shortened. What always stays fits.
        return self._fitted(case, case.bare, await self._model.render(case.bare.messages), policy, "drop")

    def _too_long(self, tokens: int) -> ContextLengthExceeded:
        return ContextLengthExceeded.of(
            "context_whole_too_long", tokens=tokens, room=max(self._room, 0), param="messages"
        )

    async def _measured(self, messages: Sequence[Message], placed: PromptMap) -> _Case:
        """Measures what stays in any case.

        Raises:
            ContextLengthExceeded: it does not fit.
        """
        layout = Layout.of(messages)
        if layout.last is None:
            raise self._too_long(placed.tokens)
        draft = Draft(messages)
        for turn in layout.turns:
            for index in turn:
                draft.remove(index)
        stays = [*layout.system, layout.last, *layout.trail]
        case = _Case(messages, layout, placed, layout.query(messages), draft, 0, 0)
        for index in (layout.last, *layout.trail):
            if (part := case.part(index)) is not None and case.size(part) > 1:
                draft.replace(index, part.text[: part.start] + ELLIPSIS + part.text[part.end :], part.around)
        base = await self._model.render(draft.messages)
        if len(base) > self._room:
            raise self._too_long(len(base))
        texts = [text_of(one) for one in draft.messages]
        around = PromptMap(base, texts, self._model.codec).template
        others = len(messages) - len(stays)
        frame = -(-max(placed.template - around, 0) // others) if others else 0
        return _Case(messages, layout, placed, case.query, draft, len(base), frame)

    async def _draft(self, case: _Case, mechanism: Mechanism, room: int, lookup: Note | None) -> Draft:
        draft = Draft(case.messages)
        if lookup is not None and lookup.tokens <= room:
            for turn in case.layout.turns:
                for index in turn:
                    draft.remove(index)
            draft.note(lookup)
        elif mechanism == "compress":
            await self._compress(case, draft, room)
        else:
            await self._forget(case, draft, room, recall=mechanism == "retrieve")
        return draft

    def _is_about_its_document(self, case: _Case) -> bool:
        """Returns whether more than facts is asked for over the document beside the question, and other turns have to yield."""
        layout = case.layout
        asks = layout.parts.has_document and asks_for_text(layout.parts.query)
        return asks and bool(layout.turns) and self._recalling is not None

    # The few sentences that a question looks for

    async def _lookup(self, case: _Case) -> Note | None:
        """Returns the sentences of all turns that stand out for the last question, if it leans on no other turn."""
        layout, recalling, options = case.layout, self._recalling, self._options
        if recalling is None or options.lookup_least is None or layout.last is None or not layout.turns:
            return None
        query = layout.parts.query
        words = looked_for(query, leans=case.query != query)
        if layout.parts.has_document or layout.trail or words < 2:
            return None
        before = [index for turn in layout.turns for index in turn]
        room = min(options.recall_tokens, (self._room - case.base) // 4)
        one = Asked(layout.last, query, room, options.focus_tokens)
        least = options.lookup_least * (2 if words == 2 else 1)
        return await looked_up(recalling, self._tokens, case.messages, before, one, least)

    # Recent turns as a whole, and passages of the others

    async def _forget(self, case: _Case, draft: Draft, room: int, *, recall: bool) -> None:
        costs = [case.turn_cost(turn) for turn in case.layout.turns]
        room -= await self._own_texts(case, draft, room, sum(costs), recall=recall)
        fixed = sum(case.prompt.placed[index].tokens for index in case.layout.system)
        most = int((self._room - fixed) * self._options.recent_share)
        kept = slide(costs, [self._options.part_tokens if recall else 0] * len(costs), most)
        first = kept.first
        while True:
            while sum(costs[first:]) > max(room, 0):
                first += 1
            notes = await self._notes(case, first, kept.since, room) if recall else []
            if sum(costs[first:]) + sum(one.tokens for one in notes) <= room or first == len(costs):
                break
            first += 1
        for turn in case.layout.turns[:first]:
            for index in turn:
                draft.remove(index)
        for note in notes:
            draft.note(note)

    async def _own_texts(self, case: _Case, draft: Draft, room: int, turns: int, *, recall: bool) -> int:
        """Shortens the document of the last user message and the results behind it; returns the tokens that they take.

        They give way to turns down to half of the room.
        """
        layout = case.layout
        assert layout.last is not None
        parts = [part for at in (layout.last, *layout.trail) if (part := case.part(at)) is not None]
        size = sum(case.size(part) for part in parts)
        budget = max(room // 2, room - turns)
        if size <= budget:
            return size
        chooser = self._nearest if recall else newest()
        focus = self._focus(case.query) if recall else None
        await shorten(draft, parts, case.query, budget, tokens=self._tokens, chooser=chooser, focus=focus)
        return budget

    async def _notes(self, case: _Case, first: int, since: int, room: int) -> list[Note]:
        """Returns the passages in front of the last user message, and of earlier ones since the last slide, as they had them.

        Args:
            first: number of the first turn that stays.
        """
        layout, recalling = case.layout, self._recalling
        assert recalling is not None and layout.last is not None
        earlier = [
            layout.query_of_turn(case.messages, number)
            for number in range(max(first, since), len(layout.turns))
        ]
        questions = [asked(at, query, self._room, self._options) for at, query in earlier if query]
        if layout.parts.asks:  # nothing is recalled for a long text alone
            questions.append(asked(layout.last, case.query, max(room, 0), self._options))
        gone = [index for turn in layout.turns[:first] for index in turn]
        return await recalled(recalling, self._tokens, case.messages, gone, questions)

    # Sentences of everything

    def _focus(self, query: str) -> int | None:
        """Returns the tokens that suffice for a question; None: as many as there is room for."""
        return None if asks_for_text(query) else self._options.focus_tokens

    async def _compress(self, case: _Case, draft: Draft, room: int) -> None:
        layout = case.layout
        assert layout.last is not None
        costs = [case.turn_cost(turn) for turn in layout.turns]
        recent = _suffix(costs, int(room * self._options.whole_share))
        old = layout.turns[:recent]
        at = [index for turn in old for index in turn]
        parts = [
            part for index in (*at, layout.last, *layout.trail) if (part := case.part(index)) is not None
        ]
        size = sum(map(case.size, parts))
        frames = case.frame * len(at)
        room -= sum(costs[recent:])
        if not parts or size + frames <= room:
            return
        # Turns of which nothing is left go with the template's tokens around them; the others keep those as they stand.
        budget = int(room * size / (size + frames)) if old else room
        options = self._options
        if options.sparse_tokens is not None and size > options.compress_up_to * budget:
            budget = min(budget, options.sparse_tokens)
        empty = await shorten(
            draft,
            parts,
            case.query,
            budget,
            tokens=self._tokens,
            chooser=self._nearest,
            focus=self._focus(case.query),
        )
        for turn in old:
            if all(index in empty for index in turn if case.part(index) is not None):
                for index in turn:
                    draft.remove(index)

    # The engine's window

    def _windowed(
        self, messages: Sequence[Message], placed: PromptMap, policy: ContextPolicy
    ) -> Fitted | None:
        """Returns the whole conversation with a window, or None if the last user message would not stay whole in it."""
        layout = Layout.of(messages)
        if layout.last is None:
            return None
        others = [one.first for at, one in enumerate(placed.placed) if at not in layout.system and one.tokens]
        sinks = -(-min(others, default=0) // _BLOCK) * _BLOCK
        recent = (self._model.context - sinks) // _BLOCK * _BLOCK
        if recent <= 0:
            return None
        window = Window(sinks, recent)
        forgotten = window.forgotten(placed.tokens)
        behind = sinks + forgotten
        if forgotten and placed.placed[layout.last].first < behind:
            return None
        rows: list[LedgerRow] = []
        for at, one in enumerate(placed.placed):
            gone = max(0, min(one.first + one.tokens, behind) - max(one.first, sinks))
            rows.append(
                LedgerRow(at, at, str(messages[at]["role"]), Fates(one.tokens - gone, forgotten=gone))
            )
        gone = behind - sinks - sum(row.fates.forgotten for row in rows)
        template = Fates(placed.template - gone, forgotten=gone)
        return Fitted(messages, Ledger(policy, "window", placed.tokens, tuple(rows), template), window)

    def _fitted(
        self, case: _Case, draft: Draft, made: Sequence[int], policy: ContextPolicy, mechanism: Mechanism
    ) -> Fitted:
        messages = draft.messages
        shown = PromptMap(made, [text_of(one) for one in messages], self._model.codec).template
        before = case.prompt.template
        template = Fates(min(before, shown), dropped=max(0, before - shown))
        rows = draft.rows(case.prompt)
        adapter = "none" if policy == "adapter" else None
        return Fitted(messages, Ledger(policy, mechanism, len(made), rows, template, adapter))


def _suffix(costs: Sequence[int], room: int) -> int:
    """Returns the number of the first of the last turns that fit together."""
    first = len(costs)
    while first and costs[first - 1] <= room:
        room -= costs[first - 1]
        first -= 1
    return first

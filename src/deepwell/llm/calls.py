"""The calls of the Python API, as work on the private event loop: from arguments to choices, and from steps to results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from deepwell.dialogue.completion import Caller, Choice, Counts, engine_request
from deepwell.dialogue.dialogue import ParsedOutput, Plan, TurnParser, plan_dialogue
from deepwell.dialogue.model import PromptTooLong
from deepwell.dialogue.text import Codec, Entry
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.protocol import SamplingParams
from deepwell.engine.window import MOST_TOKENS
from deepwell.llm.arguments import (
    ChatOptions,
    Conversation,
    Format,
    Prompt,
    Sampling,
    dialogue_of,
    place,
    sampling_options,
    stops_of,
    window_of,
)
from deepwell.llm.checks import AT_ONCE, check_adapter, check_chats, encoded, generator, larger, room
from deepwell.llm.results import Completion, CompletionChoice, Piece, TokenLogprob, ToolCall
from deepwell.llm.running import Step, run
from deepwell.llm.session import Session

__all__ = ["Call", "Tally", "plan_chats", "plan_prompts"]

_DEFAULT_MAX_TOKENS = 16  # of a plain completion, as in OpenAI's API and in the server
_NOBODY = Caller()


@dataclass(slots=True)
class Tally:
    """Counts of a call under way, for a progress bar."""

    done: int = 0
    total: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Answer:
    """One choice as it grows."""

    index: int  # number of the prompt or conversation
    choice: int
    parser: TurnParser | None  # None: all text is content
    said: ParsedOutput = field(default_factory=ParsedOutput)
    tokens: list[int] = field(default_factory=list[int])
    entries: list[Entry] = field(default_factory=list[Entry])
    counts: Counts = field(default_factory=Counts)
    finish_reason: Any = None

    def take(self, step: Step) -> _Told | None:
        """Adds a step. Returns what it made final, or None."""
        update = step.update
        self.tokens += step.tokens
        self.counts = update.counts
        if self.parser is None:
            self.said.content += update.text
            told = _Told(update.text, "", update.entries, update.finish_reason)
        else:
            turn = self.parser.push(update)
            if turn is None:
                return None
            before = len(self.said.content), len(self.said.reasoning)
            self.said.add(turn.events)
            told = _Told(
                self.said.content[before[0] :],
                self.said.reasoning[before[1] :],
                turn.entries,
                turn.finish_reason,
            )
        self.entries += told.entries
        self.finish_reason = told.finish_reason
        return told if told.text or told.reasoning or told.entries or told.finish_reason else None

    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(ToolCall(call.id, call.name, call.arguments) for call in self.said.calls)


@dataclass(frozen=True, slots=True)
class _Told:
    """The parts of an answer that one step made final."""

    text: str
    reasoning: str
    entries: tuple[Entry, ...]
    finish_reason: Any


class Call:
    """Checked prompts or conversations, ready to run: as a whole, or as a stream.

    Args:
        choices: all choices, numbered through.
        answers: the empty answers to them.
    """

    def __init__(
        self,
        session: Session,
        choices: Sequence[Choice],
        answers: list[_Answer],
        format: Format,
        *,
        logprobs: bool,
    ) -> None:
        engine = session.engine
        assert isinstance(engine, InProcessEngine)
        self._engine = engine
        self._codec = session.model.codec
        self._choices = choices
        self._answers = answers
        self._format = format
        self._logprobs = logprobs

    async def whole(self, tally: Tally) -> list[Completion]:
        """Runs all choices to their end and returns a completion for each prompt or conversation."""
        tally.total = len(self._choices)
        async with aclosing(run(self._engine, self._codec, self._choices)) as steps:
            async for many in steps:
                for step in many:
                    self._answers[step.update.index].take(step)
                    tally.tokens += len(step.tokens)
                    tally.done += step.update.finish_reason is not None
        found: dict[int, list[_Answer]] = {}
        for answer in self._answers:
            found.setdefault(answer.index, []).append(answer)
        return [self._completion(answers) for answers in found.values()]

    async def stream(self, put: Callable[[list[Piece]], None]) -> None:
        """Runs all choices, and hands over the pieces of each step at once."""
        async with aclosing(run(self._engine, self._codec, self._choices)) as steps:
            async for many in steps:
                pieces: list[Piece] = []
                for step in many:
                    answer = self._answers[step.update.index]
                    if told := answer.take(step):
                        pieces.append(self._piece(answer, told))
                if pieces:
                    put(pieces)

    def _piece(self, answer: _Answer, told: _Told) -> Piece:
        counts = answer.counts
        return Piece(
            told.text,
            answer.index,
            answer.choice,
            told.reasoning,
            told.finish_reason,
            answer.calls() if told.finish_reason else (),
            _logprobs(told.entries, self._codec) if self._logprobs else None,
            counts.prompt,
            counts.cached,
            counts.completion,
            counts.forgotten,
        )

    def _completion(self, answers: Sequence[_Answer]) -> Completion:
        choices = tuple(
            CompletionChoice(
                answer.said.content,
                tuple(answer.tokens),
                answer.finish_reason,
                answer.counts.completion,
                _logprobs(answer.entries, self._codec) if self._logprobs else None,
                answer.said.reasoning,
                answer.calls(),
                None
                if answer.said.calls
                else self._format.parse(answer.said.content, cut=answer.finish_reason == "length"),
                answer.counts.forgotten,
            )
            for answer in answers
        )
        first = answers[0].counts
        return Completion(choices, first.prompt, first.cached)


async def plan_prompts(
    session: Session, prompts: Sequence[Prompt], sampling: Sampling, format: Format, adapter: str
) -> Call:
    """Tokenises prompts and checks everything about them, before any of them runs.

    Raises:
        ContextLengthExceeded: a prompt, or what is to follow it, does not fit.
        InvalidRequest, ModelNotFound: an argument cannot be used.
    """
    model = generator(session)
    check_adapter(session, adapter)
    window = window_of(sampling.get("window"))
    inputs = await encoded(session, prompts, "prompt", window)
    if format.grammar is not None:
        await model.prepare(format.grammar, _NOBODY, "schema")
    id, n = session.next_id(), sampling.get("n") or 1
    asked = sampling.get("max_tokens") or _DEFAULT_MAX_TOKENS
    choices: list[Choice] = []
    answers: list[_Answer] = []
    for number, prompt in enumerate(inputs):
        where = place("prompt", number, len(inputs))
        params = _params(session, sampling, room(session, len(prompt), asked, where, window), format)
        for choice in range(n):
            index = len(choices)
            request = engine_request(f"{id}-{index}", prompt, params, choice, _NOBODY, adapter)
            choices.append(Choice(index, replace(request, window=window), stops_of(sampling)))
            answers.append(_Answer(number, choice, None))
    return Call(session, choices, answers, format, logprobs=_wants_logprobs(sampling))


async def plan_chats(
    session: Session,
    chats: Sequence[Conversation],
    sampling: Sampling,
    options: ChatOptions,
    format: Format,
    adapter: str,
) -> Call:
    """Renders conversations and checks everything about them, before any of them runs.

    Raises:
        ContextLengthExceeded: a conversation, or what is to follow it, does not fit.
        InvalidRequest, ModelNotFound: an argument cannot be used.
    """
    model = generator(session)
    check_adapter(session, adapter)
    check_chats(model)
    window = window_of(sampling.get("window"))
    id, n = session.next_id(), sampling.get("n") or 1
    choices: list[Choice] = []
    answers: list[_Answer] = []
    for number, messages in enumerate(chats):
        where = place("messages", number, len(chats))
        dialogue = dialogue_of(messages, options, format, model.codec, where)
        dialogue = replace(dialogue, most_tokens=MOST_TOKENS if window else None)
        try:
            plan = await plan_dialogue(model, dialogue, _NOBODY)
        except PromptTooLong as error:
            raise larger(session, error) from None
        limit = room(session, len(plan.prompt), sampling.get("max_tokens"), where, window)
        params = replace(_params(session, sampling, limit, Format()), grammar=plan.grammar)
        for one in _choices_of(plan, f"{id}-{number}", params, n, stops_of(sampling), adapter):
            answers.append(_Answer(number, one.index, TurnParser(plan)))
            choices.append(replace(one, index=len(choices), request=replace(one.request, window=window)))
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
    return Call(session, choices, answers, format, logprobs=_wants_logprobs(sampling))


def _choices_of(
    plan: Plan, id: str, params: SamplingParams, n: int, stops: Sequence[str], adapter: str
) -> list[Choice]:
    return plan.choices(id, params, n=n, stops=stops, caller=_NOBODY, adapter=adapter)


def _wants_logprobs(sampling: Sampling) -> bool:
    """Returns whether log probabilities are asked for; 0 alternatives are, too."""
    return sampling.get("logprobs") is not None


def _params(session: Session, sampling: Sampling, limit: int, format: Format) -> SamplingParams:
    model = session.model
    params = model.sampling(sampling_options(sampling), limit, logprobs=sampling.get("logprobs"))
    return replace(params, grammar=format.grammar)


def _logprobs(entries: Sequence[Entry], codec: Codec) -> tuple[TokenLogprob, ...]:
    def text(token: int) -> str:
        return codec.token_bytes(token).decode("utf-8", "replace")

    return tuple(
        TokenLogprob(
            text(entry.info.token),
            entry.info.token,
            entry.info.logprob,
            entry.info.rank,
            tuple((text(token), logprob) for token, logprob in entry.info.top),
        )
        for entry in entries
    )

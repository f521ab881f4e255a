"""Loads: requests at random times, users who think between their turns, and recorded traces."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest
from deepwell.fleet.simulate.requests import ALONE, Request

__all__ = ["Load", "Mix", "PoissonLoad", "Row", "Source", "TraceLoad", "UserLoad", "read_trace"]

_MOST_ROWS: Final = 5_000_000
_MOST_LINE: Final = 64 << 10
_POOL: Final = 1 << 22  # draws of a kind at most; longer runs use them again


class Source(Protocol):
    """The requests of one run."""

    def arrivals(self) -> Iterator[Request]:
        """Yields the requests that come whatever happens, in the order of their arrival."""
        ...

    def after(self, request: Request, now: float) -> Request | None:
        """Returns the request that follows one which has ended or was refused, if there is one."""
        ...


class Load(Protocol):
    """The requests that clients send, before a seed draws them."""

    @property
    def shared_tokens(self) -> int:
        """Tokens that all prompts begin with."""
        ...

    @property
    def horizon_s(self) -> float:
        """Seconds after which nothing new arrives."""
        ...

    def source(self, seed: int, context: int) -> Source:
        """Returns the requests of one run. The same seed gives the same ones, whatever serves them."""
        ...


@dataclass(frozen=True, slots=True)
class Mix:
    """Lengths of requests, and the answers that caches have.

    Attributes:
        prompt_tokens: mean length of a message, without what all prompts begin with.
        answer_tokens: mean length of an answer.
        spread: standard deviation of both lengths divided by their mean. Lengths are lognormal; 0: all are equal.
        shared_tokens: tokens that all prompts begin with, such as a system prompt.
        exact: share of the requests that the exact cache of answers answers.
        semantic: share that the semantic cache answers.
        semantic_s: seconds that the semantic cache takes for an answer.
    """

    prompt_tokens: float = 200
    answer_tokens: float = 150
    spread: float = 0.8
    shared_tokens: int = 0
    exact: float = 0.0
    semantic: float = 0.0
    semantic_s: float = 0.02


class _Draws:
    """Random numbers of a run, drawn ahead: a request has the same ones, whatever serves it."""

    def __init__(self, mix: Mix, seed: int, count: int) -> None:
        self.count = min(max(count, 1024), _POOL)
        self.rng = rng = np.random.default_rng(seed)
        self.prompts = _lengths(rng, mix.prompt_tokens, mix.spread, self.count)
        self.answers = _lengths(rng, mix.answer_tokens, mix.spread, self.count)
        drawn = rng.random(self.count)
        hits = np.where(drawn < mix.exact + mix.semantic, mix.semantic_s, -1.0)
        self.hits: list[float] = np.where(drawn < mix.exact, 0.0, hits).tolist()


def _lengths(rng: np.random.Generator, mean: float, spread: float, count: int) -> list[int]:
    if spread == 0:
        return [max(1, round(mean))] * count
    variance = math.log1p(spread * spread)
    drawn = rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count)
    return np.maximum(1, np.rint(drawn)).astype(np.int64).tolist()


@dataclass(frozen=True, slots=True)
class PoissonLoad:
    """Requests that arrive independently of each other, `rate` a second in the mean. Each is a conversation of its own."""

    rate: float
    seconds: float
    mix: Mix = Mix()

    @property
    def shared_tokens(self) -> int:
        """Tokens that all prompts begin with."""
        return self.mix.shared_tokens

    @property
    def horizon_s(self) -> float:
        """Seconds after which nothing new arrives."""
        return self.seconds

    def source(self, seed: int, context: int) -> Source:
        """Returns the requests of one run."""
        return _PoissonSource(self, seed, context)


class _PoissonSource:
    def __init__(self, load: PoissonLoad, seed: int, context: int) -> None:
        self._load = load
        self._context = context
        count = math.ceil(load.rate * load.seconds)
        self._draws = _Draws(load.mix, seed, count)

    def arrivals(self) -> Iterator[Request]:
        load, draws, shared = self._load, self._draws, self._load.mix.shared_tokens
        now, number = 0.0, 0
        while True:
            gaps: NDArray[np.float64] = draws.rng.exponential(1 / load.rate, 4096)
            for gap in gaps.tolist():
                now += gap
                if now >= load.seconds:
                    return
                at = number % draws.count
                number += 1
                prompt, answer = _fitting(shared + draws.prompts[at], draws.answers[at], self._context)
                yield Request(now, prompt, answer, hit_s=draws.hits[at])

    def after(self, request: Request, now: float) -> Request | None:
        return None


def _fitting(prompt: int, answer: int, context: int) -> tuple[int, int]:
    """Returns lengths within the context: clients neither send nor ask for more than fits."""
    prompt = min(prompt, context - 1)
    return prompt, min(answer, context - prompt)


@dataclass(frozen=True, slots=True)
class UserLoad:
    """Users who read and think for `think_s` in the mean, and then send the next message of their conversation.

    A prompt has all of its conversation before it. Conversations have `turns` messages in the mean; one that no longer fits
    the context is left for a new one.
    """

    users: int
    think_s: float
    seconds: float
    turns: float = 4
    mix: Mix = Mix()

    @property
    def shared_tokens(self) -> int:
        """Tokens that all prompts begin with."""
        return self.mix.shared_tokens

    @property
    def horizon_s(self) -> float:
        """Seconds after which nothing new arrives."""
        return self.seconds

    def source(self, seed: int, context: int) -> Source:
        """Returns the requests of one run."""
        return _UserSource(self, seed, context)


class _UserSource:
    def __init__(self, load: UserLoad, seed: int, context: int) -> None:
        self._load = load
        self._context = context
        each = math.ceil(1.5 * load.seconds / max(load.think_s, 1.0)) + 4
        self._draws = draws = _Draws(load.mix, seed, load.users * each)
        self._thinks: list[float] = draws.rng.exponential(load.think_s, draws.count).tolist()
        self._leaves: list[bool] = (draws.rng.random(draws.count) * load.turns < 1).tolist()
        # A conversation that is met at random has a geometric number of turns behind it.
        before = draws.rng.geometric(min(1.0, 1 / load.turns), load.users) - 1
        turn = load.mix.prompt_tokens + load.mix.answer_tokens
        self._history: list[int] = np.rint(before * turn).astype(np.int64).tolist()
        self._turn = [0] * load.users
        self._conversation = list(range(load.users))
        self._next = load.users

    def arrivals(self) -> Iterator[Request]:
        first = sorted((self._thinks[user % self._draws.count], user) for user in range(self._load.users))
        for now, user in first:
            if now < self._load.seconds:
                yield self._request(user, now)

    def after(self, request: Request, now: float) -> Request | None:
        user = request.user
        at = self._at(user)
        self._turn[user] += 1
        if self._leaves[at]:
            self._leave(user)
        elif not request.rejected:
            self._history[user] = request.prompt - self._load.mix.shared_tokens + request.answer
        begin = now + self._thinks[self._at(user)]
        return self._request(user, begin) if begin < self._load.seconds else None

    def _at(self, user: int) -> int:
        return (user + self._turn[user] * self._load.users) % self._draws.count

    def _leave(self, user: int) -> None:
        self._history[user] = 0
        self._conversation[user] = self._next
        self._next += 1

    def _request(self, user: int, now: float) -> Request:
        draws, at, shared = self._draws, self._at(user), self._load.mix.shared_tokens
        prompt, answer = draws.prompts[at], draws.answers[at]
        if shared + self._history[user] + prompt + answer > self._context:
            self._leave(user)
        prompt, answer = _fitting(shared + self._history[user] + prompt, answer, self._context)
        conversation = self._conversation[user]
        return Request(now, prompt, answer, conversation=conversation, user=user, hit_s=draws.hits[at])


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a trace."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int
    conversation: int = ALONE


@dataclass(frozen=True, slots=True)
class TraceLoad:
    """Requests at recorded times, with recorded lengths."""

    rows: Sequence[Row]
    shared_tokens: int = 0

    @property
    def horizon_s(self) -> float:
        """Seconds after which nothing new arrives: a trace ends by itself."""
        return math.inf

    def source(self, seed: int, context: int) -> Source:
        """Returns the requests.

        Raises:
            InvalidRequest: one is longer than the context.
        """
        for number, row in enumerate(self.rows, 1):
            if row.prompt_tokens + row.answer_tokens > context:
                tokens = row.prompt_tokens + row.answer_tokens
                raise InvalidRequest.of("simulate_context", number=number, tokens=tokens, context=context)
        return _TraceSource(self.rows)


class _TraceSource:
    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def arrivals(self) -> Iterator[Request]:
        for row in self._rows:
            yield Request(row.at_s, row.prompt_tokens, row.answer_tokens, conversation=row.conversation)

    def after(self, request: Request, now: float) -> Request | None:
        return None


def read_trace(path: Path, *, speed: float = 1.0) -> TraceLoad:
    """Reads JSON lines with `at_s`, `prompt_tokens`, `answer_tokens` and, where turns belong together, `conversation`.

    Args:
        speed: times are divided by it: 2 sends the requests twice as fast.

    Raises:
        InvalidRequest: a line is no such object; the message names it.
        OSError: the file cannot be read.
    """
    rows: list[Row] = []
    numbers: dict[str, int] = {}
    with path.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_MOST_LINE + 1), b""), 1):
            if not line.strip():
                continue
            try:
                if len(line) > _MOST_LINE:
                    raise ValueError(f"it is longer than {_MOST_LINE} bytes")
                if len(rows) == _MOST_ROWS:
                    raise ValueError(f"there are more than {_MOST_ROWS} requests")
                rows.append(_row(json.loads(line), speed, numbers))
            except (ValueError, OverflowError, RecursionError) as error:
                raise InvalidRequest.of(
                    "simulate_trace", path=path, line=number, reason=str(error)[:200]
                ) from None
    if not rows:
        raise InvalidRequest.of("simulate_trace", path=path, line=1, reason="there is no request")
    rows.sort(key=lambda row: row.at_s)
    return TraceLoad(rows)


def _row(found: Any, speed: float, numbers: dict[str, int]) -> Row:
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    unknown = set(found) - {"at_s", "prompt_tokens", "answer_tokens", "conversation"}
    if unknown:
        raise ValueError(f"it has the unknown key {sorted(map(str, unknown))[0]!r}")
    at_s = found.get("at_s")
    if isinstance(at_s, bool) or not isinstance(at_s, int | float) or not 0 <= at_s < math.inf:
        raise ValueError("at_s is no number of seconds from 0 on")
    lengths = found.get("prompt_tokens"), found.get("answer_tokens")
    for name, value in zip(("prompt_tokens", "answer_tokens"), lengths, strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
            raise ValueError(f"{name} is no whole number from 1 on")
    conversation = found.get("conversation")
    if conversation is not None and not isinstance(conversation, str | int):
        raise ValueError("conversation is neither a text nor a number")
    name = json.dumps(conversation)
    turn = ALONE if conversation is None else numbers.setdefault(name, len(numbers))
    return Row(at_s / speed, int(lengths[0] or 0), int(lengths[1] or 0), turn)

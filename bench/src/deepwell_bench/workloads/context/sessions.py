"""Conversations in which facts are told first, and 16,000 tokens of other text come between them and the questions."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell_bench.workloads.context.facts import Question, Split, hidden_facts, questions
from deepwell_bench.workloads.context.haystacks import filler

__all__ = ["FACTS", "SESSIONS", "Session", "session", "sessions_identity"]

SESSIONS: Final = 20
FACTS: Final = 16
"""Facts of a session: two of each form, about different places."""

_SOURCES: Final = ("abstracts", "help", "manuals")
_FROZEN: Final = Path(__file__).with_name("frozen_sessions.toml")
_TOLD_AT_ONCE: Final = 4  # facts in one message
_BESIDE: Final = 2  # sentences of other text in front of each fact
_TURN_CHARACTERS: Final = 1200


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation that has outgrown the context.

    Attributes:
        told: user messages with the facts, among other text.
        later: user messages behind them, without facts.
        questions: one for each fact, half of them reworded.
    """

    told: tuple[str, ...]
    later: tuple[str, ...]
    questions: tuple[Question, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation as a request has it, without a question."""
        found: list[dict[str, str]] = []
        for text in (*self.told, *self.later):
            found += [{"role": "user", "content": text}, {"role": "assistant", "content": "I see."}]
        return found


def session(number: int, split: Split, between: int, count: Callable[[str], int]) -> Session:
    """Returns a session.

    Args:
        number: from 0; sessions of different numbers share no facts.
        between: tokens of text behind the facts, by `count`, or a sentence more.

    Raises:
        DeepwellError: the sessions of the evaluation are not the frozen ones.
    """
    if split == "evaluation":
        _check()
    seed = _seed(number)
    facts = [one.fact.sentence for one in hidden_facts(split, "en", seed)[:FACTS]]
    asked = tuple(questions(split, "en", seed)[:FACTS])
    sentences, at = _filler(number, split)
    told: list[str] = []
    for first in range(0, FACTS, _TOLD_AT_ONCE):
        pieces: list[str] = []
        for fact in facts[first : first + _TOLD_AT_ONCE]:
            pieces += [*(sentences[(at + one) % len(sentences)] for one in range(_BESIDE)), f" {fact}"]
            at += _BESIDE
        told.append("".join(pieces).strip())
    later: list[str] = []
    held, tokens = "", 0
    while tokens < between:
        held += sentences[at % len(sentences)]
        tokens += count(sentences[at % len(sentences)])
        at += 1
        if len(held) >= _TURN_CHARACTERS or tokens >= between:
            later.append(held.strip())
            held = ""
    return Session(tuple(told), tuple(later), asked)


def sessions_identity(split: Split) -> str:
    """Returns the SHA-256 of the facts, the questions and the other text of all sessions."""
    whole: list[object] = [filler(one, split) for one in _SOURCES]
    for number in range(SESSIONS):
        seed = _seed(number)
        whole += [
            [one.fact.sentence for one in hidden_facts(split, "en", seed)[:FACTS]],
            [(one.text, one.answers) for one in questions(split, "en", seed)[:FACTS]],
            _filler(number, split)[1],
        ]
    return sha256(json.dumps(whole).encode()).hexdigest()


def _seed(number: int) -> str:
    return f"session-{number}"


def _filler(number: int, split: Split) -> tuple[tuple[str, ...], int]:
    """Returns the sentences that a session's other text is taken from, and where it begins in them."""
    name = _SOURCES[number % len(_SOURCES)]
    sentences = filler(name, split)
    draw = random.Random(f"deepwell:context:sessions:{split}:{number}")  # noqa: S311 - a seeded draw, not a secret
    return sentences, draw.randrange(len(sentences))


@cache
def _check() -> None:
    frozen = tomllib.loads(_FROZEN.read_text(encoding="utf-8"))
    if sessions_identity("evaluation") != frozen["evaluation"]:
        raise DeepwellError(
            "the sessions of the evaluation are not the frozen ones",
            fix="restore bench/workloads/context from the repository; its sources are those of Debian 13",
        )

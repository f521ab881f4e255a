"""`compose`: a product text that keeps to its brief; `plain`: the same brief in one prompt.

A small model counts badly and forgets terms, and a grammar that makes it count breaks its sentences. Several drafts are
therefore written freely, and the text is put together from their sentences: those with forbidden terms are left out, and of
all choices with the wanted length and every required term the one is taken that the model itself finds most natural.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deepwell.agents.writing.brief import TOLERANCE, Brief, Measured, length_of, measure
from deepwell.agents.writing.pick import Sentence, pick
from deepwell.agents.writing.prompts import draft_prompt, judged, plain_prompt, sentence_prompt, template
from deepwell.agents.writing.sentences import around, cut, terms_of
from deepwell.safety.labels import labelled

__all__ = ["Composition", "Writer", "compose", "plain"]

_DRAFTS, _SENTENCES, _ROUNDS = 6, 4, 3
_WIDER = (
    TOLERANCE,
    0.25,
    0.5,
)  # shares of the length by which a text may miss it, where nothing else is left
_TEMPERATURE = 0.8
_SPAN = {"zh": 7, "en": 22}  # characters in a row that make two sentences alike
_TEMPLATE = -6.0  # naturalness of a sentence that only states a term: below that of any sentence of a draft


class Writer(Protocol):
    """The part of `deepwell.LLM` that writing needs."""

    def chat(self, messages: Any, **arguments: Any) -> Any: ...
    def score(self, texts: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Composition:
    """A product text.

    Attributes:
        text: the text as it is shown, with the visible label of generated content.
        body: the text alone.
        measured: what it keeps of the brief.
        rounds: times that drafts were written.
        stated: required terms that no sentence of the model has, so that a sentence of their own states them.
    """

    text: str
    body: str
    measured: Measured
    rounds: int
    stated: tuple[str, ...]


def compose(writer: Writer, brief: Brief, seed: int = 0) -> Composition:
    """Returns the text of a brief: one that keeps to it, or the nearest, whose `measured` says what it lacks.

    Raises:
        InvalidRequest: the terms of the brief contradict each other.
    """
    brief.checked()
    pool: dict[str, Sentence] = {}
    chosen: Sequence[Sentence] = ()
    rounds = 0
    for rounds in range(1, _ROUNDS + 1):
        for one in _sentences(writer, brief, seed + 1000 * rounds, pool):
            pool.setdefault(one.text, one)
        if chosen := _picked(brief, pool):
            break
    stated = tuple(term for number, term in enumerate(brief.required) if not _has(pool, number))
    if not chosen:
        for number, term in enumerate(brief.required):
            text = template(brief, term)
            pool[text] = Sentence(text, length_of(text, brief.language), frozenset({number}), 0.8, _TEMPLATE)
        for slack in _WIDER:
            chosen = chosen or _picked(brief, pool, slack)
    body = ("" if brief.language == "zh" else " ").join(one.text for one in chosen)
    return Composition(labelled(body, brief.language), body, measure(brief, body), rounds, stated)


def plain(writer: Writer, brief: Brief, seed: int = 0) -> str:
    """Returns what the model writes when it is told the whole brief in one prompt, without any check."""
    messages = [{"role": "user", "content": plain_prompt(brief)}]
    reply = writer.chat(messages, temperature=_TEMPERATURE, seed=seed, max_tokens=4 * brief.length)
    return str(reply.text).strip()


def _picked(brief: Brief, pool: dict[str, Sentence], share: float = TOLERANCE) -> Sequence[Sentence]:
    slack = int(share * brief.length)
    bounds = brief.length - slack, brief.length + slack
    return pick(list(pool.values()), len(brief.required), *bounds, _SPAN[brief.language])


def _has(pool: dict[str, Sentence], number: int) -> bool:
    return any(number in one.terms for one in pool.values())


def _sentences(writer: Writer, brief: Brief, seed: int, pool: dict[str, Sentence]) -> list[Sentence]:
    """Returns new sentences: those of drafts, and some for each required term that none has yet."""
    found = dict[str, float]()
    for draft in _drawn(writer, draft_prompt(brief), seed, _DRAFTS, 2 * brief.length):
        parts = cut(draft, brief)
        for number, part in enumerate(parts):
            found.setdefault(part, number / max(len(parts) - 1, 1))
    for number, term in enumerate(brief.required):
        if any(number in terms_of(one, brief) for one in (*found, *pool)):
            continue
        prompt = sentence_prompt(brief, term)
        own = _drawn(writer, prompt, seed + number, _SENTENCES, 60)
        parts = [part for draft in own for part in cut(draft, brief)]
        if not any(number in terms_of(one, brief) for one in parts):
            bound = _drawn(writer, prompt, seed + number, _SENTENCES, 60, around(term, brief.language))
            parts += [part for draft in bound for part in cut(draft, brief)]
        found.update({part: 0.5 for part in parts if part not in found})
    texts = [one for one in found if one not in pool]
    scores = writer.score([(judged(brief), one) for one in texts]) if texts else []
    return [
        Sentence(one, length_of(one, brief.language), terms_of(one, brief), found[one], float(score.mean))
        for one, score in zip(texts, scores, strict=True)
    ]


def _drawn(
    writer: Writer, prompt: str, seed: int, count: int, most_tokens: int, grammar: str | None = None
) -> list[str]:
    messages = [{"role": "user", "content": prompt}]
    reply = writer.chat(
        messages,
        n=count,
        temperature=_TEMPERATURE,
        top_p=0.95,
        seed=seed,
        max_tokens=most_tokens,
        grammar=grammar,
    )
    return [str(choice.text) for choice in reply.choices]

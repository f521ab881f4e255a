"""`rehearse`: the statements of a text, with questions that rules make of each, for an adapter that is to remember them.

    for one in rehearse(turns, most=64):
        one.text, one.questions   # "The locker number at the Kiel gym is 48213.", ("What did I say about the Kiel gym?", ...)

A statement is a sentence with something rare in it: a name, a number, a code. It is about its name; what else is rare in it is
its value. The answer to each of its questions is the statement itself, word for word, so that nothing is taught which
the text does not say. No model is asked.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepwell.knowledge.sentences import sentence_spans

__all__ = ["MOST_STATEMENTS", "Rehearsed", "rehearsals", "rehearse"]

MOST_STATEMENTS: Final = 32
"""Statements that an adapter learns of one conversation."""

_WORD: Final = re.compile(r"\w+(?:['’.,:/-]\w+)*")
_ARTICLES: Final = frozenset("a an the this that these those its their his her our my your".split())
_LINKS: Final = frozenset(
    "is are was were be been being am has have had do does did will would can could may might must shall should not to of in "
    "on at by for from with and or but as than into onto over under about between through during against which who whom whose "
    "when where if then so there it they he she we you i".split()
)
_FUNCTION: Final = _LINKS | _ARTICLES
_ENDS_NOUN: Final = re.compile(r"(?<!s)s$|ed$|\d")  # verbs, about
_LEANS: Final = re.compile(r"(?:Its?|They|Their|This|That|These|Those|He|She|His|Her)\b")
_MONTH: Final = re.compile(
    r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\b|\b\d{4}-\d\d-\d\d\b"
)
_BREAKS: Final = re.compile(r"[,;:()\[\]\"“”|]|\s[–—-]\s")
_ASKED_AT_ONCE: Final = 4  # questions in one conversation
_PROSE: Final = re.compile(r"[^=<>{}\\|/$#*_~;\[\]“”\"]+[.!。！]")
_VERB: Final = re.compile(
    r"\b(?:is|are|was|were|am|has|have|had|will|would|can|could|may|must|shall|should|does|did|do)\b|[a-z](?:[^s\W]s|ed)\b"
)
_FEWEST_WORDS, _MOST_WORDS = 4, 40
_SPREAD: Final = 4  # words that a statement's rarity is spread over beside its own: short ones do not win by shortness alone


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A statement and the questions that it answers.

    Attributes:
        text: the sentence, behind the one before it where it leans on that: "Its number is 48213."
        questions: what may be asked about it.
    """

    text: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Word:
    start: int
    end: int
    text: str
    rare: bool
    named: bool


@dataclass(frozen=True, slots=True)
class _Statement:
    text: str
    words: tuple[_Word, ...]
    phrases: tuple[tuple[int, int], ...]  # numbers of words

    @property
    def rare(self) -> list[str]:
        return [one.text.casefold() for one in self.words if one.rare]


def rehearsals(texts: Sequence[str], most: int = MOST_STATEMENTS) -> list[dict[str, Any]]:
    """Returns training records of the statements of texts: conversations that ask for them, in an order of their own.

    A conversation has several questions, so that they share what the template costs. Each is about another statement, so that
    no answer can be read off an earlier one.
    """
    found = rehearse(texts, most)
    rounds = max((len(one.questions) for one in found), default=0)
    records: list[dict[str, Any]] = []
    for number in range(rounds):
        asked = [(one.questions[number], one.text) for one in found if number < len(one.questions)]
        asked.sort(key=lambda pair: _digest("\0".join(pair)))
        for first in range(0, len(asked), _ASKED_AT_ONCE):
            messages: list[dict[str, str]] = []
            for question, answer in asked[first : first + _ASKED_AT_ONCE]:
                messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            records.append({"messages": messages})
    return records


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def rehearse(texts: Sequence[str], most: int) -> list[Rehearsed]:
    """Returns the statements of texts that say the rarest things, in the order of the texts.

    Args:
        most: number of statements.
    """
    found = list(dict.fromkeys(one for text in texts for one in _statements(text)))
    # "Format" is no name in a text that has "format": titles and commands are written with capitals.
    plain = {one[0] for text in texts for one in _WORD.finditer(text) if one[0].islower()}
    read = [one for text in found if (one := _read(text, plain)) is not None]
    seen = Counter(word for one in read for word in set(one.rare))
    order = sorted(range(len(read)), key=lambda at: (-_weight(read[at], seen, len(read)), at))
    return [Rehearsed(read[at].text, _questions(read[at])) for at in sorted(order[:most])]


def _weight(one: _Statement, seen: Counter[str], count: int) -> float:
    rarity = sum(math.log((count + 1) / seen[word]) for word in set(one.rare))
    return rarity / (len(one.words) + _SPREAD)


def _statements(text: str) -> Iterator[str]:
    """Yields sentences, each behind the one before it where it begins with a word that leans on that."""
    before = ""
    for start, end in sentence_spans(text):
        sentence = " ".join(text[start:end].split())
        yield f"{before} {sentence}" if before and _LEANS.match(sentence) else sentence
        before = sentence


def _read(text: str, plain: Container[str]) -> _Statement | None:
    """Returns a sentence with its phrases; None: it is none that states something.

    Args:
        plain: words that the texts write in small letters too.
    """
    if not _PROSE.fullmatch(text) or not _VERB.search(text):
        return None
    words = list(_words(text, plain))
    if not _FEWEST_WORDS <= len(words) <= _MOST_WORDS or not any(one.rare for one in words):
        return None
    return _Statement(text, tuple(words), tuple(_phrases(text, words)))


def _words(text: str, plain: Container[str]) -> Iterator[_Word]:
    found = list(_WORD.finditer(text))
    for at, one in enumerate(found):
        word = one[0]
        first = not at or text[found[at - 1].end() : one.start()].strip() in (".", "!", "?")
        capital = word[0].isupper() and word.casefold() not in _FUNCTION and word.lower() not in plain
        if first and capital:  # a name only where another follows: "Bruno Novak", not "Calls to"
            capital = at + 1 < len(found) and found[at + 1][0][0].isupper()
        digit = any(map(str.isdigit, word))
        named = capital and not digit
        yield _Word(one.start(), one.end(), word, named or digit or "-" in word, named)


def _phrases(text: str, words: Sequence[_Word]) -> Iterator[tuple[int, int]]:
    """Yields runs of words between function words, articles and punctuation."""
    start = 0
    for at, one in enumerate(words):
        if at > start and _BREAKS.search(text[words[at - 1].end : one.start]):
            yield start, at
            start = at
        if one.text.casefold() in _FUNCTION:
            if at > start:
                yield start, at
            start = at + 1
    if len(words) > start:
        yield start, len(words)


def _about(one: _Statement) -> tuple[int, int] | None:
    """Returns the words of the name that a statement is about, with the noun behind it; of names, one behind an article."""
    found: list[tuple[int, int]] = []
    for first, last in one.phrases:
        named = [at for at in range(first, last) if one.words[at].named]
        if not named:
            continue
        end = named[-1] + 1
        while end < last and not _ENDS_NOUN.search(one.words[end].text):
            end += 1
        found.append((named[0], end))
    behind_article = ((a, b) for a, b in found if a and one.words[a - 1].text.casefold() in _ARTICLES)
    return next(behind_article, found[0] if found else None)


def _value(one: _Statement, about: tuple[int, int] | None) -> tuple[int, int] | None:
    """Returns the words of a statement's value: the longest run of rare words beside what it is about, or its last phrase."""
    runs: list[tuple[int, int]] = []
    for at, word in enumerate(one.words):
        if not word.rare or (about is not None and about[0] <= at < about[1]):
            continue
        if runs and runs[-1][1] == at:
            runs[-1] = (runs[-1][0], at + 1)
        else:
            runs.append((at, at + 1))
    if runs:
        return max(runs, key=lambda run: run[1] - run[0])
    last = one.phrases[-1] if one.phrases else None
    return None if last is None or last == about or (about and last[0] < about[1]) else last


def _questions(one: _Statement) -> tuple[str, ...]:
    about, value = _about(one), _value(one, _about(one))
    words, text = one.words, one.text
    found: list[str] = []
    asking = "What"
    if value is not None:
        start, end = words[value[0]].start, words[value[1] - 1].end
        asking = _asking(text[start:end], [words[at] for at in range(*value)])
        behind = text[end:].strip(" .!\"'”")
        found.append(f"{text[:start]}{asking.lower()}{' ' if behind else ''}{behind}?")
        if not behind and start:
            found.append(f"Complete: {text[:start].rstrip()} ...")
    rest = " ".join(
        word.text
        for at, word in enumerate(words)
        if not any(span is not None and span[0] <= at < span[1] for span in (about, value))
        and word.text.casefold() not in _FUNCTION
    )
    if about is None:
        if rest:
            found += [f"What did I say about {rest}?", f"{asking}: {rest}?"]
        return tuple(found)
    start, end = words[about[0]].start, words[about[1] - 1].end
    name = (
        f"the {text[start:end]}"
        if about[0] and words[about[0] - 1].text.casefold() == "the"
        else text[start:end]
    )
    found.append(f"What did I say about {name}?")
    if rest:
        rest = rest[0].lower() + rest[1:]
        found += [
            f"{asking} is the {rest} of {name}?",
            f"{asking} {rest} {name}?",
            f"Tell me the {rest} of {name}.",
        ]
    return tuple(dict.fromkeys(found))


def _asking(value: str, words: Sequence[_Word]) -> str:
    if _MONTH.search(value) and any(map(str.isdigit, value)):
        return "When"
    if any(map(str.isdigit, value)):
        return "Which number"
    return "Who" if len(words) > 1 and all(word.named for word in words) else "What"

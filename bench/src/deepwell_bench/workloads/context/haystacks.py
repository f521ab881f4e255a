"""Haystacks: real text, with facts among its sentences, at a length in tokens; development apart from frozen evaluation.

The texts are Cranfield's abstracts, with capitals where their sentences begin, the LibreOffice help and Debian's manual pages
in English, and Chinese statutes. Development reads their odd paragraphs, evaluation the even ones, and the facts of the two
share no form, city or name. Sentences of more than 400 characters are left out.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell.knowledge.sentences import sentence_spans
from deepwell_bench.workloads.context.facts import (
    Fact,
    Hidden,
    Language,
    Question,
    Split,
    hidden_facts,
    questions,
)
from deepwell_bench.workloads.knowledge.cranfield import cranfield
from deepwell_bench.workloads.knowledge.law import articles_text
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages
from deepwell_bench.workloads.safety.manuals import manual_paragraphs

__all__ = ["HAYSTACKS", "Haystack", "filler", "haystack", "identity_of", "texts_of"]

HAYSTACKS: Final[Mapping[str, Language]] = {"abstracts": "en", "help": "en", "manuals": "en", "law": "zh"}
"""Names of the haystacks, and their languages."""

_FROZEN: Final = Path(__file__).with_name("frozen.toml")
_CHARACTERS: Final = 400_000  # of a haystack's text at most: 64k tokens of English have about 300,000
_LEAST_PARAGRAPH: Final = 40
_LONGEST_SENTENCE: Final = 400  # characters: a longer one would move needles from their depth
_FULL_STOP: Final = re.compile(r" \.\s+([a-z])")
_JITTER: Final = 0.04  # about a needle's depth
_TURN_CHARACTERS: Final = 1200


@dataclass(frozen=True, slots=True)
class Haystack:
    """A text with facts in it.

    Attributes:
        text: the whole.
        hidden: the needles with their distractors, whose sentences stand in `text` as they are.
        questions: one for each needle, then those that ask for three.
        edges: offsets at which sentences of `text` begin, and its end. A fact of two sentences has one edge.
    """

    name: str
    language: Language
    text: str
    hidden: tuple[Hidden, ...]
    questions: tuple[Question, ...]
    edges: tuple[int, ...]

    @property
    def values(self) -> list[str]:
        """All values in the text, those of distractors too."""
        return [one.value for needle in self.hidden for one in (needle.fact, *needle.distractors)]

    def turns(self, characters: int = _TURN_CHARACTERS) -> list[str]:
        """Returns the text as turns of about that many characters. No fact is cut; joined, the turns are the text."""
        cuts = [0]
        for edge in self.edges[1:-1]:
            if edge - cuts[-1] >= characters:
                cuts.append(edge)
        return [self.text[a:b] for a, b in pairwise([*cuts, len(self.text)])]


def haystack(name: str, split: Split, length: int, count: Callable[[str], int]) -> Haystack:
    """Returns a haystack of `length` tokens, or a sentence less.

    Args:
        name: one of `HAYSTACKS`.
        length: tokens of the text, by `count`.
        count: returns the number of tokens of a text.

    Raises:
        DeepwellError: the haystack of the evaluation is not the frozen one, or the length is below that of its facts.
    """
    if split == "evaluation":
        _check(name)
    language = HAYSTACKS[name]
    hidden = tuple(hidden_facts(split, language, name))
    sentences = filler(name, split)
    low, high = 1, len(sentences)  # sentences of filler
    while low < high:
        middle = (low + high + 1) // 2
        if count(_laid(name, split, sentences[:middle], hidden)[0]) <= length:
            low = middle
        else:
            high = middle - 1
    text, edges = _laid(name, split, sentences[:low], hidden)
    if count(text) > length:
        raise DeepwellError(f"{length} tokens do not hold the facts", fix="ask for a longer haystack")
    return Haystack(name, language, text, hidden, tuple(questions(split, language, name)), tuple(edges))


def identity_of(name: str, split: Split) -> str:
    """Returns the SHA-256 of a haystack's text, facts, places and questions."""
    language = HAYSTACKS[name]
    hidden = hidden_facts(split, language, name)
    asked = [(one.text, one.answers) for one in questions(split, language, name)]
    facts = [(one.depth, one.fact.sentence, [other.sentence for other in one.distractors]) for one in hidden]
    whole = [filler(name, split), facts, _places(name, split, hidden), asked]
    return sha256(json.dumps(whole, ensure_ascii=False).encode()).hexdigest()


def texts_of(name: str) -> list[str]:
    """Returns the paragraphs of a haystack's source.

    Raises:
        DownloadError: a source is not there, and cannot be fetched; the fix is the command that does.
    """
    if name == "abstracts":
        return [_capitalised(one) for one in cranfield().documents.values()]
    if name == "help":
        return [one.english for one in help_passages()]
    if name == "manuals":
        return [text for page, text in manual_paragraphs() if page.startswith("manpages/")]
    return articles_text()


def _capitalised(text: str) -> str:
    """Returns a text in lower case, with its full stops behind spaces, as sentences are written."""
    ended = _FULL_STOP.sub(lambda found: f". {found[1].upper()}", text)
    return ended[:1].upper() + ended[1:].removesuffix(" .") + ("." if ended.endswith(" .") else "")


@cache
def _check(name: str) -> None:
    frozen = tomllib.loads(_FROZEN.read_text(encoding="utf-8"))[name]
    if identity_of(name, "evaluation") != frozen["sha256"]:
        raise DeepwellError(
            f"the haystack {name} of the evaluation is not the frozen one",
            fix="restore bench/workloads/context from the repository; its sources are those of Debian 13",
        )


@cache
def filler(name: str, split: Split) -> tuple[str, ...]:
    """Returns the sentences of the filler, each with the space in front of it."""
    texts = [one for one in dict.fromkeys(texts_of(name)) if len(one) >= _LEAST_PARAGRAPH]
    order = texts[1::2] if split == "development" else texts[::2]
    random.Random(f"deepwell:context:{name}:{split}").shuffle(order)  # noqa: S311 - a seeded draw, not a secret
    found: list[str] = []
    size = 0
    for text in order:
        spans = list(sentence_spans(text))
        for number, (start, end) in enumerate(spans):
            if end - start > _LONGEST_SENTENCE:
                continue
            space = "\n\n" if not number else text[spans[number - 1][1] : start]
            found.append(space + text[start:end])
            size += len(found[-1])
        if size > _CHARACTERS:
            break
    found[0] = found[0].lstrip()
    return tuple(found)


def _places(name: str, split: Split, hidden: Sequence[Hidden]) -> list[float]:
    """Returns the depth of every needle and, behind it, of its distractors."""
    draw = random.Random(f"deepwell:context:places:{name}:{split}")  # noqa: S311 - a seeded draw, not a secret
    found: list[float] = []
    for needle in hidden:
        found.append(needle.depth + draw.uniform(-_JITTER, _JITTER))
        found += [draw.uniform(0.02, 0.98) for _ in needle.distractors]
    return found


def _laid(
    name: str, split: Split, sentences: Sequence[str], hidden: Sequence[Hidden]
) -> tuple[str, list[int]]:
    """Returns the text, and where its sentences begin."""
    facts: list[Fact] = [fact for one in hidden for fact in (one.fact, *one.distractors)]
    places = _places(name, split, hidden)
    space = "" if HAYSTACKS[name] == "zh" else " "
    ends = list(accumulate(map(len, sentences)))
    at: dict[int, list[str]] = {}
    for place, fact in sorted(zip(places, facts, strict=True), key=lambda one: one[0]):
        at.setdefault(bisect_left(ends, place * ends[-1]), []).append(space + fact.sentence)
    pieces = [piece for number, one in enumerate(sentences) for piece in (one, *at.get(number, ()))]
    edges = [0]
    for piece in pieces:
        edges.append(edges[-1] + len(piece))
    return "".join(pieces), edges

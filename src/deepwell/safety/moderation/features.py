"""Features of a text: 65 figures of how it speaks and of what, and hashed words and pairs of words."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.moderation.phrases import OPENING, STEP, SUBJECTS, TONES, Phrases

__all__ = ["BUCKETS", "MEASURES", "Reading"]

BUCKETS: Final = 1 << 15
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_WORD: Final = re.compile(r"[\u3400-\u9fff]|[a-z']+|\d+|[^\w\s]")
_EDGE_WORDS: Final = 25
_HAN: Final = re.compile(r"[\u3400-\u9fff]")
_HAN_A_WORD: Final = 1.6
_APOSTROPHE: Final = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
_DOUBLY_ENCODED: Final = (("â€™", "'"), ('â€"', "-"), ("â€œ", '"'), ("â€", '"'))
_DIGITS: Final = re.compile(r"\d+")
# Each begins with a class of characters, behind which the boundary is looked at: `re` then skips to the next candidate, and
# takes a fifth of the time of `\bnot\b` without case.
_YOU: Final = re.compile(r"[yY](?<!\w[yY])[oO][uU](?:[rR]|'[lL][lL]|'[rR][eE])?\b")
_NEGATION: Final = re.compile(r"[nN](?:(?<!\w[nN])(?:[oO][tT]?|[eE][vV][eE][rR])\b|'[tT]\b)")
_I: Final = re.compile(r"[Im](?:(?<!\wI)(?<=I)|(?<!\wm)(?<=m)y)\b")
_CAPITALS: Final = re.compile(r"[A-Z](?<!\w[A-Z])[A-Z]{2,}\b")
_HAN_YOU: Final = ("你", "您")
_HAN_NEGATIONS: Final = ("不", "没有", "别")
_HAN_I: Final = ("我",)
_NONE: Final = np.zeros(0, np.int64)

MEASURES: Final = (
    *("characters", "words", "sentences", "characters_a_word", "lines", "characters_a_sentence"),
    *(f"{tone}_{place}" for tone in TONES for place in ("share", "first", "last", "any")),
    *("subject_share", "subject_first", "subject_last", "subject_unguarded", "subject_guarded", "guarded"),
    *("subject_told_any", "subject_told", "subject_they", "told_unguarded"),
    *("subjects", "most", "subjects_a_word", "most_a_word", "most_of_subjects"),
    *("opening", "steps", "numbers", "you", "negations", "i", "quotes", "exclamations", "capitals"),
    *("questions", "colons", "ends_with_question"),
)
"""Names of the figures."""


@dataclass(frozen=True)
class Reading:
    """A text, cut into sentences, and what its sentences speak of."""

    text: str

    @classmethod
    def of(cls, text: str) -> Reading:
        """Returns the reading of a text, with one kind of quotation marks and dashes."""
        for twice, once in _DOUBLY_ENCODED:
            text = text.replace(twice, once)
        return cls(text.translate(_APOSTROPHE))

    @cached_property
    def sentences(self) -> list[str]:
        """The sentences; an empty text is one empty sentence."""
        return [one for one in _SENTENCE.split(self.text) if one and not one.isspace()] or [""]

    @cached_property
    def encoded(self) -> bytes:
        """The sentences in UTF-8, one a line."""
        return "\n".join(self.sentences).encode("utf-8", "replace")

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        lengths = [len(one.encode("utf-8", "replace")) + 1 for one in self.sentences]
        return np.cumsum(lengths)

    @cached_property
    def found(self) -> dict[str, NDArray[np.int64]]:
        """For each subject and tone: the sentences that its phrases were found in, one for each phrase."""
        return {
            name: self._placed(phrases.starts(self.encoded)) for name, phrases in (SUBJECTS | TONES).items()
        }

    @cached_property
    def subjects(self) -> dict[str, NDArray[np.float64]]:
        """For each subject: float64 [sentences], 1 where a sentence speaks of it."""
        return {name: self.flags(self.found[name]) for name in SUBJECTS}

    @cached_property
    def tones(self) -> dict[str, NDArray[np.float64]]:
        """For each tone: float64 [sentences], 1 where a sentence has it."""
        return {name: self.flags(self.found[name]) for name in TONES}

    def flags(self, sentences: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns 1 for the sentences that are named, and 0 for the others: float64 [sentences]."""
        flags = np.zeros(len(self.sentences), np.float64)
        if len(sentences):
            flags[sentences] = 1
        return flags

    def flagged(self, phrases: Phrases) -> NDArray[np.float64]:
        """Returns 1 for the sentences that have one of some phrases: float64 [sentences]."""
        return self.flags(self._placed(phrases.starts(self.encoded)))

    def _placed(self, starts: list[int]) -> NDArray[np.int64]:
        """Returns the sentences that bytes stand in."""
        if not starts:
            return _NONE
        return np.searchsorted(self._ends, np.array(starts, np.int64), "right")

    def measured(self) -> NDArray[np.float64]:
        """Returns the figures: float64 [65], in the order of `MEASURES`."""
        text, sentences, tones = self.text, self.sentences, self.tones
        characters = len(text)
        words = max(len(text.split()) + len(_HAN.findall(text)) / _HAN_A_WORD, 1.0)
        weights = np.array([len(one) for one in sentences], np.float64) + 1
        weights /= weights.sum()
        found = [
            np.log1p(characters),
            np.log1p(words),
            np.log1p(len(sentences)),
            characters / words,
            np.log1p(text.count("\n")),
            characters / len(sentences) / 100,
        ]
        for flags in tones.values():
            found += [float(flags @ weights), flags[0], flags[-1], float(flags.any())]
        subject = np.max(list(self.subjects.values()), axis=0)
        guarded = np.maximum(np.maximum(tones["refuse"], tones["ethic"]), tones["support"])
        told = subject * tones["imperative"]
        found += [
            float(subject @ weights),
            subject[0],
            subject[-1],
            float((subject * (1 - guarded)) @ weights),
            float((subject * guarded) @ weights),
            float(guarded @ weights),
            float(told.any()),
            float(told @ weights),
            float((subject * tones["they"]) @ weights),
            float((tones["imperative"] * (1 - guarded)) @ weights),
        ]
        return np.array([*found, *self._counted(words)], np.float64)

    def _counted(self, words: float) -> list[float]:
        text = self.text
        counts = [len(self.found[name]) for name in SUBJECTS]
        total, most = sum(counts), max(counts)

        def share(count: int, most: float = np.inf) -> float:
            return min(count / words * 10, most)

        return [
            np.log1p(total),
            np.log1p(most),
            min(total / words * 20, 4.0),
            min(most / words * 20, 4.0),
            most / (total + 1),
            float(bool(OPENING.starts(self.encoded[:60]))),
            np.log1p(len(STEP.starts(self.encoded))),
            np.log1p(len(_DIGITS.findall(text))),
            share(_count(text, _YOU, _HAN_YOU), 3),
            share(_count(text, _NEGATION, _HAN_NEGATIONS), 3),
            share(len(_I.findall(text)), 3),
            share(text.count('"')),
            share(text.count("!") + text.count("！")),
            share(len(_CAPITALS.findall(text))),
            share(text.count("?") + text.count("？")),
            share(text.count(":") + text.count("：")),
            float(text.rstrip().endswith(("?", "？"))),
        ]

    def grams(self) -> NDArray[np.int64]:
        """Returns the buckets of words and pairs of words, each once, those of the beginning and the end apart."""
        words = _WORD.findall(self.text.lower())
        edge = self.text.split()
        if len(edge) > _EDGE_WORDS:
            first, last = (
                _WORD.findall(" ".join(part).lower()) for part in (edge[:_EDGE_WORDS], edge[-_EDGE_WORDS:])
            )
        elif len(edge) > 1:
            first = last = words
        else:
            first, last = words[:_EDGE_WORDS], words[-_EDGE_WORDS:]
        found: set[int] = set()
        for mark, part in (("", words), ("<", first), (">", last)):
            if not part:
                continue
            # No word holds a space. The checksum of a pair goes on from that of its first word.
            encoded = " ".join(part).encode("utf-8", "replace").split(b" ")
            sums = list(map(zlib.crc32, encoded, repeat(zlib.crc32(mark.encode()))))
            found.update(sums)
            found.update(map(zlib.crc32, [b" " + word for word in encoded[1:]], sums))
        return np.unique(np.fromiter(found, np.uint32, len(found)) % BUCKETS).astype(np.int64)


def _count(text: str, english: re.Pattern[str], chinese: Sequence[str]) -> int:
    return len(english.findall(text)) + (0 if text.isascii() else sum(map(text.count, chinese)))

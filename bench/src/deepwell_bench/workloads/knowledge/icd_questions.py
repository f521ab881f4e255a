"""Makes closed questions from the notes of ICD-10-CM. No title of the classification stands in a question."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256

from deepwell.errors import DeepwellError
from deepwell_bench.workloads.knowledge.icd import IcdEntry, icd_entries, plain

__all__ = [
    "DEVELOPMENT_CHAPTERS",
    "QUESTIONS_SHA256",
    "ClosedQuestion",
    "TitleFinder",
    "development_icd_questions",
    "icd_questions",
    "questions_digest",
]

QUESTIONS_SHA256 = "e21f08db7d2a8e8b84e9bbbd276d0d9e6cca799d749e8e6640efdb7c282e1fe9"
"""Digest of the 600 questions. They were frozen before any answer was measured on them."""

DEVELOPMENT_CHAPTERS = frozenset({"7", "9", "13", "17"})
"""Eye, circulatory system, musculoskeletal system, congenital malformations: no question of the 600 comes from them."""

_YES_NO = 300
_FOUR_WAY = 300
_SEED = 2026
# A code, or a list of codes, in brackets behind a condition, such as `(I15.0, I15.1)` or `(H35.0-)`.
_REFERENCE = re.compile(r"\s*\([A-Z][0-9][^()]*\)")
_CODE = re.compile(r"\b[A-Z][0-9][0-9A-Z]")
_NO_CONDITION = re.compile(
    r"^(any|use|conditions?|diseases?|disorders?|the|those|all)\b|\b(codes?|coded|see)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ClosedQuestion:
    """A question with its possible answers.

    Attributes:
        id: kind and number, such as `yesno-017`.
        kind: "yesno", "four" or "control".
        question: its text.
        choices: the possible answers, in the order in which they are shown.
        answer: the right one.
        gold: code of the entry whose note decides it; empty for a control.
    """

    id: str
    kind: str
    question: str
    choices: tuple[str, ...]
    answer: str
    gold: str = ""


class TitleFinder:
    """Finds titles of the classification in a text, word by word."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._by_word: dict[str, set[str]] = {}
        for title in titles:
            if words := plain(title):
                self._by_word.setdefault(words.split()[0], set()).add(words)

    def __call__(self, text: str) -> bool:
        """Tells whether a title stands in the text."""
        padded = f" {plain(text)} "
        return any(
            f" {title} " in padded for word in set(padded.split()) for title in self._by_word.get(word, ())
        )


def icd_questions() -> list[ClosedQuestion]:
    """Returns 300 yes/no questions and 300 with four choices, half of the former to be answered with yes.

    Raises:
        DeepwellError: the generator no longer makes the frozen questions.
    """
    questions = _generate(lambda entry: entry.chapter not in DEVELOPMENT_CHAPTERS, _YES_NO, _FOUR_WAY)
    if questions_digest(questions) != QUESTIONS_SHA256:
        raise DeepwellError(
            "the questions are not the frozen ones", fix="restore icd_questions.py and icd.py"
        )
    return questions


def development_icd_questions() -> list[ClosedQuestion]:
    """Returns 70 + 70 questions of other chapters, on which prompts and the number of passages are chosen."""
    return _generate(lambda entry: entry.chapter in DEVELOPMENT_CHAPTERS, 70, 70)


def questions_digest(questions: Sequence[ClosedQuestion]) -> str:
    """Returns the SHA-256 of the questions with their answers."""
    text = json.dumps([asdict(one) for one in questions], ensure_ascii=False)
    return sha256(text.encode()).hexdigest()


def _generate(takes: Callable[[IcdEntry], bool], yes_no: int, four: int) -> list[ClosedQuestion]:
    chapters = icd_entries()
    has_title = TitleFinder([entry.title for chapter in chapters for entry in chapter.walk()])
    draw = random.Random(_SEED)  # noqa: S311 - a seeded draw, not a secret
    parents = [entry for chapter in chapters if takes(chapter) for entry in chapter.walk() if entry.children]
    coded = [(parent, child) for parent in parents for child in parent.children if _is_code(child.code)]
    return [
        *_yes_no_questions([child for _, child in coded], yes_no, has_title, draw),
        *_four_way_questions(coded, four, has_title, draw),
    ]


def _yes_no_questions(
    entries: list[IcdEntry], count: int, has_title: TitleFinder, draw: random.Random
) -> list[ClosedQuestion]:
    """One question an entry that has notes of both kinds, so that its code says nothing about the answer."""
    usable: list[tuple[IcdEntry, list[str], list[str]]] = []
    for entry in entries:
        inside = {plain(note) for below in entry.walk() for note in (*below.includes, below.title)}
        coded_here = list(_conditions(entry.includes, has_title))
        excluded = [one for one in _conditions(entry.excludes1, has_title) if plain(one) not in inside]
        if coded_here and excluded:
            usable.append((entry, coded_here, excluded))
    _check(len(usable), count)
    questions: list[ClosedQuestion] = []
    for number, (entry, coded_here, excluded) in enumerate(draw.sample(usable, count), 1):
        answer = "yes" if number % 2 else "no"
        condition = draw.choice(coded_here if answer == "yes" else excluded)
        text = f'Is "{condition}" coded under {entry.code} in ICD-10-CM?'
        questions.append(
            ClosedQuestion(f"yesno-{number:03}", "yesno", text, ("yes", "no"), answer, entry.code)
        )
    return questions


def _four_way_questions(
    coded: list[tuple[IcdEntry, IcdEntry]], count: int, has_title: TitleFinder, draw: random.Random
) -> list[ClosedQuestion]:
    """At most one question a group of siblings; the wrong choices are three siblings of the right code."""
    groups: dict[str, list[tuple[IcdEntry, IcdEntry, list[str]]]] = {}
    for parent, entry in coded:
        siblings = {plain(note) for one in parent.children if one is not entry for note in one.includes}
        conditions = [one for one in _conditions(entry.includes, has_title) if plain(one) not in siblings]
        if conditions and len(parent.children) >= 4:
            groups.setdefault(parent.code, []).append((parent, entry, conditions))
    _check(len(groups), count)
    questions: list[ClosedQuestion] = []
    for number, code in enumerate(draw.sample(sorted(groups), count), 1):
        parent, entry, conditions = draw.choice(groups[code])
        others = [one.code for one in parent.children if one is not entry]
        choices = [entry.code, *draw.sample(others, 3)]
        draw.shuffle(choices)
        text = f'Which of these ICD-10-CM codes covers "{draw.choice(conditions)}"?'
        questions.append(
            ClosedQuestion(f"four-{number:03}", "four", text, tuple(choices), entry.code, entry.code)
        )
    return questions


def _conditions(notes: Sequence[str], has_title: TitleFinder) -> Iterator[str]:
    """Yields the notes that name one condition, without the codes in brackets."""
    for note in notes:
        condition = _REFERENCE.sub("", note).strip()
        if 8 <= len(condition) <= 90 and not (
            condition.endswith((":", ","))
            or _CODE.search(condition)
            or _NO_CONDITION.search(condition)
            or has_title(condition)
        ):
            yield condition


def _is_code(code: str) -> bool:
    return bool(re.fullmatch(r"[A-Z][0-9][0-9A-Z](\.[0-9A-Z]+)?", code))


def _check(there: int, wanted: int) -> None:
    if there < wanted:
        raise DeepwellError(
            f"the classification gives {there} questions, not {wanted}", fix="use the pinned package"
        )

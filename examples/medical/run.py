"""An assistant of ICD-10-CM coding: `python examples/medical/run.py QUESTION...`, with words, a code, or a yes/no question.

It finds codes and quotes their notes. It gives no medical advice.
The classification (CMS, April 2026, public domain) is fetched once.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepwell import LLM
from deepwell.errors import DeepwellError
from deepwell.knowledge.index.lexical import TantivyIndex
from deepwell_bench.workloads.knowledge.icd import IcdEntry, icd_entries, icd_passages, plain

CODE = re.compile(r"[A-Z]\d[0-9A-Z](?:\.[0-9A-Z]{1,4})?", re.IGNORECASE)
CLOSED = re.compile(r"(?:is|are|does|do|can|may|should)\b", re.IGNORECASE)
ADVICE = re.compile(
    r"\b(?:should i take|what (?:dose|medicine|drug)|how (?:do|can) i treat|treat(?:ment)? (?:for|of) my|do i have|diagnose me|"
    r"am i (?:ill|sick|pregnant)|cure)\b|吃什么药|怎么治|我是不是得了|用量",
    re.IGNORECASE,
)
LEAST_COVERED = 0.5  # of a question's words: below it nothing is shown
COMMON = frozenset(
    "a an and are be been can code coded codes coding do does for from have how i icd in is it may of on or should the this to "
    "under used what when where which with".split()
)
LIMITS = (
    "Coding help from ICD-10-CM (United States, April 2026). Not medical advice; a certified coder decides. "
    "Local rules, payer rules and other versions are not in it."
)


class Classification:
    """The whole classification, searched by words."""

    def __init__(self) -> None:
        self.chapters = icd_entries()
        self.entries = {one.code: one for chapter in self.chapters for one in chapter.walk()}
        self.passages = icd_passages(self.chapters)
        self._index = TantivyIndex()
        keys = np.arange(1, len(self.passages) + 1, dtype=np.int64)
        self._index.add(keys, [one.text for one in self.passages])

    def search(self, question: str, most: int) -> list[tuple[IcdEntry, str]]:
        """Returns entries with the passage that was found, best first; none if too few words of the question are in it."""
        asked = {one for one in plain(question).split() if one not in COMMON}
        found: dict[str, tuple[float, float, str]] = {}
        for key in self._index.search(question, 10 * most).keys:
            passage = self.passages[int(key) - 1]
            covered = len(asked & set(plain(passage.text).split())) / max(len(asked), 1)
            if covered >= LEAST_COVERED and passage.code in self.entries:
                title = set(plain(self.entries[passage.code].title).split())
                found.setdefault(passage.code, (covered, _alike(asked, title), passage.text))
        nearest = sorted(found, key=lambda code: found[code][:2], reverse=True)
        return [(self.entries[code], found[code][2]) for code in nearest[:most]]


def _alike(asked: set[str], title: set[str]) -> float:
    """Returns the share of words that question and title have in common (Jaccard)."""
    return len(asked & title) / max(len(asked | title), 1)


def shown(entry: IcdEntry) -> dict[str, Any]:
    """Returns an entry as it is printed."""
    kinds = {
        "includes": entry.includes,
        "excludes1": entry.excludes1,
        "excludes2": entry.excludes2,
        "notes": entry.other,
    }
    return {
        "code": entry.code,
        "title": entry.title,
        "above": list(entry.path),
        **{name: list(notes) for name, notes in kinds.items() if notes},
        "below": [f"{one.code} {one.title}" for one in entry.children][:20],
    }


def likelihood(llm: LLM, question: str, passage: str) -> float:
    """Returns how likely the model finds "yes" as the answer, with the passage before its eyes."""
    messages = [
        {
            "role": "system",
            "content": "You are an expert of medical coding. Use the notes, and answer with nothing but the answer.",
        },
        {"role": "user", "content": f"Notes:\n{passage}\n\n{question} Answer yes or no."},
    ]
    step = llm.chat(messages, max_tokens=1, temperature=0.0, logprobs=20).logprobs
    top = dict(step[0].top) if step else {}
    yes, no = (max(top.get(one, -25.0) for one in (word, word.title())) for word in ("yes", "no"))
    return 1 / (1 + math.exp(no - yes))


def answer(question: str, classification: Classification, llm: LLM | None, most: int) -> dict[str, Any]:
    """Returns what is known of a question: entries, and for a closed one the model's answer with its likelihood."""
    if ADVICE.search(question):
        return {
            "question": question,
            "state": "declined",
            "reason": "this asks for medical advice: ask a physician",
            "entries": [],
        }
    if CODE.fullmatch(question.strip()):
        entry = classification.entries.get(question.strip().upper())
        entries = [shown(entry)] if entry else []
        return {"question": question, "state": "found" if entries else "unknown", "entries": entries}
    found = classification.search(question, most)
    if not found:
        return {
            "question": question,
            "state": "unknown",
            "reason": "the classification does not say",
            "entries": [],
        }
    result: dict[str, Any] = {
        "question": question,
        "state": "found",
        "entries": [shown(one) for one, _ in found],
    }
    if llm is not None and CLOSED.match(question.strip()):
        yes = likelihood(llm, question, found[0][1])
        result["answer"] = {
            "text": "yes" if yes > 0.5 else "no",
            "likelihood": round(max(yes, 1 - yes), 2),
            "from": found[0][0].code,
        }
    return result


def printed(result: dict[str, Any]) -> None:
    """Prints a result for people."""
    if said := result.get("answer"):
        print(
            f"{said['text']} (the model is {said['likelihood']:.0%} sure; from the notes of {said['from']})"
        )
    if not result["entries"]:
        print(result.get("reason", "no such code"))
    for entry in result["entries"]:
        print(f"{entry['code']}  {entry['title']}")
        print(f"  {' > '.join(entry['above'])}")
        for name in ("includes", "excludes1", "excludes2", "notes"):
            for note in entry.get(name, [])[:6]:
                print(f"  {name}: {note}")
        for one in entry["below"][:8]:
            print(f"    {one}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers each question; returns 1 if one has no entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "questions", nargs="+", metavar="QUESTION", help="words, a code, or a yes/no question"
    )
    parser.add_argument(
        "--model", default="qwen2.5-coder-0.5b", help="model of the store, for yes/no questions"
    )
    parser.add_argument("--top", type=int, default=3, help="entries to show")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each question")
    given = parser.parse_args(arguments)
    try:
        classification = Classification()
        closed = any(CLOSED.match(one.strip()) and not ADVICE.search(one) for one in given.questions)
        llm = LLM(given.model) if closed else None
        results = [answer(one, classification, llm, given.top) for one in given.questions]
        if llm is not None:
            llm.close()
    except DeepwellError as error:
        print(error, file=sys.stderr)
        return 2
    for result in results:
        print(json.dumps(result, ensure_ascii=False)) if given.json else printed(result)
    if not given.json:
        print(f"\n{LIMITS}", file=sys.stderr)
    return 0 if all(one["entries"] or one["state"] == "declined" for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())

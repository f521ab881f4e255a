"""Tasks for agents, the fixtures that they are about, and the judge of an answer."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

__all__ = ["Fixtures", "Language", "Table", "Task", "Verdict", "build", "digest_of", "judged"]

Language = Literal["en", "zh"]
Verdict = Literal["right", "wrong", "no answer", "too long", "not written"]

_NUMBER: Final = re.compile(r"(?<![A-Za-z0-9_.])-?\d+(?:,\d{3})*(?:\.\d+)?")
_MOST_ANSWER_CHARACTERS: Final = 400
_MOST_NUMBERS: Final = 8  # an answer that lists numbers names none


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the database: columns with their types, references to other tables, and rows."""

    name: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Fixtures:
    """Files by path, tables of the database `data.db`, and documents of the knowledge base by name."""

    files: Mapping[str, str]
    tables: Sequence[Table]
    documents: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Task:
    """A question whose answer was computed from the fixtures.

    Attributes:
        template: name of the kind of task.
        calls: calls of tools that it needs at least.
        number: the number that the answer must hold; None: `text` decides.
        text: what the answer must contain.
        others: what stands for another answer, and must not be in it.
        written: the number that each of these files must hold at the end, by path.
    """

    id: str
    template: str
    language: Language
    calls: int
    question: str
    number: float | None = None
    text: str = ""
    others: tuple[str, ...] = ()
    written: Mapping[str, float] = field(default_factory=dict[str, float])


def build(fixtures: Fixtures, folder: Path) -> None:
    """Writes the files and the database into a folder."""
    for path, text in fixtures.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    with closing(sqlite3.connect(folder / "data.db")) as database:
        for table in fixtures.tables:
            columns = ", ".join(f"{name} {kind}" for name, kind in table.columns)
            database.execute(f"CREATE TABLE {table.name} ({columns})")
            places = ", ".join("?" * len(table.columns))
            database.executemany(f"INSERT INTO {table.name} VALUES ({places})", table.rows)  # noqa: S608
        database.commit()


def digest_of(fixtures: Fixtures, tasks: Sequence[Task]) -> str:
    """Returns the SHA-256 of fixtures and tasks. Numbers count to nine digits, for Python 3.12 adds floats more exactly."""
    held = {
        "files": dict(fixtures.files),
        "tables": [asdict(one) for one in fixtures.tables],
        "documents": dict(fixtures.documents),
        "tasks": [{**asdict(one), "written": dict(one.written)} for one in tasks],
    }
    return hashlib.sha256(json.dumps(_rounded(held), ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in cast("list[Any]", value)]
    return value


def judged(task: Task, answer: str, folder: Path) -> Verdict:
    """Returns whether an answer, and what was written, are right.

    A number is right if the answer holds it to half a cent. An answer of many numbers or many words answers nothing.
    """
    plain = unicodedata.normalize("NFKC", answer).strip()
    if not plain:
        return "no answer"
    if len(plain) > _MOST_ANSWER_CHARACTERS:
        return "too long"
    for path, number in task.written.items():
        file = folder / path
        if not file.is_file() or not _holds(file.read_text(encoding="utf-8", errors="replace"), number):
            return "not written"
    if task.number is not None:
        return "right" if _holds(plain, task.number) else "wrong"
    folded = plain.casefold()
    right = task.text.casefold() in folded and not any(one.casefold() in folded for one in task.others)
    return "right" if right else "wrong"


def _holds(text: str, number: float) -> bool:
    found = [float(one.replace(",", "")) for one in _NUMBER.findall(text)]
    return len(found) <= _MOST_NUMBERS and any(abs(one - number) < 0.00501 for one in found)

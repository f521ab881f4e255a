"""The account of what became of every record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from deepwell.messages import Language, Note
from deepwell.tuning.data.records import BadRecord, Record, as_json

__all__ = ["DataReport", "Example", "removed_line"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Example:
    """One record that a count is about.

    Attributes:
        line, source: its place in the files.
        detail: what was found in it, such as the field that is wrong or the twin that was kept.
        note: what is wrong, in words; None: the reason and the detail say it.
    """

    line: int
    source: str
    detail: str = ""
    note: Note | None = None

    @classmethod
    def of(cls, bad: BadRecord) -> Example:
        """Returns the example for a record that cannot be read."""
        return cls(bad.line, bad.source, bad.field, bad.note)

    def said(self, language: Language | None = None) -> str:
        """Returns what was found, in a language; None: that of the terminal."""
        words = "" if self.note is None else self.note.said(language)
        return ": ".join(filter(None, (self.detail, words)))


def removed_line(one: Record | BadRecord, reason: str, detail: str, **more: Any) -> str:
    """Returns the JSON object that stands for a dropped record in a file: its place, its reason, and the record itself."""
    value: dict[str, Any] = {"reason": reason, "source": one.source, "line": one.line}
    if detail:
        value["detail"] = detail
    value |= more
    if isinstance(one, Record):
        value["record"] = as_json(one)
    return json.dumps(value, ensure_ascii=False)


@dataclass(slots=True)
class DataReport:
    """Counts of records by what became of them. Each record that is read is kept or dropped, for one reason.

    Attributes:
        read: number of records that were read, good or bad.
        kept: number of records that go on.
        dropped: number of dropped records by reason.
        cut: number of kept records that lose a part, by reason.
        warned: number of kept records by what is doubtful in them; a record may count more than once.
        examples: the first records of each reason.
        max_examples: number of examples that are kept for each reason.
    """

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    cut: Counter[str] = field(default_factory=Counter[str])
    warned: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, list[Example]] = field(default_factory=dict[str, list[Example]])
    max_examples: int = 5

    def reading(self, records: Iterable[_T]) -> Iterator[_T]:
        """Yields what it is given and counts it as read."""
        for one in records:
            self.read += 1
            yield one

    def keep(self, count: int = 1) -> None:
        """Counts records that go on."""
        self.kept += count

    def drop(self, reason: str, example: Example) -> None:
        """Counts a record that does not go on."""
        self.dropped[reason] += 1
        self._show(reason, example)

    def shorten(self, reason: str, example: Example) -> None:
        """Counts a kept record that loses a part of its content."""
        self.cut[reason] += 1
        self._show(reason, example)

    def warn(self, reason: str, example: Example) -> None:
        """Counts a kept record in which something is doubtful."""
        self.warned[reason] += 1
        self._show(reason, example)

    def check(self) -> None:
        """Checks that every record is accounted for.

        Raises:
            RuntimeError: the records that are kept and dropped are not those that were read: a defect of Deepwell.
        """
        if self.read != self.kept + self.dropped.total():
            raise RuntimeError(f"read {self.read}, kept {self.kept}, dropped {self.dropped.total()}")

    def to_json(self) -> dict[str, Any]:
        """Returns the counts and examples as plain values.

        Raises:
            RuntimeError: as `check`.
        """
        self.check()
        examples = {
            reason: [{"line": one.line, "source": one.source, "detail": one.said("en")} for one in shown]
            for reason, shown in self.examples.items()
        }
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": self.dropped.total(),
            "dropped_by_reason": dict(self.dropped.most_common()),
            "cut_by_reason": dict(self.cut.most_common()),
            "warned_by_reason": dict(self.warned.most_common()),
            "examples": examples,
        }

    def _show(self, reason: str, example: Example) -> None:
        shown = self.examples.setdefault(reason, [])
        if len(shown) < self.max_examples:
            shown.append(example)

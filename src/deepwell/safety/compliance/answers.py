"""`Answered`: a person's answer to a question, and whether it is due again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from deepwell.safety.compliance.checks import Check
from deepwell.storage.clock import shared_time
from deepwell.storage.safety.answers import StoredAnswer

__all__ = ["DUE_AFTER_DAYS", "Answered", "answered"]

DUE_AFTER_DAYS: Final = 365
"""Days after which a question is asked again."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its newest answer, or None, and whether somebody has to answer (again)."""

    check: Check
    answer: StoredAnswer | None
    due: bool

    @property
    def day(self) -> str:
        """Day of the answer in UTC; empty if there is none."""
        if self.answer is None:
            return ""
        return datetime.fromtimestamp(self.answer.answered_at, UTC).date().isoformat()


def answered(
    checks: Sequence[Check], newest: Mapping[str, StoredAnswer], now_s: float | None = None
) -> list[Answered]:
    """Returns the questions among the checks with their answers."""
    oldest = (shared_time() if now_s is None else now_s) - DUE_AFTER_DAYS * 86_400
    found: list[Answered] = []
    for check in checks:
        if check.kind == "question":
            answer = newest.get(check.id)
            found.append(Answered(check, answer, answer is None or answer.answered_at < oldest))
    return found

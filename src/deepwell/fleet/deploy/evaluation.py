"""The evaluation of a candidate before it gets users: questions through the front, as a preview."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.declaration import Evaluation
from deepwell.fleet.front.routes import RELEASE_HEADER

if TYPE_CHECKING:
    import httpx

__all__ = ["Evaluated", "Question", "evaluate", "read_questions"]

_MOST: Final = 1000
_MOST_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and a text that the answer has to contain, in whatever case."""

    question: str
    expected: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The result: how many answers were right, of how many."""

    right: int
    asked: int
    least: float

    @property
    def holds(self) -> bool:
        """Returns whether enough of them were right."""
        return self.right >= self.least * self.asked

    @property
    def words(self) -> str:
        """Returns it in words."""
        share = 100 * self.right / max(self.asked, 1)
        return f"evaluation: {self.right} of {self.asked} answers are right ({share:.3g} %), {100 * self.least:g} % are needed"


def read_questions(path: Path) -> list[Question]:
    """Reads the questions of an evaluation.

    Raises:
        InvalidRequest: the file cannot be read, has none, or a line is no question.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
        text = "" if len(raw) > _MOST_BYTES else raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"the questions {path} cannot be read: {getattr(error, 'strerror', None) or error}",
            fix="name a file of lines of JSON, each with `question` and `expected`",
        ) from None
    if len(raw) > _MOST_BYTES:
        raise InvalidRequest(f"the questions {path} have more than {_MOST_BYTES >> 20} MB", fix="ask fewer")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    found = [_question(path, number, line) for number, line in lines]
    if not 1 <= len(found) <= _MOST:
        raise InvalidRequest(f"{path} has {len(found)} questions", fix=f"ask 1 to {_MOST}")
    return found


def _question(path: Path, number: int, line: str) -> Question:
    try:
        told: Any = json.loads(line)
        return Question(_text(told["question"]), _text(told["expected"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InvalidRequest(
            f"{path}, line {number}: this is no question",
            fix='write {"question": "What is 2 + 2?", "expected": "4"}',
        ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


async def evaluate(http: httpx.AsyncClient, alias: str, terms: Evaluation) -> Evaluated:
    """Asks the candidate every question, one after the other. An answer that fails is not right.

    Args:
        http: a client of the front, with a key if servers need one.

    Raises:
        InvalidRequest: the questions cannot be read.
    """
    questions = read_questions(terms.questions)
    right = 0
    for one in questions:
        body = {
            "model": alias,
            "messages": [{"role": "user", "content": one.question}],
            "temperature": 0,
            "max_tokens": 200,
        }
        answer = await http.post("/v1/chat/completions", json=body, headers={RELEASE_HEADER: "candidate"})
        if answer.status_code == 200:
            right += one.expected.casefold() in _said(answer.content).casefold()
    return Evaluated(right, len(questions), terms.least)


def _said(body: bytes) -> str:
    """Returns the text of an answer; empty if it is none, which counts as a wrong one."""
    try:
        said = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return ""
    return said if isinstance(said, str) else ""

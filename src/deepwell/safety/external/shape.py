"""`Shape`: how a service is asked and how its answers are read. `Verdict`: what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["BadAnswer", "Credentials", "Refused", "Sent", "Shape", "Verdict", "bounded"]


class BadAnswer(Exception):
    """Raised for an answer that is not of the service's shape. It is not asked again: it would answer the same."""


class Refused(Exception):
    """Raised where a service refuses to answer, with its own code.

    Attributes:
        again: true if the same request may be answered later.
    """

    def __init__(self, code: str, *, again: bool) -> None:
        super().__init__(code)
        self.again = again


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key and, where the service signs requests, its secret. Neither is shown when this is printed."""

    key: str = field(repr=False)
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request, ready to be posted.

    Attributes:
        path: added to the service's URL.
        body: as it is signed.
    """

    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that a service found.

    Attributes:
        label: the service's name for it, in lower case.
        category: the policy's.
        score: from 0 to 1.
    """

    label: str
    category: str
    score: float


def bounded(score: float) -> float:
    """Returns a score within 0 and 1.

    Raises:
        BadAnswer: it is no number, and would count as lower than every threshold.
    """
    if score != score:
        raise BadAnswer("a score is no number")
    return min(max(score, 0.0), 1.0)


class Shape(Protocol):
    """The requests and answers of one kind of service."""

    most_characters: int
    """Longest text of one request; a longer one is sent in pieces."""

    def request(self, text: str, layer: Literal["input", "context", "output"], host: str) -> Sent:
        """Returns the request about a text. `host` is the URL's, which signatures may cover."""
        ...

    def verdicts(self, answer: Any) -> Sequence[Verdict]:
        """Returns what an answer says, parsed from JSON.

        Raises:
            BadAnswer: it is not of the service's shape.
            Refused: it is an error of the service.
        """
        ...

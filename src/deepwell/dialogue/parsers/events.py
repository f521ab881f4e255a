"""Events that the parsers emit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["CallArguments", "CallStart", "Content", "Event", "OutputParser", "Reasoning", "join"]


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The start of a tool call, whose arguments follow. Calls are numbered from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next part of a call's arguments. All parts joined are JSON, unless the model failed or was cut off."""

    index: int
    text: str


Event = Content | Reasoning | CallStart | CallArguments


class OutputParser(Protocol):
    """A parser of one choice's text."""

    def push(self, text: str) -> list[Event]:
        """Returns the events that `text` makes certain."""
        ...

    def finish(self, *, cut: bool = False) -> list[Event]:
        """Returns the events that were held back, when no more text comes.

        `cut` means that the answer had to be calls and was cut off: what is held back is markup, and is dropped.
        """
        ...


def join(events: Iterable[Event]) -> list[Event]:
    """Merges neighbouring events of one kind, and drops events without text."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        match event:
            case CallStart():
                joined.append(event)
            case _ if not event.text:
                pass
            case Content() if isinstance(last, Content):
                joined[-1] = Content(last.text + event.text)
            case Reasoning() if isinstance(last, Reasoning):
                joined[-1] = Reasoning(last.text + event.text)
            case CallArguments() if isinstance(last, CallArguments) and last.index == event.index:
                joined[-1] = CallArguments(last.index, last.text + event.text)
            case _:
                joined.append(event)
    return joined

"""Texts of a request that a model reads as one: messages of one role in a row, and an assistant's reasoning and content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["ROLES", "Cut", "Place", "cut_out", "runs"]

ROLES: Final[Mapping[str, str]] = {
    "user": "user",
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""Roles by the names that clients give them."""


class Place(NamedTuple):
    """A text of a request: the number of its message, and its member there."""

    message: int
    member: str


class Cut(NamedTuple):
    """Characters of a text, and what stands in their place."""

    place: Place
    start: int
    end: int
    replacement: str


def runs(messages: Sequence[Mapping[str, Any]], reads: Iterable[str]) -> Iterator[list[Place]]:
    """Yields the places of texts that follow directly on each other, where there are two or more and the policy reads them.

    Results of tools are documents of their own, and never follow on each other.
    """
    run: list[Place] = []
    before = ""
    for number, message in enumerate(messages):
        role = ROLES.get(str(message.get("role")), "user")
        if role != before:
            if len(run) > 1:
                yield run
            run, before = [], role
        if role != "tool" and role in reads:
            members = ("reasoning_content", "content") if role == "assistant" else ("content",)
            found = [Place(number, member) for member in members if isinstance(message.get(member), str)]
            run += found
    if len(run) > 1:
        yield run


def cut_out(messages: list[Any], cuts: Sequence[Cut]) -> None:
    """Replaces characters of messages; of cuts that overlap, the first counts."""
    done: dict[Place, int] = {}
    for cut in sorted(cuts, key=lambda one: (one.place, -one.end, one.start)):
        if cut.end > done.get(cut.place, cut.end):
            continue
        done[cut.place] = cut.start
        message = messages[cut.place.message]
        text = message[cut.place.member]
        text = text[: cut.start] + cut.replacement + text[cut.end :]
        messages[cut.place.message] = {**message, cut.place.member: text}

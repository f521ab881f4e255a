"""Lines of stored JSONL files that name an end user: requests of batches, and records for training and evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from deepwell.safety.privacy.places import names_end_user
from deepwell.storage.blobs import Draft

__all__ = ["NOTHING", "FoundLines", "find_lines", "lines_at", "names_in_line", "write_without"]

_INSIDE: Final = ("body", "params", "item")  # of a line: requests of batches, rows of evaluations
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class FoundLines:
    """The lines of a file that are one end user's.

    Attributes:
        numbers: of the lines, from 1.
        custom_ids: names that requests of a batch have in its results.
        is_whole: whether no other line holds anything.
    """

    numbers: frozenset[int]
    custom_ids: frozenset[str]
    is_whole: bool


NOTHING: Final = FoundLines(frozenset(), frozenset(), is_whole=False)


def names_in_line(entry: Any, end_user: str) -> bool:
    """Returns whether a line of a file names an end user, in itself or in the request or the row inside."""
    if not isinstance(entry, dict):
        return False
    inside = (entry.get(name) for name in _INSIDE)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return names_end_user(entry, end_user) or any(names_end_user(one, end_user) for one in inside)


def find_lines(path: Path, is_theirs: Callable[[dict[str, Any]], bool]) -> FoundLines:
    """Returns the lines that a function takes for the end user's. A file that does not begin as JSONL has none. Blocks."""
    numbers: set[int] = set()
    names: set[str] = set()
    others = False
    for number, line in _numbered(path):
        entry = _entry(line)
        if entry is None and not numbers and not others:
            return NOTHING
        if entry is None or not is_theirs(entry):
            others = True
            continue
        numbers.add(number)
        if isinstance(name := entry.get("custom_id"), str):
            names.add(name)
    return FoundLines(frozenset(numbers), frozenset(names), not others) if numbers else NOTHING


def lines_at(path: Path, numbers: Set[int]) -> Iterator[bytes]:
    """Yields some lines of a file."""
    return (line for number, line in _numbered(path) if number in numbers)


def write_without(path: Path, draft: Draft, numbers: Set[int]) -> None:
    """Writes a file without some lines, which stay as empty ones: a batch counts its lines. Blocks."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            draft.write(b"\n" if number in numbers else line)


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        yield from ((number, line) for number, line in enumerate(stream, 1) if line.strip())


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None

"""Reads the pairs of a new study from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.errors import InvalidRequest
from deepwell.server.families.ratings.schema import MAX_PAIRS
from deepwell.storage.tuning.ratings import NewPair

__all__ = ["ReadPairs", "read_pairs"]

_MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class ReadPairs:
    """The pairs of a file, and the names of their two models."""

    pairs: Sequence[NewPair]
    models: tuple[str, str]


def read_pairs(path: Path) -> ReadPairs:
    """Returns the pairs of a file of JSON lines.

    Raises:
        InvalidRequest: a line is no pair, or of other models than the first; there are none, or more than `MAX_PAIRS`.
    """
    found: list[NewPair] = []
    models: tuple[str, str] | None = None
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            pair, these = _pair(line, number)
            models = models or these
            if these != models:
                raise _wrong(
                    f"line {number} compares {these[0]!r} with {these[1]!r}, others {models[0]!r} with {models[1]!r}"
                )
            if len(found) == MAX_PAIRS:
                raise _wrong(f"the file has more than {MAX_PAIRS} pairs")
            found.append(pair)
    if models is None:
        raise _wrong("the file has no pairs")
    return ReadPairs(found, models)


def _pair(line: str, number: int) -> tuple[NewPair, tuple[str, str]]:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        raise _wrong(f"line {number} is no JSON") from None
    if not isinstance(given, dict):
        raise _wrong(f"line {number} is no object")
    sides = [given.get("first"), given.get("second")]
    texts = [
        given.get("prompt"),
        *(_of(side, "answer") for side in sides),
        *(_of(side, "model") for side in sides),
    ]
    plain = [one.replace("\0", "") for one in texts if isinstance(one, str)]
    if len(plain) < len(texts) or not all(0 < len(name) <= _MAX_NAME for name in plain[3:]):
        raise _wrong(f"line {number} is no pair")
    try:
        "".join(plain).encode()
    except UnicodeEncodeError:
        raise _wrong(f"line {number} holds half of a surrogate pair, which is no character") from None
    return NewPair(*plain[:3]), (plain[3], plain[4])


def _of(side: Any, field: str) -> Any:
    return side.get(field) if isinstance(side, dict) else None


def _wrong(problem: str) -> InvalidRequest:
    return InvalidRequest.of("evaluate_pairs_file", param="file_id", problem=problem)

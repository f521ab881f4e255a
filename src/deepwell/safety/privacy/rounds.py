"""Copies of votes in the folders of rounds of improvement, on this host."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from deepwell.storage.database import Database
from deepwell.storage.tables import feedback

__all__ = ["COPIES", "TRAINING", "drop_copies", "forget_votes"]

COPIES: Final = ("train.jsonl", "votes.json")
"""Files of a round that hold what users said: the second names the row of each vote."""

TRAINING: Final = "run"
"""Folder of a round's training."""

_STATE: Final = "state.json"
_BEFORE_GATES: Final = ("train", "measure")  # stages of a round whose adapter nothing has judged yet
_AT_ONCE: Final = 500


async def forget_votes(database: Database, folder: Path | None) -> int:
    """Deletes the copies of rounds that hold a vote which is gone, or whose consent was withdrawn, and returns their number.

    The round makes them anew from the votes that are left. What was trained so far goes with them, unless gates have judged
    it already.

    Args:
        folder: it has a folder for each alias, and that one for each round; None: there are none on this host.
    """
    if folder is None or not (ids := await asyncio.to_thread(_copied, folder)):
        return 0
    known: set[str] = set()
    for start in range(0, len(ids), _AT_ONCE):
        some = feedback.c.id.in_(ids[start : start + _AT_ONCE])
        query = sa.select(feedback.c.id).where(some, feedback.c.consent)
        known |= set(await database.read(lambda connection, query=query: connection.scalars(query).all()))
    return await asyncio.to_thread(drop_copies, folder, known)


def _copied(folder: Path) -> list[str]:
    """Returns the ids of all votes in copies; an empty one stands for copies that cannot be read."""
    return sorted(set().union(*(_votes(path) or {""} for path in _rounds(folder))))


def drop_copies(folder: Path, known: set[str]) -> int:
    """Deletes the copies of rounds that hold a vote which is not among the known ones, and returns their number. Blocks."""
    count = 0
    for path in _rounds(folder):
        votes = _votes(path)
        if votes is not None and votes <= known:
            continue
        for name in COPIES:
            (path / name).unlink(missing_ok=True)
        if _is_unjudged(path):
            shutil.rmtree(path / TRAINING, ignore_errors=True)
        count += 1
    return count


def _rounds(folder: Path) -> Iterator[Path]:
    """Yields the folders of rounds that hold copies."""
    for path in sorted(folder.glob("*/[0-9]*")):
        if path.is_dir() and any((path / name).exists() for name in COPIES):
            yield path


def _votes(folder: Path) -> set[str] | None:
    """Returns the ids of the votes in a round's copies; None: they cannot be told."""
    try:
        told: Any = json.loads((folder / COPIES[1]).read_text(encoding="utf-8"))
        return {str(one["source"]) for part in ("train", "held_out") for one in told[part]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_unjudged(folder: Path) -> bool:
    try:
        state: Any = json.loads((folder.parent / _STATE).read_text(encoding="utf-8"))
        found = state["round"]
        return found["number"] == int(folder.name) and found["stage"] in _BEFORE_GATES
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False

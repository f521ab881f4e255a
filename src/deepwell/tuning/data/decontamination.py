"""Overlap of training records with evaluation sets: 13 words, or characters of Han, in a row (Brown et al. 2020, appendix C).

Words are compared as `shingles` has them: without case, punctuation and the space between them. Each message is compared on
its own, so that no run spans two of them; system messages are left out on both sides. A text of the evaluation set that is
shorter than 13 units is found only where a whole message equals it, and one of fewer than 6 is not looked for. A run that
more than 10 evaluation records have is their template, and tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.messages import Note
from deepwell.tuning.data.records import Record, content_text, read_entries
from deepwell.tuning.data.shapes import ShapeError, parse
from deepwell.tuning.data.shingles import Hashes, Offsets, portions, shingles, units

__all__ = ["RUN_UNITS", "EvaluationSet", "Overlap", "read_evaluation_set", "spoken_texts"]

RUN_UNITS = 13
"""Words, or characters of Han, in a row that two texts share by copying, and not by chance."""

_LEAST_UNITS = 6
_MOST_OWNERS = 10


@dataclass(frozen=True, slots=True)
class Overlap:
    """A run that a training record shares with an evaluation record.

    Attributes:
        source, line: place of the evaluation record.
        text: beginning of the text of the evaluation record that has the run.
    """

    source: str
    line: int
    text: str


class EvaluationSet:
    """The runs of an evaluation set.

    Attributes:
        texts: number of texts.
        too_short: number of texts that are too short to be looked for.
        templates: number of runs that are left out, because too many evaluation records have them.
    """

    def __init__(self, items: Sequence[tuple[str, int, Sequence[str]]]) -> None:
        """
        Args:
            items: source, line and texts of each evaluation record.
        """
        self._places = [(source, line) for source, line, _ in items]
        self._texts = [text for _, _, texts in items for text in texts]
        self._owners = np.repeat(np.arange(len(items)), [len(texts) for _, _, texts in items])
        self.texts = len(self._texts)
        hashes, places, counts = _runs(self._texts)
        self.too_short = int((counts < _LEAST_UNITS).sum())
        kept = counts[places] >= _LEAST_UNITS
        hashes, places = hashes[kept], places[kept]
        order = np.argsort(hashes, kind="stable")
        hashes, places = hashes[order], places[order]
        self._hashes, first = np.unique(hashes, return_index=True)
        self._first = places[first]
        pairs = np.unique(np.stack((hashes, self._owners[places].astype(np.uint64))), axis=1)
        owners = np.diff(np.append(np.searchsorted(pairs[0], self._hashes), pairs.shape[1]))
        self.templates = int((owners > _MOST_OWNERS).sum())
        self._hashes = self._hashes[owners <= _MOST_OWNERS]
        self._first = self._first[owners <= _MOST_OWNERS]

    def overlaps(self, records: Sequence[Sequence[str]]) -> list[Overlap | None]:
        """Returns the first overlap of each training record, given by its texts."""
        result: list[Overlap | None] = [None] * len(records)
        if not len(self._hashes):
            return result
        texts = [text for record in records for text in record]
        owners = np.repeat(np.arange(len(records)), [len(record) for record in records])
        hashes, places, _ = _runs(texts)
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        hits = np.flatnonzero(self._hashes[at] == hashes)
        for hit in hits[::-1].tolist():  # the first of a record is written last
            place = int(self._first[at[hit]])
            source, line = self._places[self._owners[place]]
            shown = " ".join(self._texts[place][:200].split())[:80]
            result[owners[places[hit]]] = Overlap(source, line, shown)
        return result


def read_evaluation_set(paths: Iterable[Path]) -> tuple[EvaluationSet, int]:
    """Reads evaluation sets, and returns their runs and the number of lines that could not be read.

    A line is a training record of any format, or any other JSON object, of which every string is a text.

    Raises:
        OSError: a file cannot be read.
    """
    items: list[tuple[str, int, list[str]]] = []
    unreadable = 0
    for path in paths:
        for line, raw in read_entries(path):
            texts = None if isinstance(raw, Note) else _texts_of(raw)
            if texts is None:
                unreadable += 1
            else:
                items.append((str(path), line, texts))
    return EvaluationSet(items), unreadable


def spoken_texts(record: Record) -> list[str]:
    """Returns the contents of a record without its system messages."""
    spoken = (one for one in record.messages if one.get("role") not in ("system", "developer"))
    return [text for text in map(content_text, spoken) if text]


def _texts_of(raw: bytes) -> list[str] | None:
    try:
        one = parse(raw, "auto")
        return spoken_texts(Record(one.messages))
    except ShapeError:
        pass
    try:
        return list(_strings(msgspec.json.decode(raw)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _strings(value: Any) -> Iterable[str]:
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            stack.extend(reversed(cast("list[Any]", one)))
        elif isinstance(one, dict):
            stack.extend(reversed(list(cast("dict[str, Any]", one).values())))


def _runs(texts: Sequence[str]) -> tuple[Hashes, Offsets, NDArray[np.int64]]:
    """Returns the runs of texts, the text that each is of, and the number of units of each text."""
    hashes: list[Hashes] = [np.empty(0, np.uint64)]
    places: list[Offsets] = [np.empty(0, np.int64)]
    counts: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    done = 0
    for part in portions(texts):
        found = units(part)
        runs = shingles(found, RUN_UNITS)
        hashes.append(runs.hashes)
        places.append(done + np.repeat(np.arange(len(part)), np.diff(runs.offsets)))
        counts.append(np.diff(found.offsets))
        done += len(part)
    return np.concatenate(hashes), np.concatenate(places), np.concatenate(counts)

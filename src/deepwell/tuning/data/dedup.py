"""Deduplication of training files in two passes: the first decides what to drop and why, the second writes what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from deepwell.errors import InvalidRequest
from deepwell.messages import Note
from deepwell.tuning.data.check import UNREADABLE
from deepwell.tuning.data.clusters import Twin
from deepwell.tuning.data.decontamination import EvaluationSet, spoken_texts
from deepwell.tuning.data.minhash import Sketcher, sketch
from deepwell.tuning.data.near_duplicates import SHINGLE_UNITS, near_duplicates
from deepwell.tuning.data.records import BadRecord, Record, content_text
from deepwell.tuning.data.report import DataReport, Example, removed_line
from deepwell.tuning.data.semantic import MIN_COSINE, Embedder, semantic_duplicates

__all__ = ["Compared", "DedupOptions", "Deduplication", "Removal", "compared_text"]

Compared = Literal["conversation", "prompt", "answer"]
"""The part of records that is compared: all without system messages, all before the last answer, or the last answer."""

_PORTION = 256  # records that are compared with evaluation sets at a time


@dataclass(frozen=True, slots=True)
class DedupOptions:
    """The records that are duplicates.

    Attributes:
        near: whether near-duplicates are dropped, beside exact ones.
        min_similarity: least Jaccard similarity of near-duplicates.
        width: words of a shingle.
        compared: the part of records that is compared.
        embedder: drops records of like meaning, too; None: they stay.
        min_cosine: least cosine of records of like meaning.
        against: evaluation sets whose texts may not be in the data.
        sketcher: computes the sketches by which near-duplicates are found.
    """

    near: bool = True
    min_similarity: float = 0.9
    width: int = SHINGLE_UNITS
    compared: Compared = "conversation"
    embedder: Embedder | None = None
    min_cosine: float = MIN_COSINE
    against: EvaluationSet | None = None
    sketcher: Sketcher = sketch


@dataclass(frozen=True, slots=True)
class Removal:
    """The reason that a record is dropped.

    Attributes:
        reason: `unreadable`, `contaminated`, `exact`, `near` or `semantic`.
        detail: what was found, or the field that cannot be read.
        twin: index of the record that it is a duplicate of; None: it is no duplicate. The twin is kept, unless one of like
            meaning is kept for it.
        similarity: Jaccard similarity with the twin, or cosine for `semantic`.
        note: what is wrong with a record that cannot be read.
    """

    reason: str
    detail: str = ""
    twin: int | None = None
    similarity: float | None = None
    note: Note | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    source: str
    line: int
    label: str | None


class Deduplication:
    """The duplicates among records.

    Attributes:
        report: what became of each record.
        removals: the records to drop, by their index among all that were read.
        cluster_sizes: sizes of the clusters of near-duplicates and of records of like meaning, from the greatest.
        passed_over: number of candidates in very large buckets that were not compared.
    """

    def __init__(self, options: DedupOptions) -> None:
        self.report = DataReport()
        self.removals: dict[int, Removal] = {}
        self.cluster_sizes: list[int] = []
        self.passed_over = 0
        self._options = options
        self._places: list[_Place] = []
        self._texts: dict[int, str] = {}  # of the records that are not dropped yet
        self._seen: dict[bytes, int] = {}

    def read(self, records: Iterable[Record | BadRecord], advance: Callable[[int], None]) -> None:
        """Reads all records for the first time: drops those that cannot be read, are contaminated, or come again exactly."""
        portion: list[tuple[int, Record]] = []
        for index, one in enumerate(self.report.reading(records)):
            if isinstance(one, BadRecord):
                self._places.append(_Place(one.source, one.line, None))
                self.removals[index] = Removal(UNREADABLE, one.field, note=one.note)
            else:
                self._places.append(_Place(one.source, one.line, one.label))
                portion.append((index, one))
            if len(portion) == _PORTION:
                self._take(portion)
                portion.clear()
                advance(_PORTION)
        self._take(portion)

    def find(self, advance: Callable[[int], None], advance_semantic: Callable[[int], None]) -> None:
        """Finds near-duplicates and records of like meaning among those that were read, and fills the report."""
        if self._options.near:
            self._near(advance)
        if self._options.embedder is not None:
            self._semantic(self._options.embedder, advance_semantic)
        self._texts.clear()
        for index, removal in self.removals.items():
            if removal.reason == "exact" and removal.twin in self.removals:
                self.removals[index] = self.removals[
                    removal.twin
                ]  # what its equal resembles, it resembles as much
        self.cluster_sizes.sort(reverse=True)
        for index in sorted(self.removals):
            removal, place = self.removals[index], self._places[index]
            self.report.drop(
                removal.reason, Example(place.line, place.source, self._said(removal), removal.note)
            )
            twin = None if removal.twin is None else self._places[removal.twin]
            if twin is not None and place.label is not None and twin.label not in (None, place.label):
                detail = f"{place.label}; {twin.label} in {twin.source}:{twin.line}, which is kept"
                self.report.warn("label_conflict", Example(place.line, place.source, detail))
        self.report.keep(len(self._places) - len(self.removals))
        self.report.check()

    def kept(
        self, records: Iterable[Record | BadRecord], tell: Callable[[str], None] = lambda _: None
    ) -> Iterator[Record]:
        """Yields the records that are kept, when all are read for the second time.

        Args:
            tell: is given one JSON object for each dropped record, with its reason and its twin.

        Raises:
            InvalidRequest: the files are not those of the first time.
        """
        count = 0
        for index, one in enumerate(records):
            if index >= len(self._places) or not self._is_same(one, index):
                break
            count = index + 1
            removal = self.removals.get(index)
            if removal is not None:
                tell(self._removed(one, removal))
            elif isinstance(one, Record):
                yield one
        else:
            if count == len(self._places):
                return
        raise InvalidRequest.of("data_changed")

    def to_json(self) -> dict[str, Any]:
        """Returns the report, the clusters and the thresholds as plain values."""
        options = self._options
        return {
            **self.report.to_json(),
            "clusters": len(self.cluster_sizes),
            "largest_clusters": self.cluster_sizes[:10],
            "candidates_passed_over": self.passed_over,
            "compared": options.compared,
            "min_similarity": options.min_similarity if options.near else None,
            "shingle_units": options.width if options.near else None,
            "min_cosine": options.min_cosine if options.embedder is not None else None,
        }

    def _take(self, portion: Sequence[tuple[int, Record]]) -> None:
        against = self._options.against
        overlaps = against.overlaps([spoken_texts(one) for _, one in portion]) if against else []
        for place, (index, record) in enumerate(portion):
            if overlaps and (found := overlaps[place]) is not None:
                self.removals[index] = Removal("contaminated", f"{found.source}:{found.line} {found.text}")
                continue
            first = self._seen.setdefault(_digest(record, self._options.compared), index)
            if first != index:
                self.removals[index] = Removal("exact", "", first, 1.0)
            else:
                self._texts[index] = compared_text(record, self._options.compared)

    def _near(self, advance: Callable[[int], None]) -> None:
        indices = list(self._texts)
        options = self._options
        texts = list(self._texts.values())
        found = near_duplicates(texts, options.min_similarity, options.width, advance, options.sketcher)
        self.passed_over = found.passed_over
        self._remove("near", indices, found.clusters, found.dropped)

    def _semantic(self, embedder: Embedder, advance: Callable[[int], None]) -> None:
        full = [(index, text) for index, text in self._texts.items() if text.strip()]
        indices = [index for index, _ in full]
        if not indices:
            return
        vectors = np.ascontiguousarray(embedder([text for _, text in full]), np.float32)
        clusters, dropped = semantic_duplicates(vectors, self._options.min_cosine, advance)
        self._remove("semantic", indices, clusters, dropped)

    def _remove(
        self, reason: str, indices: Sequence[int], clusters: Sequence[list[int]], dropped: dict[int, Twin]
    ) -> None:
        self.cluster_sizes += [len(cluster) for cluster in clusters]
        for place, twin in dropped.items():
            self.removals[indices[place]] = Removal(reason, "", indices[twin.kept], twin.similarity)
            del self._texts[indices[place]]

    def _said(self, removal: Removal) -> str:
        twin = None if removal.twin is None else self._places[removal.twin]
        if twin is None:
            return removal.detail
        return f"{twin.source}:{twin.line} {removal.similarity:.3f}"

    def _removed(self, one: Record | BadRecord, removal: Removal) -> str:
        detail = Example(one.line, one.source, removal.detail, removal.note).said("en")
        if removal.twin is None:
            return removed_line(one, removal.reason, detail)
        twin = self._places[removal.twin]
        named = {"source": twin.source, "line": twin.line}
        return removed_line(
            one, removal.reason, detail, twin=named, similarity=round(removal.similarity or 0.0, 6)
        )

    def _is_same(self, one: Record | BadRecord, index: int) -> bool:
        place = self._places[index]
        removal = self.removals.get(index)
        was_bad = removal is not None and removal.reason == UNREADABLE
        return one.source == place.source and one.line == place.line and isinstance(one, BadRecord) == was_bad


def compared_text(record: Record, compared: Compared = "conversation") -> str:
    """Returns the text of a record that duplicates are found by."""
    return "\n".join(filter(None, map(_said_text, _messages(record, compared))))


def _messages(record: Record, compared: Compared) -> list[dict[str, Any]]:
    spoken = [one for one in record.messages if one.get("role") not in ("system", "developer")]
    if compared == "conversation":
        return spoken
    last = max((at for at, one in enumerate(spoken) if one.get("role") == "assistant"), default=len(spoken))
    return spoken[:last] if compared == "prompt" else spoken[last : last + 1]


def _said_text(message: dict[str, Any]) -> str:
    """Returns the content of a message and the names and arguments of the calls in it."""
    calls = message.get("tool_calls") or ()
    functions = [message.get("function_call"), *(one.get("function") for one in calls)]
    said = [content_text(message)]
    for function in functions:
        if isinstance(function, dict):
            arguments = function.get("arguments", "")
            said += [
                str(function.get("name", "")),
                arguments if isinstance(arguments, str) else json.dumps(arguments),
            ]
    return "\n".join(filter(None, said))


def _digest(record: Record, compared: Compared) -> bytes:
    """Returns a digest that two records share if what is compared is the same to the letter, blanks at the ends apart."""
    chosen = list(record.messages) if compared == "conversation" else _messages(record, compared)
    said = [(one.get("role", ""), _said_text(one).strip()) for one in chosen]
    digest = blake2b(json.dumps(said).encode(), digest_size=16)
    if compared == "conversation" and record.tools:
        digest.update(json.dumps(record.tools, sort_keys=True).encode())
    return digest.digest()

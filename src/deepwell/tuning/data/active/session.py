"""`LabelSession`: labels that one person gives to the records of a file, kept in a file after every answer."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from deepwell.errors import InvalidRequest
from deepwell.tuning.data.active.features import Vectors, features_apart
from deepwell.tuning.data.active.pool import BATCH, Pool
from deepwell.tuning.data.active.stopping import StopRule
from deepwell.tuning.data.active.strategies import Strategy
from deepwell.tuning.data.records import BadRecord, Record, read_records, write_records

__all__ = ["LabelSession", "check_classes"]


class LabelSession:
    """The records of a file, the labels given so far, and the next record to ask about.

    Every answer rewrites `output` in one step: the labelled records in the order of the file, each with its label. A session
    that is opened again goes on with what is there. Skipped records are asked about last, and again in the next session.
    """

    def __init__(
        self,
        records: Sequence[Record],
        classes: Sequence[str],
        output: Path,
        *,
        vectors: Vectors | None = None,
        strategy: Strategy = "margin",
        seed: int = 0,
    ) -> None:
        """Opens a session.

        Args:
            vectors: makes dense features of texts; None: hashed words.

        Raises:
            InvalidRequest: there is nothing to label, fewer than two classes, a label that is none of them, or `output` holds
                records of another file.
        """
        check_classes(records, classes)
        self.records, self.classes, self.output = records, tuple(classes), output
        features, _ = features_apart([one.text for one in records], (), vectors)
        self._pool = Pool(features, len(classes), seed=seed)
        self._strategy: Strategy = strategy
        self._rule = StopRule()
        self.stable = False
        self._order: deque[int] = deque()
        self._since_fit = 0
        self._past: list[int] = []
        places = {name: at for at, name in enumerate(classes)}
        for row, one in enumerate(records):
            if one.label is not None:
                self._pool.label(row, places[one.label])
        for row, label in self._kept():
            self._pool.label(row, places[label])
        self._fit()

    @property
    def labelled(self) -> int:
        """Number of records with a label."""
        return len(self._pool.labels)

    @property
    def counts(self) -> dict[str, int]:
        """Number of labels by class."""
        found = dict.fromkeys(self.classes, 0)
        for label in self._pool.labels.values():
            found[self.classes[label]] += 1
        return found

    @property
    def agreement(self) -> float | None:
        """Mean agreement of the last learners, as the stop rule has it; None before there were enough."""
        return self._rule.agreement

    def next(self) -> Record | None:
        """Returns the record to ask about; None: all are labelled."""
        return self.records[self._order[0]] if self._order else None

    def label(self, name: str) -> None:
        """Labels the record that `next` returned, and keeps all labels in the file."""
        row = self._order.popleft()
        self._pool.label(row, self.classes.index(name))
        self._past.append(row)
        self._save()
        self._since_fit += 1
        if self._since_fit >= BATCH or not self._order:
            self._fit()

    def skip(self) -> None:
        """Puts the record that `next` returned behind all others."""
        row = self._order.popleft()
        self._pool.skip(row)
        self._past.append(row)
        self._order.append(row)

    def undo(self) -> bool:
        """Takes back the last answer of this session, and asks about its record again. Returns whether there was one."""
        if not self._past:
            return False
        row = self._past.pop()
        labelled = row in self._pool.labels
        self._pool.forget(row)
        if row in self._order:
            self._order.remove(row)
        self._order.appendleft(row)
        if labelled:
            self._save()
        return True

    def _fit(self) -> None:
        self._since_fit = 0
        if self._pool.fit() is not None:
            predictions = self._pool.probabilities().argmax(axis=1).astype(np.int64)
            self.stable = self._rule.observe(predictions, self.labelled)
        self._order = deque(self._pool.ranking(self._strategy))

    def _save(self) -> None:
        labels = self._pool.labels
        write_records(
            self.output,
            (replace(self.records[row], label=self.classes[labels[row]]) for row in sorted(labels)),
        )

    def _kept(self) -> list[tuple[int, str]]:
        """Returns the rows and labels that `output` holds."""
        if not self.output.exists():
            return []
        rows: defaultdict[str, deque[int]] = defaultdict(deque)
        for row, one in enumerate(self.records):
            rows[_digest(one)].append(row)
        found: list[tuple[int, str]] = []
        for one in read_records([self.output]):
            same = rows.get(_digest(one)) if isinstance(one, Record) else None
            if isinstance(one, BadRecord) or one.label not in self.classes or not same:
                raise InvalidRequest.of("label_other_file", path=self.output, line=one.line)
            found.append((same.popleft(), one.label))
        return found


def check_classes(records: Sequence[Record], classes: Sequence[str]) -> None:
    """Checks that records can be labelled with some classes.

    Raises:
        InvalidRequest: there are no records, fewer than two classes, one is named twice, or a label is none of them.
    """
    if not records:
        raise InvalidRequest.of("label_nothing")
    if len(set(classes)) < max(2, len(classes)):
        raise InvalidRequest.of("label_classes", classes=", ".join(classes))
    for one in records:
        if one.label is not None and one.label not in classes:
            raise InvalidRequest.of(
                "label_unknown_class", label=one.label[:80], line=one.line, classes=", ".join(classes)
            )


def _digest(record: Record) -> str:
    return sha256(record.text.encode("utf-8", "surrogatepass")).hexdigest()

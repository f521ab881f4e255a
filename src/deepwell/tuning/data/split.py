"""Splits of training data: records that belong together never stand in two parts, and labels have equal shares in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepwell.errors import InvalidRequest
from deepwell.tuning.data.clusters import Clusters
from deepwell.tuning.data.dedup import compared_text
from deepwell.tuning.data.near_duplicates import near_duplicates
from deepwell.tuning.data.records import Record
from deepwell.tuning.data.shingles import mix

__all__ = ["GROUP_FIELDS", "Split", "parse_fractions", "split_records"]

GROUP_FIELDS = ("user", "source")
"""Fields of a line whose equal values keep records together, where they are present."""


@dataclass(frozen=True, slots=True)
class Split:
    """Parts of training data.

    Attributes:
        parts: the part of each record.
        groups: number of groups of records that belong together, single records among them.
        largest_group: number of records of the largest group.
        counts: number of records of each part.
        labels: number of records of each part and label.
        fractions: the fractions that were asked for.
    """

    parts: list[str]
    groups: int
    largest_group: int
    counts: dict[str, int]
    labels: dict[str, dict[str, int]]
    fractions: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Returns all but the parts of the single records as plain values."""
        return {
            "records": len(self.parts),
            "groups": self.groups,
            "largest_group": self.largest_group,
            "fractions": self.fractions,
            "counts": self.counts,
            "labels": self.labels,
        }


def parse_fractions(text: str) -> dict[str, float]:
    """Returns the fractions of `train=0.9,validation=0.1`, in their order.

    Raises:
        InvalidRequest: it is written otherwise, a name cannot be that of a file, or the sum is not 1.
    """
    fractions: dict[str, float] = {}
    for one in text.split(","):
        name, sign, number = one.partition("=")
        name = name.strip()
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not sign or not 0 < value <= 1 or name in fractions or not name.replace("-", "").isidentifier():
            raise InvalidRequest.of("data_fractions", text=text)
        fractions[name] = value
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise InvalidRequest.of("data_fractions", text=text)
    return fractions


def split_records(
    records: Sequence[Record],
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    fields: Sequence[str] = GROUP_FIELDS,
    min_similarity: float = 0.9,
    advance: Callable[[int], None] = lambda _: None,
) -> Split:
    """Assigns each record to a part. The same records, fractions and seed give the same parts on every machine.

    Near-duplicates, records that equal each other, and records with the same value of one of the fields are one group,
    which goes into one part. Groups are taken from the largest on, in an order that the seed decides, into the part that
    lacks their labels most.

    Args:
        fractions: shares of the records by the name of the part; their sum is 1.
        fields: names of the fields of a line that keep records together.
        min_similarity: least Jaccard similarity of near-duplicates.
        advance: is told how many further records were compared.

    Raises:
        InvalidRequest: there are fewer groups than parts.
    """
    groups = _groups(records, fields, min_similarity, advance)
    if len(groups) < len(fractions):
        raise InvalidRequest.of("data_few_groups", groups=len(groups), parts=len(fractions))
    labels = [record.label or "" for record in records]
    totals = Counter(labels)
    shares = _Shares(fractions, totals)
    empty = set(fractions)
    parts = [""] * len(records)
    for number, group in enumerate(_order(groups, seed)):
        found = Counter(labels[index] for index in group)
        open_parts = [part for part in fractions if part in empty or len(empty) < len(groups) - number]
        chosen = shares.place(found, open_parts)
        empty.discard(chosen)
        for index in group:
            parts[index] = chosen
    by_label = {part: Counter[str]() for part in fractions}
    for part, record in zip(parts, records, strict=True):
        if record.label is not None:
            by_label[part][record.label] += 1
    counts = Counter(parts)
    return Split(
        parts,
        len(groups),
        max(map(len, groups)),
        {part: counts[part] for part in fractions},
        {part: dict(sorted(found.items())) for part, found in by_label.items()},
        dict(fractions),
    )


class _Shares:
    """Numbers of records, and of each label, that the parts still lack."""

    def __init__(self, fractions: Mapping[str, float], totals: Counter[str]) -> None:
        self._fractions = fractions
        self._totals = totals
        self._records = {part: totals.total() * share for part, share in fractions.items()}
        self._labels = {
            part: {label: count * share for label, count in totals.items()}
            for part, share in fractions.items()
        }

    def place(self, found: Counter[str], parts: Sequence[str]) -> str:
        """Puts a group of records, given by its labels, into one of the parts, and returns which."""
        size = found.total()
        fitting = [part for part in parts if self._records[part] >= size]
        if fitting:
            chosen = max(fitting, key=lambda part: self._need(part, found))
        else:
            chosen = max(parts, key=lambda part: self._records[part])
        self._records[chosen] -= size
        for label, count in found.items():
            self._labels[chosen][label] -= count
        return chosen

    def _need(self, part: str, found: Counter[str]) -> tuple[float, float]:
        """Returns the share of a part that is open, of these labels and of all."""
        lacking, share = self._labels[part], self._fractions[part]
        of_labels = sum(count * lacking[label] / self._totals[label] for label, count in found.items())
        return of_labels / share, self._records[part] / share


def _groups(
    records: Sequence[Record], fields: Sequence[str], min_similarity: float, advance: Callable[[int], None]
) -> list[list[int]]:
    """Returns the groups of records that belong together, single records among them."""
    joined = Clusters(len(records))
    texts = [compared_text(one) for one in records]
    for cluster in near_duplicates(texts, min_similarity, advance=advance).clusters:
        for index in cluster[1:]:
            joined.join(cluster[0], index)
    first: dict[tuple[str, str], int] = {}
    for index, record in enumerate(records):
        keys = [(field, str(record.extra[field])) for field in fields if record.extra.get(field) is not None]
        keys.append(("", record.text))
        for key in keys:
            joined.join(first.setdefault(key, index), index)
    members: dict[int, list[int]] = {}
    for index, root in enumerate(joined.roots().tolist()):
        members.setdefault(root, []).append(index)
    return list(members.values())


def _order(groups: Sequence[list[int]], seed: int) -> list[list[int]]:
    start = mix(np.array([seed % (1 << 64)], np.uint64))
    shuffled = np.argsort(mix(np.arange(len(groups), dtype=np.uint64) ^ start), kind="stable")
    return sorted((groups[index] for index in shuffled.tolist()), key=len, reverse=True)

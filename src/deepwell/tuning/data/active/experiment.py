"""Measures what active learning would save on labelled records: learning curves of each strategy on held-out texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from deepwell.errors import InvalidRequest
from deepwell.tuning.data.active.curve import Curve, Labelled, simulate_arms
from deepwell.tuning.data.active.features import Vectors, features_apart
from deepwell.tuning.data.active.session import check_classes
from deepwell.tuning.data.active.strategies import Strategy
from deepwell.tuning.data.records import Record

__all__ = ["Experiment", "experiment"]

HELD_OUT: Final = 0.25
LEAST: Final = 40
"""Labelled records without which a curve says nothing."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Learning curves, and the number of texts that were drawn from, held out, and left out because they have no label."""

    curves: Mapping[Strategy, Curve]
    pool: int
    held_out: int
    unlabelled: int

    def to_json(self) -> dict[str, Any]:
        """Returns the experiment as plain values."""
        return {
            "pool": self.pool,
            "held_out": self.held_out,
            "unlabelled": self.unlabelled,
            "curves": [one.to_json() for one in self.curves.values()],
        }


def experiment(
    records: Sequence[Record],
    classes: Sequence[str],
    vectors: Vectors | None,
    strategies: Sequence[Strategy],
    *,
    seeds: int = 5,
    budget: int = 200,
    tell: Callable[[], None] = lambda: None,
) -> Experiment:
    """Returns the curves of some strategies, always with that of the random one.

    A quarter of the texts is held out, by the hash of the text, so that equal texts are on one side. Document frequencies and
    the centre of vectors are those of the other texts alone.

    Args:
        vectors: makes dense features of texts; None: hashed words.

    Raises:
        InvalidRequest: fewer than 40 records have a label, or the labels and the classes do not fit.
    """
    labelled = [one for one in records if one.label is not None]
    if len(labelled) < LEAST:
        raise InvalidRequest.of("label_simulate", labelled=len(labelled), least=LEAST)
    check_classes(labelled, classes)
    places = {name: at for at, name in enumerate(classes)}
    sides = [[one for one in labelled if _held_out(one) is side] for side in (False, True)]
    if not sides[1]:
        raise InvalidRequest.of("label_simulate", labelled=1, least=LEAST)
    pool, held_out = ([one.text for one in side] for side in sides)
    drawn, measured = features_apart(pool, held_out, vectors)
    numbers = [[places[one.label] for one in side if one.label is not None] for side in sides]
    curves = simulate_arms(
        Labelled(drawn, numbers[0]),
        Labelled(measured, numbers[1]),
        strategies,
        classes=len(classes),
        seeds=range(seeds),
        budget=budget,
        tell=tell,
    )
    return Experiment(curves, len(pool), len(held_out), len(records) - len(labelled))


def _held_out(record: Record) -> bool:
    digest = sha256(record.text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4]) < HELD_OUT * 2**32

"""`Chooser`: the learner beside the labels of each project, which chooses the texts to ask about next.

The labels are in the database. What is kept here is derived from them and can be lost: features of the texts, and the order of
the texts by the learner that was fitted last.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np

from deepwell.storage.database import Tenant
from deepwell.storage.tuning.labelling import LabellingStore, LabelState, StoredProject
from deepwell.tuning.data.active.features import HashedFeatures
from deepwell.tuning.data.active.pool import BATCH, Pool
from deepwell.tuning.data.active.stopping import StopRule
from deepwell.tuning.data.active.strategies import Strategy

__all__ = ["Chooser", "Chosen"]

_PROJECTS: Final = 4  # whose features stay in memory: 50,000 texts of 100 words are 40 MB


@dataclass(frozen=True, slots=True)
class Chosen:
    """A text to ask about, with the class that the learner finds most likely; None while there is no learner."""

    position: int
    suggestion: str | None = None
    probability: float | None = None


@dataclass(slots=True)
class _Kept:
    """State of a project in this process."""

    features: HashedFeatures
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    fitted: dict[int, int] | None = None  # the labels of the learner
    order: list[Chosen] = field(default_factory=list[Chosen])
    rule: StopRule = field(default_factory=StopRule)
    stable: bool = False


class Chooser:
    """Chooses for all projects of a server's process. Work on texts runs in threads, for one project at a time."""

    def __init__(self, store: LabellingStore) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[Tenant, str], _Kept] = OrderedDict()

    async def next(self, tenant: Tenant, project: StoredProject, limit: int) -> list[Chosen]:
        """Returns the texts to ask about next, without those that are labelled; skipped ones come last."""
        kept = await self._of(tenant, project)
        async with kept.lock:
            state = await self._store.state(tenant, project.id)
            places = {name: at for at, name in enumerate(project.classes)}
            labels = {position: places[label] for position, label in state.labels.items()}
            if kept.fitted is None or _changes(kept.fitted, labels) >= BATCH:
                await asyncio.to_thread(_fit, kept, project, labels)
            return _open(kept, state, limit)

    def stable(self, tenant: Tenant, id: str) -> bool:
        """Returns whether the stop rule holds for a project, as far as this process has seen its labels."""
        kept = self._kept.get((tenant, id))
        return kept is not None and kept.stable

    def forget(self, tenant: Tenant, id: str) -> None:
        """Drops what is kept of a project."""
        self._kept.pop((tenant, id), None)

    async def clear(self) -> None:
        """Drops what is kept of all projects."""
        self._kept.clear()

    async def _of(self, tenant: Tenant, project: StoredProject) -> _Kept:
        key = (tenant, project.id)
        if (kept := self._kept.get(key)) is None:
            texts = await self._store.texts(tenant, project.id)
            features = await asyncio.to_thread(HashedFeatures, texts)
            kept = self._kept.setdefault(key, _Kept(features))  # another request may have been faster
        self._kept.move_to_end(key)
        while len(self._kept) > _PROJECTS:
            self._kept.popitem(last=False)
        return kept


def _changes(before: dict[int, int], now: dict[int, int]) -> int:
    """Returns how many labels came, went or changed."""
    return sum(before.get(one) != now.get(one) for one in before.keys() | now.keys())


def _fit(kept: _Kept, project: StoredProject, labels: dict[int, int]) -> None:
    """Fits the learner to the labels and orders all texts by it, labelled ones too: one may be undone."""
    # The same labels give the same order in every process of a server.
    pool = Pool(kept.features, len(project.classes), seed=int(project.id[-8:], 16) + len(labels))
    for position, label in labels.items():
        pool.label(position, label)
    model = pool.fit()
    probabilities = pool.probabilities()
    strategy = cast("Strategy", project.strategy)
    order = [*pool.ranking(strategy), *reversed(labels)]
    if model is None:
        kept.order = [Chosen(position) for position in order]
    else:
        best = probabilities.argmax(axis=1)
        kept.order = [
            Chosen(position, project.classes[best[position]], float(probabilities[position, best[position]]))
            for position in order
        ]
        kept.stable = kept.rule.observe(best.astype(np.int64), len(labels))
    kept.fitted = labels


def _open(kept: _Kept, state: LabelState, limit: int) -> list[Chosen]:
    skipped = set(state.skipped)
    found = [one for one in kept.order if one.position not in state.labels and one.position not in skipped]
    if len(found) < limit and skipped:
        known = {one.position: one for one in kept.order}
        found += [known[position] for position in state.skipped]
    return found[:limit]

"""`LossProxy`: predicts the loss of a candidate from a table of single changes, and learns from candidates that were run.

The table gives the rise of the loss when one part of one layer is cut. Rises add up to a first guess x; its relative error
is learned by ridge regression of log(rise / x) on log x, on the shares of x that come from narrower MLPs and from attentions
that went, on changes of layers side by side, and on the layers' shares of x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.compress.search.space import Candidate, Population, Space

__all__ = ["LossProxy", "LossTable"]

_LEAST: Final = 2e-3  # rises below it are noise
_RIDGE: Final = 0.3
_COMMON: Final = 5  # features beside those of single layers
_LAYER_RIDGE: Final = 3.0  # a layer's own correction needs more evidence


@dataclass(frozen=True)
class LossTable:
    """Rises of the donor's loss by single changes.

    Attributes:
        loss: loss of the donor.
        attention: without the attention of a layer, [layers].
        width: with the MLP of a layer at a level, [layers, levels].
        layer: without a layer, [layers].
        heads: with a number of key heads in every layer, [levels].
    """

    loss: float
    attention: NDArray[np.float64]
    width: NDArray[np.float64]
    layer: NDArray[np.float64]
    heads: NDArray[np.float64]

    @classmethod
    def of(cls, space: Space, loss: float, rises: Mapping[str, float]) -> LossTable:
        """Builds the table from rises by change: "attention 3", "width 3 2", "layer 3", "heads 1".

        Levels of width between measured ones are interpolated; the donor's own rise by nothing.
        """
        whole = len(space.levels) - 1
        width = np.zeros((space.layers, whole + 1))
        for layer in range(space.layers):
            levels = [
                level for level in range(whole + 1) if level == whole or f"width {layer} {level}" in rises
            ]
            known = [rises.get(f"width {layer} {level}", 0.0) for level in levels]
            width[layer] = np.interp(space.levels, [space.levels[level] for level in levels], known)

        def rises_of(name: str, count: int) -> NDArray[np.float64]:
            return np.array([rises.get(f"{name} {one}", 0.0) for one in range(count)])

        return cls(
            loss,
            rises_of("attention", space.layers),
            width,
            rises_of("layer", space.layers),
            rises_of("heads", len(space.kv_heads)),
        )

    def parts(self, population: Population) -> NDArray[np.float64]:
        """Returns the rise of each layer's changes: [candidates, layers]; what it gains by chance counts as nothing."""
        numbers = np.arange(len(self.attention))
        width = np.maximum(self.width[numbers, population.width], 0)
        gone = ~population.attention
        found = width + gone * np.maximum(self.attention, 0)
        whole = gone & (population.width == 0)
        return np.where(whole, np.maximum(self.layer, 0), found)

    def added(self, population: Population) -> NDArray[np.float64]:
        """Returns the sum of the rises: [candidates]."""
        heads = np.maximum(self.heads, 0)[population.heads]
        # Heads count for as much as there is attention left to lose some.
        kept = population.attention.mean(1)
        return np.maximum(self.parts(population).sum(1) + heads * kept, _LEAST)


class LossProxy:
    """Losses of candidates, predicted. `learn` fits the correction anew."""

    def __init__(self, space: Space, table: LossTable) -> None:
        self._space, self.table = space, table
        self._weights = np.zeros(_COMMON + space.layers)

    def predict(self, population: Population) -> NDArray[np.float64]:
        """Returns the predicted losses: [candidates]."""
        added = self.table.added(population)
        correction = np.clip(self._features(population, added) @ self._weights, -1.5, 1.5)
        return self.table.loss + added * np.exp(correction)

    def learn(self, tried: Mapping[Candidate, float]) -> None:
        """Fits the correction to losses that were measured."""
        if not tried:
            return
        population = self._space.population(list(tried))
        added = self.table.added(population)
        rises = np.maximum(np.array(list(tried.values())) - self.table.loss, _LEAST)
        features, wanted = self._features(population, added), np.log(rises / added)
        penalty = np.full(features.shape[1], _LAYER_RIDGE)
        penalty[:_COMMON] = _RIDGE
        self._weights = np.linalg.solve(features.T @ features + np.diag(penalty), features.T @ wanted)

    def error(self, tried: Mapping[Candidate, float]) -> float:
        """Returns the median relative error of the predicted rise over measured candidates."""
        if not tried:
            return 0.0
        rises = np.maximum(np.array(list(tried.values())) - self.table.loss, _LEAST)
        found = self.predict(self._space.population(list(tried))) - self.table.loss
        return float(np.median(np.abs(found / rises - 1)))

    def _features(self, population: Population, added: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = self.table.parts(population)
        side = np.sqrt(parts[:, :-1] * parts[:, 1:]).sum(1)
        narrow = (parts * (population.attention & (population.width > 0))).sum(1)
        blind = (parts * (~population.attention & (population.width > 0))).sum(1)
        shares = np.column_stack([side, narrow, blind, parts]) / added[:, None]
        return np.column_stack([np.ones(len(added)), np.log(added), shares])

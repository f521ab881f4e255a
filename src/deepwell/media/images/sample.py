"""Draws: steps from noise to a picture along the flow, with guidance by the text.

Each step is made twice: fresh noise takes its result back to where the step began, and what was drawn wrongly is drawn anew.
Sources: Lugmayr et al., "RePaint" (2022); Xu et al., "Restart Sampling for Improving Generative Processes" (2023).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.media.images.flow import Float, FlowModel

__all__ = ["MOST_STEPS", "SampleOptions", "sample"]

MOST_STEPS: Final = 200
_LEAST_LEFT: Final = np.float32(0.02)
"""Least 1 - t that a velocity is divided by."""

_SETTLED: Final = 0.95
"""Time from which steps are made once: what little noise is left changes no shape."""


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """Choices of a drawing.

    Attributes:
        steps: steps from noise to picture; more are finer and slower.
        guidance: weight of the text (classifier-free guidance); 1 is that of training.
        seed: seed of the noise; equal seeds draw equal pictures.
    """

    steps: int = 24
    guidance: float = 3.0
    seed: int = 0


def sample(
    model: FlowModel,
    condition: Float | None,
    options: SampleOptions,
    *,
    count: int = 1,
    start: Float | None = None,
    strength: float = 1.0,
    keep: Float | None = None,
) -> Iterator[Float]:
    """Yields the estimate of the finished pictures, [N, size, size, 3] in -1..1, after each step; the last is the result.

    Args:
        model: the network.
        condition: vectors of the texts, [N, condition]; None draws without a text.
        options: steps, guidance, seed.
        count: pictures without a text; with one, `condition` says how many.
        start: pictures to begin with, [N, size, size, 3] in -1..1.
        strength: share of the way that is drawn anew; below 1 it begins with `start` under noise.
        keep: [N, size, size, 1]: 1 where `start` stays.
    """
    size = model.config.size
    count = count if condition is None else len(condition)
    generator = np.random.default_rng(options.seed)
    noise: NDArray[Any] = generator.standard_normal((count, size, size, 3), dtype=np.float32)
    begin = 0.0 if start is None else float(np.clip(1.0 - strength, 0.0, 1.0))
    times = np.linspace(begin, 1.0, max(1, round(options.steps * (1.0 - begin))) + 1, dtype=np.float32)
    x: NDArray[Any] = noise if start is None or begin == 0.0 else begin * start + (1.0 - begin) * noise
    picture = x
    for now, then in itertools.pairwise(times):
        for again in (False, True) if then < _SETTLED else (False,):
            if again:
                share = now / then
                spread = np.sqrt((1 - now) ** 2 - (share * (1 - then)) ** 2, dtype=np.float32)
                x = share * x + spread * generator.standard_normal(x.shape, dtype=np.float32)
            if keep is not None and start is not None:
                x = keep * (now * start + (1 - now) * noise) + (1 - keep) * x
            picture = _guided(model, x.astype(np.float32), now, condition, options.guidance)
            if keep is not None and start is not None:
                picture = keep * start + (1 - keep) * picture
            x = x + (then - now) * (picture - x) / max(1 - now, _LEAST_LEFT)
        yield np.clip(picture, -1.0, 1.0)


def _guided(
    model: FlowModel, x: Float, t: np.float32, condition: Float | None, guidance: float
) -> NDArray[Any]:
    times = np.full(len(x), t, np.float32)
    if condition is None or guidance == 1.0:
        return model.estimate(x, times, condition)
    told = model.estimate(x, times, condition)
    free = model.estimate(x, times, None)
    return free + np.float32(guidance) * (told - free)

"""`Analysis` of a donor on calibration text: what its layers do, which go first, and the moments of its projections' inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepwell.tuning.compress.columns import moments_factor
from deepwell.tuning.compress.training.layers import cross_entropy, first_states, next_states

__all__ = ["Analysis", "analyse", "greedy_order"]

_PROJECTIONS = ("down_proj", "o_proj")
_SHORTLIST = 8


@dataclass
class Analysis:
    """Results of a pass over calibration text.

    Attributes:
        influence: block influence of every layer, 1 - cosine of its input and output.
        moments: second moments of the inputs of `down_proj` and `o_proj`, by layer and name.
    """

    influence: NDArray[np.float64]
    moments: dict[tuple[int, str], NDArray[np.float64]]
    _inverses: dict[tuple[int, str], NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def inverse(self, layer: int, name: str) -> NDArray[np.float64]:
        """Returns the inverse of moments, computed once."""
        if (layer, name) not in self._inverses:
            self._inverses[layer, name] = moments_factor(self.moments[layer, name])
        return self._inverses[layer, name]

    def by_influence(self, count: int) -> list[int]:
        """Returns the layers that stay when the `count` of least influence go."""
        return sorted(int(one) for one in np.argsort(self.influence, kind="stable")[count:])


def analyse(
    model: Any, windows: Tensor, *, batch: int = 4, progress: Callable[[int], None] = lambda tokens: None
) -> Analysis:
    """Runs the donor over windows, int64 [windows, tokens]."""
    layers = model.model.layers
    cosines = np.zeros(len(layers))
    sums: dict[tuple[int, str], NDArray[np.float64]] = {}

    def watch(key: tuple[int, str]) -> Callable[..., None]:
        def add(_: Any, inputs: tuple[Tensor, ...]) -> None:
            flat = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            found = (flat.T @ flat).double().numpy()
            sums[key] = sums[key] + found if key in sums else found

        return add

    handles = []
    for number, layer in enumerate(layers):
        for name, module in (("down_proj", layer.mlp.down_proj), ("o_proj", layer.self_attn.o_proj)):
            handles.append(module.register_forward_pre_hook(watch((number, name))))
    try:
        with torch.inference_mode():
            for part in windows.split(batch):
                states, rotary = first_states(model, part)
                for number, layer in enumerate(layers):
                    after = next_states(layer, states, rotary)
                    cosines[number] += float(torch.cosine_similarity(states, after, dim=-1).sum())
                    states = after
                progress(part.numel())
    finally:
        for handle in handles:
            handle.remove()
    count = windows.numel()
    return Analysis(1 - cosines / count, {key: one / count for key, one in sums.items()})


def greedy_order(
    model: Any,
    windows: Tensor,
    count: int,
    *,
    shortlist: int = _SHORTLIST,
    progress: Callable[[int], None] = lambda tried: None,
) -> list[int]:
    """Returns `count` layers in the order in which they go: each is the one without which the loss rises least.

    The first round tries every layer, and gives the shortlist of those that later rounds try. The states in front of a layer
    are kept, so a trial runs only what follows.

    Args:
        windows: calibration text, int64 [windows, tokens], run at once.
        progress: takes the number of trials since the last call.
    """
    stay = list(range(len(model.model.layers)))
    gone: list[int] = []
    first: dict[int, float] = {}
    with torch.inference_mode():
        states, rotary = first_states(model, windows)
        while len(gone) < min(count, len(model.model.layers) - 1):
            tried = stay
            if first:
                tried = sorted(stay, key=first.__getitem__)[: max(shortlist, 1)]
            losses: dict[int, float] = {}
            here = states
            for place, number in enumerate(stay):
                if number in tried:
                    last = here
                    for later in stay[place + 1 :]:
                        last = next_states(model.model.layers[later], last, rotary)
                    losses[number] = cross_entropy(model, model.model.norm(last), windows)
                    progress(1)
                here = next_states(model.model.layers[number], here, rotary)
            first = first or losses
            worst = min(losses, key=losses.__getitem__)
            gone.append(worst)
            stay.remove(worst)
    return gone

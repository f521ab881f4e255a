"""Training of the fusion, with modalities that are left out and modalities in noise, so that the gates learn whom to trust."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deepwell.media.space.fusion import MODALITIES, SIGNS, Modality, Sensed
from deepwell.media.space.heads import DIMENSIONS
from deepwell.media.space.training.contrast import Averaged, rate_at

__all__ = ["FusionNet", "FusionOptions", "Shown", "train_fusion"]

Array = NDArray[np.float32]
_TEMPERATURE: Final = 0.05


@dataclass(frozen=True, slots=True)
class FusionOptions:
    """Settings of a training.

    Attributes:
        kept: share of the draws in which a modality is present.
    """

    steps: int = 500
    batch: int = 64
    size: int = 16
    rate: float = 3e-3
    kept: float = 0.75
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Shown:
    """One thing: what the heads say of each modality, once clean and some times in noise, and the number of its text."""

    senses: dict[Modality, tuple[Sensed, ...]]
    text: int


class FusionNet(nn.Module):
    """The same computation as `media.space.fusion`, for batches: [b, 3, 384], [b, 3, 4] and [b, 3] -> [b, 384]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.signs = nn.Linear(SIGNS, size)
        self.kinds = nn.Parameter(torch.randn(len(MODALITIES), size) * 0.1)
        self.norm, self.wide_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention_in, self.attention_out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.wide = nn.Linear(size, size)
        self.gate = nn.Linear(size, 1)

    def forward(self, vectors: torch.Tensor, signs: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        away = torch.where(there, 0.0, -1e4)
        values = self.signs(signs) + self.kinds
        queries, keys, given = self.attention_in(self.norm(values)).chunk(3, dim=-1)
        scores = queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5 + away[:, None, :]
        values = values + self.attention_out(scores.softmax(-1) @ given)
        wide = nn.functional.gelu(self.wide(self.wide_norm(values)), approximate="tanh")
        gates = (self.gate(values + wide)[..., 0] + away).softmax(-1)
        return nn.functional.normalize((gates[..., None] * vectors).sum(1), dim=-1)


def train_fusion(
    things: Sequence[Shown],
    texts: torch.Tensor,
    options: FusionOptions,
    on_event: Callable[[dict[str, Any]], None],
) -> dict[str, Array]:
    """Returns the parameters. Every step asks for the texts of a batch among all texts.

    Args:
        things: things that the heads were not trained on: of those that they were, every head is too sure.
        texts: centred unit vectors [m, 384].
    """
    torch.manual_seed(options.seed)
    draw = random.Random(options.seed)  # noqa: S311
    mean, scale = _signs(things)
    net = FusionNet(options.size)
    averaged = Averaged(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=0.1)
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, options.steps, options.rate)
        some = [draw.choice(things) for _ in range(options.batch)]
        vectors = np.zeros((options.batch, len(MODALITIES), DIMENSIONS), np.float32)
        signs = np.zeros((options.batch, len(MODALITIES), SIGNS), np.float32)
        there = np.zeros((options.batch, len(MODALITIES)), bool)
        for row, thing in enumerate(some):
            names: list[Modality] = [name for name in thing.senses if draw.random() < options.kept]
            for name in names or [draw.choice(list(thing.senses))]:
                place = MODALITIES.index(name)
                found = draw.choice(thing.senses[name])
                vectors[row, place], signs[row, place] = (
                    found.vector,
                    (found.signs - mean[place]) / scale[place],
                )
                there[row, place] = True
        fused = net(torch.from_numpy(vectors), torch.from_numpy(signs), torch.from_numpy(there))
        wanted = torch.tensor([thing.text for thing in some])
        loss = nn.functional.cross_entropy(fused @ texts.T / _TEMPERATURE, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        averaged.update(step)
        if step % 100 == 99:
            on_event({"event": "step", "part": "fusion", "step": step + 1, "loss": round(loss.item(), 4)})
    found_parameters = {name: value.numpy().copy() for name, value in averaged.state.items()}
    return {"signs_mean": mean, "signs_scale": scale, **found_parameters}


def _signs(things: Sequence[Shown]) -> tuple[Array, Array]:
    """Returns the mean and the spread of the signs of each modality: [3, 4] each."""
    mean, scale = (
        np.zeros((len(MODALITIES), SIGNS), np.float32),
        np.ones((len(MODALITIES), SIGNS), np.float32),
    )
    for place, name in enumerate(MODALITIES):
        signs = [sensed.signs for thing in things for sensed in thing.senses.get(name, ())]
        if signs:
            mean[place] = np.mean(signs, 0)
            scale[place] = np.std(signs, 0) + 1e-3
    return mean, scale

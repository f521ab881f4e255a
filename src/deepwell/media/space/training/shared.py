"""One encoder that images and sounds share, against one for each: the same layers, data and steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deepwell.media.space.heads import DIMENSIONS
from deepwell.media.space.training.contrast import Averaged, contrastive_loss, rate_at

__all__ = ["Paired", "train_encoders"]

Array = NDArray[np.float32]
_SIZE: Final = 512
_BATCHES: Final = (512, 128)
_RATE: Final = 1e-3
_TEMPERATURE: Final = 0.04


@dataclass(frozen=True, slots=True)
class Paired:
    """Features of one modality [n, f], and the numbers of the texts of each."""

    features: Array
    texts: Sequence[Sequence[int]]


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_SIZE)
        self.wide, self.back = nn.Linear(_SIZE, _SIZE), nn.Linear(_SIZE, _SIZE)
        self.last = nn.Linear(_SIZE, DIMENSIONS)
        self.dropout = nn.Dropout(0.4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = nn.functional.gelu(values)
        values = values + self.back(self.dropout(nn.functional.gelu(self.wide(self.norm(values)))))
        return nn.functional.normalize(self.last(self.dropout(values)), dim=-1)


class _Encoders(nn.Module):
    """A layer for each modality, and behind it the encoder that both share, or one for each."""

    def __init__(self, sizes: Sequence[int], encoders: int) -> None:
        super().__init__()
        self.entries = nn.ModuleList([nn.Linear(size, _SIZE) for size in sizes])
        self.encoders = nn.ModuleList([_Encoder() for _ in range(encoders)])

    def forward(self, features: torch.Tensor, modality: int) -> torch.Tensor:
        return self.encoders[modality % len(self.encoders)](self.entries[modality](features))


def train_encoders(
    pairs: Sequence[Paired],
    asked: Sequence[Array],
    texts: Array,
    encoders: int,
    steps: int,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> tuple[list[Array], int]:
    """Returns unit vectors of features that were not trained on, one array a modality, and the number of parameters.

    Args:
        pairs: of each modality.
        asked: features [k, f] of each modality.
        texts: centred unit vectors [m, 384].
        encoders: 1 is shared; as many as modalities are separate.
    """
    torch.manual_seed(0)
    draw = random.Random(0)  # noqa: S311
    shapes = [(pair.features.mean(0), pair.features.std(0) + 1e-3) for pair in pairs]
    known = [
        torch.from_numpy((pair.features - mean) / scale)
        for pair, (mean, scale) in zip(pairs, shapes, strict=True)
    ]
    wanted = torch.from_numpy(texts)
    net = _Encoders([values.shape[1] for values in known], encoders)
    averaged = Averaged(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=0.05)
    dropped = nn.Dropout(0.2)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, steps, _RATE)
        loss = torch.zeros(())
        for modality, pair in enumerate(pairs):
            rows = torch.randperm(len(known[modality]))[: _BATCHES[modality % len(_BATCHES)]]
            names = torch.tensor([draw.choice(pair.texts[row]) for row in rows.tolist()])
            found = net(dropped(known[modality][rows]), modality)
            loss = loss + contrastive_loss(found, wanted[names], names, _TEMPERATURE)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        averaged.update(step)
        if step % 50 == 49:
            on_event({"event": "step", "step": step + 1, "loss": round(loss.item(), 4)})
    net.load_state_dict(averaged.state)
    net.eval()
    with torch.no_grad():
        vectors = [
            net(torch.from_numpy((some - mean) / scale), modality).numpy()
            for modality, (some, (mean, scale)) in enumerate(zip(asked, shapes, strict=True))
        ]
    return vectors, sum(value.numel() for value in net.parameters())

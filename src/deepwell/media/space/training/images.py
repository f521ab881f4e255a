"""Training of the head of images: features of pictures against e5's vectors of their captions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deepwell.media.images.training.pictures import Picture
from deepwell.media.space.features import IMAGE_FEATURES
from deepwell.media.space.heads import DIMENSIONS
from deepwell.media.space.training.contrast import Averaged, contrastive_loss, rate_at

__all__ = ["ImageOptions", "caption_choices", "train_image_head"]

Array = NDArray[np.float32]
_TEMPERATURE: Final = 0.03


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Settings of a training.

    Attributes:
        members: heads that are trained apart, from other seeds, and whose vectors are added.
        tags: share of the draws in which one tag stands for a caption.
        dropout: shares of features and of hidden values that are left out.
    """

    steps: int = 500
    members: int = 3
    batch: int = 768
    hidden: int = 448
    rate: float = 1e-3
    decay: float = 0.05
    dropout: tuple[float, float] = (0.2, 0.5)
    tags: float = 0.2
    seed: int = 0


class _Head(nn.Module):
    def __init__(self, options: ImageOptions) -> None:
        super().__init__()
        self.first = nn.Linear(IMAGE_FEATURES, options.hidden)
        self.second = nn.Linear(options.hidden, DIMENSIONS)
        self.before, self.between = (nn.Dropout(share) for share in options.dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.gelu(self.first(self.before(features)), approximate="tanh")
        return nn.functional.normalize(self.second(self.between(hidden)), dim=-1)


def caption_choices(rows: Sequence[Picture], known: Mapping[str, int]) -> list[tuple[list[int], list[int]]]:
    """Returns the numbers of the captions and of the tags of each picture."""
    return [
        (
            [known[text] for text in row.captions() if text in known],
            [known[text] for text in (*row.tags, *row.tags_zh) if text in known],
        )
        for row in rows
    ]


def train_image_head(
    features: Array,
    choices: Sequence[tuple[list[int], list[int]]],
    texts: torch.Tensor,
    options: ImageOptions,
    on_event: Callable[[dict[str, Any]], None],
) -> dict[str, Array]:
    """Returns the parameters of a head. Each step draws pictures, and one of the captions of each.

    Args:
        features: of the pictures [n, 2048].
        choices: numbers of the captions and of the tags of each picture.
        texts: centred unit vectors of the texts [m, 384].
    """
    mean, scale = features.mean(0), features.std(0) + 1e-3
    standard = torch.from_numpy((features - mean) / scale)
    heads = [
        _trained(standard, choices, texts, options, options.seed + member, on_event)
        for member in range(options.members)
    ]
    return {
        "mean": mean,
        "scale": scale,
        "first.weight": np.concatenate([head["first.weight"] for head in heads]),
        "first.bias": np.concatenate([head["first.bias"] for head in heads]),
        "second.weight": np.concatenate([head["second.weight"] for head in heads], 1),
        "second.bias": np.sum([head["second.bias"] for head in heads], 0),
    }


def _trained(
    standard: torch.Tensor,
    choices: Sequence[tuple[list[int], list[int]]],
    texts: torch.Tensor,
    options: ImageOptions,
    seed: int,
    on_event: Callable[[dict[str, Any]], None],
) -> dict[str, Array]:
    """Returns the parameters of one head. The lengths of its vectors are made alike, so that heads can be added."""
    torch.manual_seed(seed)
    draw = random.Random(seed)  # noqa: S311
    head = _Head(options)
    averaged = Averaged(head)
    optimiser = torch.optim.AdamW(head.parameters(), lr=options.rate, weight_decay=options.decay)
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, options.steps, options.rate)
        rows = torch.randperm(len(standard))[: options.batch]
        names = torch.tensor([_drawn(choices[row], draw, options.tags) for row in rows.tolist()])
        loss = contrastive_loss(head(standard[rows]), texts[names], names, _TEMPERATURE)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        averaged.update(step)
        if step % 50 == 49 or step + 1 == options.steps:
            on_event(
                {
                    "event": "step",
                    "part": "image",
                    "seed": seed,
                    "step": step + 1,
                    "loss": round(loss.item(), 4),
                }
            )
    head.load_state_dict(averaged.state)
    head.eval()
    with torch.no_grad():
        hidden = nn.functional.gelu(head.first(standard), approximate="tanh")
        length = head.second(hidden).norm(dim=-1).mean()
        head.second.weight /= length
        head.second.bias /= length
    return {name: value.detach().numpy().copy() for name, value in head.state_dict().items()}


def _drawn(choice: tuple[list[int], list[int]], draw: random.Random, tags: float) -> int:
    captions, words = choice
    return draw.choice(words if words and draw.random() < tags else captions)

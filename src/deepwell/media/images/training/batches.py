"""Batches of a training: which pictures, with which of their texts, and how they are moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deepwell.errors import InvalidRequest
from deepwell.media.images.flow import Float
from deepwell.media.images.training.pictures import PictureSet

__all__ = ["Batches", "TrainOptions"]

_PLENTY: Final = 4_000
"""Pictures from which a source is shown as it is. Shoes of Fashion-MNIST all point one way, and a mirrored one is none."""


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Choices of a training; those of the shipped weights are the defaults.

    Attributes:
        steps: optimiser steps.
        batch: pictures a step.
        learning_rate: its highest value, after the warm-up; it ends at a twentieth of it.
        warm_up: steps until the highest learning rate.
        text_dropout: share of pictures whose text is not told, for classifier-free guidance.
        text_noise: standard deviation of noise on a text's vector, in units of each number's own deviation.
        average: decay of the moving average of the weights that is kept.
        shares: share of each source in a batch; sources without one take the rest in proportion to their pictures.
        seed: seed of everything that is drawn.
    """

    steps: int = 7500
    batch: int = 64
    learning_rate: float = 1e-3
    warm_up: int = 200
    text_dropout: float = 0.1
    text_noise: float = 0.15
    average: float = 0.999
    shares: Mapping[str, float] = msgspec.field(
        default_factory=lambda: {"emoji": 0.45, "clipart": 0.3, "fashion": 0.25}
    )
    seed: int = 1


class Batches:
    """Draws batches: a picture of a source by its share, and one of its captions. Pictures of small sources are moved."""

    def __init__(
        self, pictures: PictureSet, vectors: Mapping[str, Float], options: TrainOptions, size: int
    ) -> None:
        self._indices = {
            source: [i for i in pictures.where("train", sources=[source]) if pictures.rows[i].prompts()]
            for source in dict.fromkeys(row.source for row in pictures.rows)
        }
        self._indices = {source: found for source, found in self._indices.items() if found}
        if not self._indices:
            raise InvalidRequest("no picture has a caption", fix="give the pictures captions")
        self._shares = _shares(
            {source: len(found) for source, found in self._indices.items()}, options.shares
        )
        self._size, self._options = size, options
        flat = [index for found in self._indices.values() for index in found]
        self._place = {index: n for n, index in enumerate(flat)}
        self._images = _scaled(pictures.images, flat, size)
        self._vectors = [
            np.stack([vectors[text] for text in pictures.rows[index].prompts()]) for index in flat
        ]
        self._flipped = [not _has_a_side(pictures.rows[index].title) for index in flat]
        few = {source for source, found in self._indices.items() if len(found) < _PLENTY}
        self._moves = np.array([pictures.rows[index].source in few for index in flat])

    def draw(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """Returns the batch of a step: pictures [N, size, size, 3] in -1..1, vectors [N, condition], and a generator."""
        seed = self._options.seed * 1_000_003 + step
        generator = np.random.default_rng(seed)
        names = list(self._shares)
        sources = generator.choice(len(names), self._options.batch, p=list(self._shares.values()))
        places = [self._place[int(generator.choice(self._indices[names[source]]))] for source in sources]
        chosen = self._images[places].float().mul_(2 / 255).sub_(1)
        flips = [self._flipped[place] and generator.random() < 0.5 for place in places]
        moved = _moved(chosen, generator, torch.tensor(flips))
        as_is = torch.from_numpy(~self._moves[places])
        moved[as_is] = chosen[as_is]
        vectors = [self._vectors[place][generator.integers(len(self._vectors[place]))] for place in places]
        return moved, torch.from_numpy(np.stack(vectors)), torch.Generator().manual_seed(seed)


def _shares(counts: Mapping[str, int], wanted: Mapping[str, float]) -> dict[str, float]:
    named = {source: wanted[source] for source in counts if source in wanted}
    others = {source: count for source, count in counts.items() if source not in named}
    rest = max(0.0, 1.0 - sum(named.values())) if named else 1.0
    total = sum(others.values())
    shares = named | {source: rest * count / total for source, count in others.items()}
    whole = sum(shares.values())
    return {source: share / whole for source, share in shares.items()}


def _scaled(images: NDArray[np.uint8], indices: Sequence[int], size: int) -> Tensor:
    """Returns pictures at the network's size, uint8 [N, size, size, 3]."""
    step = images.shape[1] // size
    made = torch.empty(len(indices), size, size, 3, dtype=torch.uint8)
    for n, index in enumerate(indices):
        cut = np.asarray(images[index], np.float32).reshape(size, step, size, step, 3)
        made[n] = torch.from_numpy(np.rint(cut.mean((1, 3))).astype(np.uint8))
    return made


def _has_a_side(title: str) -> bool:
    """Tells whether a mirrored picture would not be what its title says."""
    words = title.lower()
    return any(
        word in words
        for word in ("left", "right", "flag", "letter", "map", "button", "number", "o’clock", "text")
    )


def _moved(pictures: Tensor, generator: np.random.Generator, flips: Tensor) -> Tensor:
    """Returns the pictures a little smaller and aside, mirrored where `flips` says so, on white."""
    count = len(pictures)
    zoom = torch.from_numpy(generator.uniform(1.0, 1.12, count)).float()
    aside = torch.from_numpy(generator.uniform(-0.05, 0.05, (count, 2))).float()
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = torch.where(flips, -zoom, zoom)
    matrix[:, 1, 1] = zoom
    matrix[:, :, 2] = aside
    planes = 1 - pictures.permute(0, 3, 1, 2)  # white is nothing, so that what comes in from outside is white
    grid = functional.affine_grid(matrix, list(planes.shape), align_corners=False)
    moved = functional.grid_sample(planes, grid, align_corners=False)
    return (1 - moved).permute(0, 2, 3, 1).contiguous()

"""Trains the network that draws. A run is a folder: `run.json`, checkpoints, the curve, samples, and the model at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deepwell.errors import InvalidRequest
from deepwell.media.images.flow import Float, FlowConfig, FlowModel
from deepwell.media.images.training.network import FlowNetwork
from deepwell.media.images.training.pictures import PictureSet

__all__ = ["FlowTraining", "Step", "TrainOptions", "train_flow"]

_CHECKPOINT: Final = "checkpoint.pt"
_STEPS_A_CHECKPOINT: Final = 250
_LEAST_LEFT: Final = 0.05
"""Least 1 - t that an error is divided by: half the way from equal weights to those of the velocity's error."""


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
        default_factory=lambda: {"emoji": 0.5, "clipart": 0.38, "fashion": 0.12}
    )
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a training: the step, the mean error since the last report, pictures a second."""

    step: int
    loss: float
    pictures_per_s: float


class FlowTraining:
    """The state of a training: network, moving average, optimiser and the step that it stands at."""

    def __init__(self, config: FlowConfig, options: TrainOptions, vectors: Float) -> None:
        torch.manual_seed(options.seed)
        mean = torch.from_numpy(vectors.mean(0))
        scale = 1.0 / torch.from_numpy(vectors.std(0)).clamp(min=1e-4)
        self.options = options
        self.network = FlowNetwork(config, mean, scale)
        self.averaged = {name: one.detach().clone() for name, one in self.network.state_dict().items()}
        grouped: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for parameter in self.network.parameters():
            grouped[parameter.ndim > 1].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": grouped[True], "weight_decay": 0.01},
                {"params": grouped[False], "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        self.step = 0

    def advance(self, pictures: Tensor, condition: Tensor, generator: torch.Generator) -> float:
        """Makes one step. Returns its error."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(self.step, options)
        loss = self._loss(pictures, condition, generator)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(options.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.averaged.values()), list(self.network.state_dict().values()), 1 - decay
            )
        return float(loss.detach())

    def _loss(self, pictures: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        options, count = self.options, len(pictures)
        t = torch.sigmoid(torch.randn(count, generator=generator) - 0.8)
        noise = torch.randn(pictures.shape, generator=generator)
        deviation = 1.0 / self.network.condition_scale
        condition = condition + options.text_noise * deviation * torch.randn(
            condition.shape, generator=generator
        )
        without = torch.rand(count, generator=generator) < options.text_dropout
        at = t[:, None, None, None]
        x = at * pictures + (1 - at) * noise
        with torch.autocast("cpu", torch.bfloat16):
            estimate = self.network(x, t, condition, without)
        return ((estimate.float() - pictures).square() / (1 - at).clamp(min=_LEAST_LEFT)).mean()

    def save(self, folder: Path) -> None:
        """Writes a checkpoint; a reader sees the old one or the new one."""
        state: dict[str, Any] = {
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = folder / f"{_CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(folder / _CHECKPOINT)

    def resume(self, folder: Path) -> bool:
        """Takes the state of a checkpoint if there is one. Returns whether there was."""
        if not (folder / _CHECKPOINT).is_file():
            return False
        state = torch.load(folder / _CHECKPOINT, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        return True

    def exported(self) -> FlowModel:
        """Returns the network with the moving average of its weights."""
        weights = {name: tensor.float().numpy().copy() for name, tensor in self.averaged.items()}
        return FlowModel(self.network.config, weights)


def _rate(step: int, options: TrainOptions) -> float:
    if step < options.warm_up:
        return options.learning_rate * (step + 1) / options.warm_up
    done = (step - options.warm_up) / max(1, options.steps - options.warm_up)
    return options.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Batches:
    """Draws batches: a picture of a source by its share, one of its captions, and a slight change of place and size."""

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


def train_flow(
    pictures: PictureSet,
    vectors: Mapping[str, Float],
    folder: Path,
    config: FlowConfig,
    options: TrainOptions,
    report: Callable[[Step, FlowTraining], None],
) -> FlowModel:
    """Trains a network, or goes on with the training that `folder` holds, and returns it with averaged weights.

    Args:
        pictures: the set; its pictures of the split `train` are used.
        vectors: the vector of each prompt.
        folder: folder of the run.
        config: shape of the network.
        options: choices of the training.
        report: called every 50 steps.

    Raises:
        InvalidRequest: the folder holds a training with other choices, or no picture has a caption.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = msgspec.json.encode({"config": config, "options": options})
    record = folder / "run.json"
    if record.is_file() and record.read_bytes() != said:
        raise InvalidRequest(
            f"{folder} holds a training with other choices", fix="name another folder, or delete this one"
        )
    record.write_bytes(said)
    batches = Batches(pictures, vectors, options, config.size)
    known = np.stack([vectors[text] for i in pictures.where("train") for text in pictures.rows[i].prompts()])
    training = FlowTraining(config, options, known)
    training.resume(folder)
    losses: list[float] = []
    began = time.monotonic()
    while training.step < options.steps:
        losses.append(training.advance(*batches.draw(training.step)))
        if training.step % 50 == 0 or training.step == options.steps:
            now = time.monotonic()
            rate = len(losses) * options.batch / (now - began)
            report(Step(training.step, sum(losses) / len(losses), rate), training)
            losses, began = [], now
        if training.step % _STEPS_A_CHECKPOINT == 0 or training.step == options.steps:
            training.save(folder)
    model = training.exported()
    model.write(folder)
    return model

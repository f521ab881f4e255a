"""Trains the network that draws. A run is a folder: `run.json`, checkpoints, the curve, samples, and the model at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from deepwell.errors import InvalidRequest
from deepwell.media.images.flow import Float, FlowConfig, FlowModel
from deepwell.media.images.training.batches import Batches, TrainOptions
from deepwell.media.images.training.curve import Curve
from deepwell.media.images.training.network import FlowNetwork
from deepwell.media.images.training.pictures import PictureSet

__all__ = ["FlowTraining", "Step", "train_flow"]

_CHECKPOINT: Final = "checkpoint.pt"
_STEPS_A_CHECKPOINT: Final = 250
_STEPS_A_REPORT: Final = 25
_SHOWN: Final = 8
"""Samples of a checkpoint."""

_LEAST_LEFT: Final = 0.05
"""Least 1 - t that an error is divided by: half the way from equal weights to those of the velocity's error."""


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
        report: called every 25 steps.

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
    texts = [text for index in pictures.where("train") for text in pictures.rows[index].prompts()]
    known = np.stack([vectors[text] for text in texts])
    training = FlowTraining(config, options, known)
    training.resume(folder)
    curve = Curve(folder, training.step, known[:: max(1, len(known) // _SHOWN)][:_SHOWN])
    try:
        _steps(training, batches, folder, curve, report)
    finally:
        curve.close()
    model = training.exported()
    model.write(folder)
    return model


def _steps(
    training: FlowTraining,
    batches: Batches,
    folder: Path,
    curve: Curve,
    report: Callable[[Step, FlowTraining], None],
) -> None:
    options = training.options
    losses: list[float] = []
    began = time.monotonic()
    while training.step < options.steps:
        losses.append(training.advance(*batches.draw(training.step)))
        step, last = training.step, training.step == options.steps
        if step % _STEPS_A_REPORT == 0 or last:
            rate = len(losses) * options.batch / (time.monotonic() - began)
            told = Step(step, sum(losses) / len(losses), rate)
            curve.add(step, loss=told.loss, pictures_per_s=rate)
            report(told, training)
            losses, began = [], time.monotonic()
        if step % _STEPS_A_CHECKPOINT == 0 or last:
            training.save(folder)
            curve.draw(step, training.exported())

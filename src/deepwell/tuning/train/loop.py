"""The training loop: steps, validations and the end of a run. Losses are summed over tokens and divided once a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from deepwell.errors import InvalidRequest
from deepwell.tuning.train.batches import collate
from deepwell.tuning.train.checkpoints import Progress
from deepwell.tuning.train.config import TuneConfig
from deepwell.tuning.train.dataset import micro_batches, step_order
from deepwell.tuning.train.examples import Example
from deepwell.tuning.train.forward.loss import outcome
from deepwell.tuning.train.journal import Journal
from deepwell.tuning.train.optimizer import learning_rate, set_learning_rate
from deepwell.tuning.train.strategy import Strategy

__all__ = ["Course", "Loop", "Measured", "Precision", "named_parameters", "processor_is_fast_at_bf16"]


@dataclass(frozen=True, slots=True)
class Precision:
    """The number formats of a training.

    Attributes:
        weights: format of frozen weights.
        autocast: format that products are computed in, where it is not that of the weights.
    """

    weights: torch.dtype
    autocast: torch.dtype | None = None

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        """Returns the context of a forward pass."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.autocast)


def processor_is_fast_at_bf16() -> bool:
    """Tells whether this processor multiplies bf16 faster than fp32: it has AMX, or the dot products of AVX-512."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


@dataclass(frozen=True, slots=True)
class Course:
    """Numbers of a run that follow from its configuration and its data."""

    steps: int
    micro_tokens: int
    evaluate_every: int
    save_every: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Means over what is counted: labelled tokens, and in other algorithms answers or pairs of them.

    Attributes:
        loss: mean loss, in nats.
        accuracy: share that was right: of the tokens, those that were thought likeliest.
        extra: further means by name.
    """

    loss: float
    accuracy: float
    extra: Mapping[str, float] = field(default_factory=dict[str, float])


class Loop:
    """One run in one process. A subclass computes another loss: see `ACCURACY`, `EXTRA`, `count`, `backward` and `evaluate`.

    Args:
        model: the model, prepared by `strategy`; the parameters that require a gradient are trained.
        config: the run; its section `train` is the optimisation.
        progress: the place to continue at; it is kept up to date.
    """

    ACCURACY: ClassVar[str] = "token_accuracy"
    """Name of the second of the sums in events."""
    EXTRA: ClassVar[tuple[str, ...]] = ()
    """Names of the sums behind the second."""

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        config: TuneConfig,
        course: Course,
        strategy: Strategy,
        precision: Precision,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self.model = model
        self._optimizer = optimizer
        self.config = config
        self.settings = config.train
        self.course = course
        self.strategy = strategy
        self.precision = precision
        self.journal = journal
        self._progress = progress
        self._parameters = named_parameters(model)
        self._scaler: Any = None
        if precision.autocast is torch.float16:
            self._scaler = torch.amp.GradScaler(strategy.device.type)
            if progress.numbers:
                self._scaler.load_state_dict(progress.numbers)
        self._seconds: list[float] = []

    def run(
        self,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        *,
        save: Callable[[], None],
        keep_best: Callable[[], None],
        stop: Callable[[], bool],
    ) -> bool:
        """Runs to the end and returns True, or to a request to stop and returns False after a checkpoint.

        Args:
            save: writes a checkpoint.
            keep_best: keeps the weights, which have the lowest held-out loss so far.
            stop: polled after each step.
        """
        course, progress = self.course, self._progress
        if progress.step == 0 and held_out and progress.first_loss is None:
            self._validate(held_out, keep_best)
            progress.first_loss = progress.best_loss
        patience = self.settings.patience
        if patience and progress.worse >= patience:
            return True  # it ended early before, and was killed before its artefact was written
        steps = islice(step_order(examples, self.settings), progress.step, course.steps)
        for chosen in steps:
            self._step(examples, chosen)
            is_last = progress.step == course.steps
            ends = False
            if held_out and (is_last or progress.step % course.evaluate_every == 0):
                self._validate(held_out, keep_best)
                ends = bool(patience) and progress.worse >= patience
            if stop() and not (is_last or ends):
                save()
                return False
            if is_last or ends or progress.step % course.save_every == 0:
                save()
            if ends:
                break
        return True

    def _step(self, examples: Sequence[Example], chosen: Sequence[int]) -> None:
        """Takes one step.

        Raises:
            InvalidRequest: the loss or the gradient is no finite number; the weights stay as they were.
        """
        began = time.perf_counter()
        progress, settings, strategy = self._progress, self.settings, self.strategy
        rate = learning_rate(progress.step, self.course.steps, settings)
        set_learning_rate(self._optimizer, rate)
        pieces = micro_batches(examples, chosen, self.course.micro_tokens, packing=settings.packing)
        count = self.count([examples[index] for index in chosen])
        self.model.train()
        sums = self.backward(strategy.share(pieces), count)
        parameters = list(self._parameters.values())
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        strategy.sum_gradients(parameters)
        norm = strategy.clip(parameters, settings.clip)
        found = self._measured(strategy.sum(sums), count)
        # A scaler meets infinite gradients by design, and lowers its scale.
        if not math.isfinite(found.loss) or (self._scaler is None and not math.isfinite(norm)):
            step = progress.step + 1
            raise InvalidRequest.of(
                "tune_diverged", param="train.learning_rate", step=step, rate=f"{rate:.2g}"
            )
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()
            progress.numbers = self._scaler.state_dict()
        self._optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(examples[index].token_ids) for index in chosen)
        progress.step += 1
        progress.tokens += tokens
        seconds = time.perf_counter() - began
        self._seconds.append(seconds)
        recent = self._seconds[-20:]
        left = (self.course.steps - progress.step) * sum(recent) / len(recent)
        self.journal.event(
            "step",
            step=progress.step,
            steps=self.course.steps,
            **self._said(found),
            learning_rate=rate,
            gradient_norm=round(norm, 6),
            tokens=tokens,
            tokens_per_second=round(tokens / seconds, 1),
            seconds_left=round(left, 1),
        )

    def count(self, examples: Sequence[Example]) -> int:
        """Returns the number that the sums of `backward` and `evaluate` are divided by."""
        return sum(one.labelled for one in examples)

    def backward(self, pieces: Sequence[Sequence[Sequence[Example]]], count: int) -> Tensor:
        """Adds the gradients of the summed loss of all pieces, divided by `count`.

        Returns the sums of the loss, of what was right, and of `EXTRA`, in float64.
        """
        sums = torch.zeros(2, dtype=torch.float64)
        for rows in pieces:
            batch = collate(rows).to(self.strategy.device)
            with self.precision.context(self.strategy.device):
                found = outcome(self.model, batch, checkpointing=self.settings.checkpointing)
            self.descend(found.loss / count)
            sums += torch.tensor([float(found.loss.detach()), found.correct], dtype=torch.float64)
        return sums

    def descend(self, loss: Tensor) -> None:
        """Adds the gradient of a loss, scaled where the precision needs it."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def evaluate(self, pieces: Sequence[Sequence[Sequence[Example]]]) -> Tensor:
        """Returns the sums of `backward`, without gradients; the model is in evaluation mode."""
        sums = torch.zeros(2, dtype=torch.float64)
        for rows in pieces:
            with self.precision.context(self.strategy.device):
                found = outcome(self.model, collate(rows).to(self.strategy.device))
            sums += torch.tensor([float(found.loss), found.correct], dtype=torch.float64)
        return sums

    def _validate(self, held_out: Sequence[Example], keep_best: Callable[[], None]) -> None:
        progress = self._progress
        measured = self.measure(held_out)
        self.journal.event(
            "validation",
            step=progress.step,
            **self._said(measured),
        )
        progress.last_loss = measured.loss
        if progress.best_loss is None or measured.loss < progress.best_loss:
            progress.best_loss, progress.best_step, progress.worse = measured.loss, progress.step, 0
            if progress.step:
                keep_best()
        else:
            progress.worse += 1

    def measure(self, examples: Sequence[Example]) -> Measured:
        """Returns the loss and the accuracy on examples, without dropout."""
        pieces = micro_batches(examples, range(len(examples)), self.course.micro_tokens)
        self.model.eval()
        # not inference_mode: fully_shard trains on the buffers that it first gathered into
        with torch.no_grad():
            sums = self.evaluate(self.strategy.share(pieces))
        return self._measured(self.strategy.sum(sums), self.count(examples))

    def _measured(self, sums: Tensor, count: int) -> Measured:
        loss, accuracy, *extra = (sums / count).tolist()
        return Measured(loss, accuracy, dict(zip(self.EXTRA, extra, strict=True)))

    def _said(self, found: Measured) -> dict[str, float]:
        values = {"loss": found.loss, self.ACCURACY: found.accuracy, **found.extra}
        return {name: round(value, 6) for name, value in values.items()}


def named_parameters(model: Any) -> Mapping[str, Tensor]:
    """Returns the trained parameters by name."""
    return {name: one for name, one in model.named_parameters() if one.requires_grad}

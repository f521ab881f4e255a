"""`WorldTraining`: a whole training. A run is a folder: `run.json`, a checkpoint, the curve, and the model at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from deepwell.agents.world.environments import Environment
from deepwell.agents.world.model import WorldConfig, WorldModel
from deepwell.agents.world.training.collector import Collector
from deepwell.agents.world.training.curve import Curve
from deepwell.agents.world.training.learner import Learner
from deepwell.agents.world.training.network import State, WorldNetwork
from deepwell.agents.world.training.options import TrainOptions
from deepwell.agents.world.training.trials import Trials
from deepwell.errors import InvalidRequest

__all__ = ["MODEL", "Progress", "WorldTraining", "train_world"]

MODEL: Final = "world.safetensors"
"""Name of the model in the folder of a run."""

_CHECKPOINT: Final = "checkpoint.pt"
_STEPS_A_REPORT: Final = 500
_STEPS_A_CHECKPOINT: Final = 2_000
_REHEARSALS_AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a training.

    Attributes:
        step: steps of interaction.
        updates: updates made, without rehearsals.
        rehearsals: updates of actor and critic alone that were made after the last step.
        processor_seconds: processor time so far, over all parts of a run that was stopped.
        values: mean return of the episodes since the last report, if there were any, and the parts of the errors.
    """

    step: int
    updates: int
    rehearsals: int
    processor_seconds: float
    values: dict[str, float]


class WorldTraining:
    """The state of a training: what was lived through, what was learned, and how many updates and rehearsals were made.

    Args:
        environment: where it lives.
        options: choices of the training.
    """

    def __init__(self, environment: Environment, options: TrainOptions) -> None:
        spec = environment.spec
        torch.manual_seed(options.seed)
        self.options = options
        self.config = WorldConfig(
            spec.name, len(spec.observation), spec.binary, len(spec.actions), spec.discount
        )
        self.learner = Learner(self.config, options)
        self.collector = Collector(environment, options, self.config)
        self.trials = Trials(self.learner.averaged, options.streams) if options.trials else None
        self.updates = self.rehearsals = 0
        self.processor_seconds = 0.0
        self._rng = np.random.default_rng(options.seed + 1)
        self._values: dict[str, list[float]] = {}
        self._reported = 0
        self._relived: tuple[State, Tensor] | None = None

    def advance(self) -> bool:
        """Makes one tick of all episodes and the updates that are then due, after the last tick some of the rehearsals.

        Returns False once all are made.
        """
        begin, options = time.process_time(), self.options
        if self.collector.fits():
            self._tick()
        elif self.rehearsals < options.rehearsals:
            for _ in range(min(_REHEARSALS_AT_ONCE, options.rehearsals - self.rehearsals)):
                self._rehearse()
        else:
            return False
        self.processor_seconds += time.process_time() - begin
        return True

    def _tick(self) -> None:
        options, collector = self.options, self.collector
        if self.trials is None or collector.steps < options.random_steps:
            collector.tick(self.learner.network)
        else:
            collector.tick(self.learner.network, self.trials.acting)
            self.trials.ticked(self.learner.averaged, collector.begun, collector.over, collector.totals)
        due = max(0, collector.steps - options.random_steps) // options.steps_an_update
        while self.updates < due:
            batch = collector.replay.draw(
                self._rng, options.batch, options.length, options.events, options.carried
            )
            for name, value in self.learner.update(batch, self._pace()).items():
                self._values.setdefault(name, []).append(value)
            self.updates += 1

    def _rehearse(self) -> None:
        options = self.options
        if self._relived is None:
            with torch.random.fork_rng():  # a training that goes on here finds the same states
                torch.manual_seed(options.seed)
                self._relived = self.collector.replay.relived(self.learner.network)
        states, alive = self._relived
        count = max(1, options.rehearsed // (self.config.actions * options.futures))
        chosen = torch.randint(len(alive), (count,))
        begin = State(states.memory[chosen], states.chance[chosen])
        pace = 1 - 0.9 * self.rehearsals / options.rehearsals
        for name, value in self.learner.rehearse(begin, alive[chosen], pace).items():
            self._values.setdefault(name, []).append(value)
        self.rehearsals += 1

    def _pace(self) -> float:
        """Returns the share of the model's learning rate that holds now."""
        options = self.options
        left = (1 - self.collector.steps / options.steps) / options.settling if options.settling else 1.0
        return 0.1 + 0.9 * min(1.0, left)

    @property
    def returned(self) -> WorldNetwork:
        """The weights that the training returns: those of the best trial, or the average at the end."""
        learned = self.learner.averaged
        return learned if self.trials is None else self.trials.best(learned)

    @property
    def moment(self) -> int:
        """Steps and rehearsals that were made."""
        return self.collector.steps + self.rehearsals

    def progress(self) -> Progress:
        """Returns the progress, with means since it was last asked for."""
        values = {name: float(np.mean(those)) for name, those in self._values.items()}
        returns = [total for _, total in self.collector.returns[self._reported :]]
        if returns:
            values["return"] = float(np.mean(returns))
        self._values, self._reported = {}, len(self.collector.returns)
        seconds = round(self.processor_seconds, 1)
        return Progress(self.collector.steps, self.updates, self.rehearsals, seconds, values)

    def save(self, folder: Path) -> None:
        """Writes a checkpoint; a reader sees the old one or the new one."""
        state: dict[str, Any] = {
            "learner": self.learner.state(),
            "collector": self.collector.state(),
            "trials": None if self.trials is None else self.trials.state(),
            "updates": self.updates,
            "rehearsals": self.rehearsals,
            "processor_seconds": self.processor_seconds,
            "rng": self._rng.bit_generator.state,
            "torch": torch.get_rng_state(),
        }
        partial = folder / f"{_CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(folder / _CHECKPOINT)

    def resume(self, folder: Path) -> bool:
        """Takes the state of a checkpoint if there is one. Returns whether there was."""
        if not (folder / _CHECKPOINT).is_file():
            return False
        state = torch.load(folder / _CHECKPOINT, weights_only=True)
        self.learner.load(state["learner"])
        self.collector.load(state["collector"])
        if self.trials is not None:
            self.trials.load(state["trials"])
        self.updates, self.rehearsals = state["updates"], state["rehearsals"]
        self.processor_seconds = state["processor_seconds"]
        self._rng.bit_generator.state = state["rng"]
        self._reported = len(self.collector.returns)
        torch.set_rng_state(state["torch"])
        return True


def train_world(
    environment: Environment,
    folder: Path,
    options: TrainOptions,
    report: Callable[[Progress], None],
) -> WorldModel:
    """Trains a model, or goes on with the training that `folder` holds, and returns it.

    Args:
        environment: where it lives.
        folder: folder of the run.
        options: choices of the training.
        report: called every 500 steps of interaction or rehearsals, and at the end.

    Raises:
        InvalidRequest: the folder holds a training with other choices.
    """
    torch.set_num_threads(1)  # the layers are too small for more
    folder.mkdir(parents=True, exist_ok=True)
    said = msgspec.json.encode({"environment": environment.spec.name, "options": options})
    record = folder / "run.json"
    if record.is_file() and record.read_bytes() != said:
        raise InvalidRequest(
            f"{folder} holds a training with other choices", fix="name another folder, or delete this one"
        )
    record.write_bytes(said)
    training = WorldTraining(environment, options)
    training.resume(folder)
    reported = saved = training.moment
    curve = Curve(folder, reported)
    try:
        while training.advance():
            step = training.moment
            if step - reported >= _STEPS_A_REPORT:
                reported = step
                progress = training.progress()
                curve.add(step, **progress.values)
                report(progress)
            if step - saved >= _STEPS_A_CHECKPOINT:
                saved = step
                training.save(folder)
        training.save(folder)
        progress = training.progress()
        if training.moment > reported:
            curve.add(training.moment, **progress.values)
        report(progress)
    finally:
        curve.close()
    model = training.returned.exported()
    model.write(folder / MODEL)
    return model

"""Strategies of several processes: `ddp` divides the data, `fsdp2` frozen weights too, `tensor` the products of each layer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from deepwell.errors import InvalidRequest
from deepwell.tuning.train.config import StepConfig, TuneConfig
from deepwell.tuning.train.distributed.deepspeed import zero_strategy
from deepwell.tuning.train.distributed.group import (
    Group,
    join_group,
    leave_group,
    sum_all,
    world_of_environment,
)
from deepwell.tuning.train.distributed.tensor import shard_model
from deepwell.tuning.train.examples import Example
from deepwell.tuning.train.forward.decoder import base_of
from deepwell.tuning.train.loop import Course
from deepwell.tuning.train.strategy import Single, Strategy

__all__ = [
    "DataParallel",
    "FullyShared",
    "TensorParallel",
    "agreed",
    "divided",
    "open_strategy",
    "own_folder",
]

T = TypeVar("T")


@contextmanager
def open_strategy(config: TuneConfig, device: torch.device) -> Generator[Strategy]:
    """Yields the strategy of a configuration, joined with the other processes where there are any, and leaves them.

    Raises:
        InvalidRequest: the launcher, the method and the strategy do not go together.
        MissingDependency: the strategy needs DeepSpeed, which is not installed.
    """
    strategy = _strategy(config, device)
    try:
        yield strategy
    finally:
        leave_group()


def _strategy(config: TuneConfig, device: torch.device) -> Strategy:
    name = config.train.strategy
    if name == "single":
        if world_of_environment() > 1:
            raise InvalidRequest(
                f"{world_of_environment()} processes were started, and train.strategy is single",
                fix="set train.strategy to ddp, fsdp2 or tensor",
                param="train.strategy",
            )
        return Single(device)
    if name == "zero":
        return zero_strategy()
    if config.method == "full" and name in ("fsdp2", "tensor"):
        raise InvalidRequest(
            f"train.strategy is {name}, which divides frozen weights, and method full trains all of them",
            fix="set train.strategy to ddp, or method to lora",
            param="train.strategy",
        )
    kinds = {"ddp": DataParallel, "fsdp2": FullyShared, "tensor": TensorParallel}
    return kinds[name](join_group(name))


def agreed(strategy: Strategy, stop: Callable[[], bool]) -> Callable[[], bool]:
    """Returns a request to stop that all processes see at the same step, as soon as one of them has it."""
    return strategy.group.agree(stop) if isinstance(strategy, DataParallel) else stop


def divided(course: Course, settings: StepConfig, strategy: Strategy) -> Course:
    """Returns a course whose steps have a piece for each process, where processes divide the data and lengths allow it."""
    if not isinstance(strategy, DataParallel) or isinstance(strategy, TensorParallel):
        return course
    assert isinstance(settings.max_tokens, int) and isinstance(
        settings.batch_tokens, int
    )  # the plan has replaced auto
    most = max(settings.max_tokens, -(-settings.batch_tokens // strategy.group.world))
    return replace(course, micro_tokens=min(course.micro_tokens, most))


@contextmanager
def own_folder(strategy: Strategy, folder: Path) -> Generator[Path]:
    """Yields the folder that this process writes to: the run's for the first process, one that is thrown away for others.

    All hold the same adapters, so that what the first one writes is the whole.
    """
    if strategy.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


class DataParallel:
    """Every process computes some of a step's pieces on the whole model. Gradients are summed once a step."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.rank = group.rank
        self.device = group.device

    def prepare(self, model: Any) -> Any:
        """Returns the model on the device."""
        return model.to(self.device)

    def share(self, pieces: Sequence[T]) -> Sequence[T]:
        """Returns every `world`-th piece."""
        return pieces[self.rank :: self.group.world]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds the gradients of all processes; a process without a piece adds zeros."""
        trained = list(parameters)
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sum_all([parameter.grad for parameter in trained if parameter.grad is not None])

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over all processes."""
        total = values.clone().to(self.device)
        sum_all([total])
        return total.to(values.device)

    def clip(self, parameters: Iterable[Tensor], most: float) -> float:
        """Scales gradients, which are summed and whole, down to a norm; returns the norm that they had."""
        return float(torch.nn.utils.clip_grad_norm_(list(parameters), most))

    def gathered(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Returns the weights, which every process has whole."""
        return weights


class FullyShared(DataParallel):
    """`DataParallel` with the frozen weights of each layer divided by `fully_shard`; they are gathered while it computes."""

    def prepare(self, model: Any) -> Any:
        """Divides the layers of the model. Adapters, embedding and head stay whole."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model = model.to(self.device)
        mesh = init_device_mesh(self.device.type, (self.group.world,))
        for layer in base_of(model).model.layers:  # pyright: ignore[reportGeneralTypeIssues,reportAttributeAccessIssue]
            trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
        return model

    def share(self, pieces: Sequence[T]) -> Sequence[T]:
        """Returns every `world`-th piece, and one without labels where others have one more: all gather weights as often."""
        mine = list(pieces[self.rank :: self.group.world])
        most = -(-len(pieces) // self.group.world)
        return mine if len(mine) == most else [*mine, _unlabelled(pieces[0])]


class TensorParallel(DataParallel):
    """Every process computes its heads and its part of the MLP of all pieces; they sum the outputs of both in each layer."""

    def prepare(self, model: Any) -> Any:
        """Keeps this process's part of every projection.

        Raises:
            InvalidRequest: the model has fewer key heads than there are processes, or another architecture.
        """
        shard_model(model, self.group)
        return model.to(self.device)

    def share(self, pieces: Sequence[T]) -> Sequence[T]:
        """Returns all pieces."""
        return pieces

    def sum(self, values: Tensor) -> Tensor:
        """Returns the tensor, which every process has whole."""
        return values


def _unlabelled(piece: Any) -> Any:
    """Returns a row of two tokens of the piece, none of which is learnt."""
    first: Example = piece[0][0]
    count = min(2, len(first.token_ids))
    return [[replace(first, token_ids=first.token_ids[:count], loss_mask=[False] * count)]]

"""The process group of a run: its processes are started by `torchrun`, or by `deepwell.tuning.train.distributed.launch`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from deepwell.errors import InvalidRequest

__all__ = ["Group", "join_group", "leave_group", "local_world", "sum_all", "world_of_environment"]

PATIENCE: Final = timedelta(minutes=30)
"""Longest wait for another process, which may be writing a checkpoint."""


@dataclass(frozen=True, slots=True)
class Group:
    """This process's place among `world`."""

    rank: int
    world: int
    device: torch.device

    def agree(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Returns a request to stop that all processes see at the same step as soon as one of them has it."""

        def any_stops() -> bool:
            flag = torch.tensor([int(stop())], device=self.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            return bool(flag.item())

        return any_stops


def world_of_environment() -> int:
    """Returns the number of processes that the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world() -> int:
    """Returns the number of processes that share this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or world_of_environment())


def join_group(strategy: str) -> Group:
    """Joins the other processes, over nccl on GPUs and gloo on processors.

    Raises:
        InvalidRequest: no launcher started this process.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise InvalidRequest(
            f"train.strategy is {strategy}, which takes several processes, and this is one alone",
            fix="run `deepwell tune sft CONFIG --processes 2`, or start it by torchrun; or set train.strategy to single",
            param="train.strategy",
        )
    accelerated = torch.cuda.is_available()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if accelerated else "gloo", timeout=PATIENCE)
    rank = dist.get_rank()
    if not accelerated:
        return Group(rank, dist.get_world_size(), torch.device("cpu"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK") or rank))
    torch.cuda.set_device(device)
    return Group(rank, dist.get_world_size(), device)


def leave_group() -> None:
    """Leaves the group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_all(tensors: Iterable[Tensor]) -> None:
    """Sums tensors over all processes, in place and in one message for each dtype.

    The operation is a plain sum: averages of gloo have been wrong (pytorch issue 162338).
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.all_reduce(flat)
        for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view_as(tensor))

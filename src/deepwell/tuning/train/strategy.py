"""`Strategy`: the processes of a run share its work. `Single` is a process alone; `distributed` has the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

__all__ = ["Single", "Strategy"]

T = TypeVar("T")


class Strategy(Protocol):
    """The part of the loop that the processes share. Gradients are sums over all processes before they are clipped."""

    rank: int
    device: torch.device

    def prepare(self, model: Any) -> Any:
        """Returns the model as this process computes it."""
        ...

    def share(self, pieces: Sequence[T]) -> Sequence[T]:
        """Returns the pieces of a step that this process computes."""
        ...

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds the gradients of all processes."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of a tensor over all processes."""
        ...

    def clip(self, parameters: Iterable[Tensor], most: float) -> float:
        """Scales gradients down to a norm, and returns the norm that they had."""
        ...

    def gathered(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Returns whole weights from those that this process holds."""
        ...


class Single:
    """One process, which computes everything."""

    rank = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, model: Any) -> Any:
        """Returns the model on the device."""
        return model.to(self.device)

    def share(self, pieces: Sequence[T]) -> Sequence[T]:
        """Returns all pieces."""
        return pieces

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Leaves gradients as they are."""

    def sum(self, values: Tensor) -> Tensor:
        """Returns the tensor."""
        return values

    def clip(self, parameters: Iterable[Tensor], most: float) -> float:
        """Scales gradients down to a norm, and returns the norm that they had."""
        return float(torch.nn.utils.clip_grad_norm_(list(parameters), most))

    def gathered(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Returns the weights."""
        return weights

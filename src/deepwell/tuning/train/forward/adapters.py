"""`Group`: projections that read the same input as one product of matrices, with their low-rank adapters (arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Adapter", "Group", "GroupState", "dropped"]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """y += scale * b (a x).

    Attributes:
        a: trained, [r, inputs].
        b: trained, [outputs, r].
        scale: alpha / r.
        dropout: share of the inputs of `a` that training sets to zero.
        rows, columns: outputs and inputs that this process computes; gradients have the whole size, zero elsewhere.
    """

    a: Tensor
    b: Tensor
    scale: float
    dropout: float
    rows: slice = field(default_factory=lambda: slice(None))
    columns: slice = field(default_factory=lambda: slice(None))

    def whole(self, a_grad: Tensor, b_grad: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of the whole matrices, in their dtype, from those of this process's part."""
        return _placed(a_grad, self.a, (slice(None), self.columns)), _placed(
            b_grad, self.b, (self.rows, slice(None))
        )


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Frozen projections of one input, their weights in one matrix.

    Attributes:
        weight: [sum of outputs, inputs].
        bias: [sum of outputs], or None.
        outputs: width of each projection.
        adapters: of each projection, None where it has none. Those of a group drop the same inputs.
    """

    weight: Tensor
    bias: Tensor | None
    outputs: tuple[int, ...]
    adapters: tuple[Adapter | None, ...]

    @property
    def trained(self) -> list[Tensor]:
        """The adapters' parameters, in order."""
        return [part for adapter in self.adapters if adapter for part in (adapter.a, adapter.b)]

    def forward(self, x: Tensor, seed: int | None) -> tuple[Tensor, GroupState | None]:
        """Returns [rows, sum of outputs], and what the backward pass needs.

        Args:
            x: [rows, inputs].
            seed: of the dropout; None: nothing is dropped.
        """
        y = F.linear(x, self.weight, self.bias)
        adapters = [adapter for adapter in self.adapters if adapter]
        if not adapters:
            return y, None
        share = adapters[0].dropout if seed is not None else 0.0
        gone = dropped(x, share, seed) if seed is not None and share else None
        seen = x if gone is None else x.masked_fill(gone, 0)
        down = torch.cat([adapter.a[:, adapter.columns] for adapter in adapters]).to(x.dtype)
        low = F.linear(seen, down)  # [rows, sum of ranks]
        for adapter, columns, ranks in self._places():
            up = adapter.b[adapter.rows].to(x.dtype).t()
            y[:, columns].addmm_(low[:, ranks], up, alpha=adapter.scale / (1 - share))
        return y, GroupState(seen, gone, low, down, share)

    def backward(
        self, grad: Tensor, state: GroupState | None, *, wanted: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Returns the gradient of the input, None unless `wanted`, and those of `trained`."""
        x_grad = grad @ self.weight if wanted else None
        if state is None:
            return x_grad, []
        found: list[Tensor] = []
        low_grad = torch.empty_like(state.low)
        for adapter, columns, ranks in self._places():
            scale = adapter.scale / (1 - state.share)
            torch.mul(
                grad[:, columns] @ adapter.b[adapter.rows].to(grad.dtype), scale, out=low_grad[:, ranks]
            )
            found.append((grad[:, columns].t() @ state.low[:, ranks]).float().mul_(scale))
        down_grad = low_grad.t() @ state.seen
        grads: list[Tensor] = []
        for (adapter, _, ranks), up_grad in zip(self._places(), found, strict=True):
            grads += adapter.whole(down_grad[ranks], up_grad)
        if x_grad is not None:
            if state.gone is None:
                x_grad.addmm_(low_grad, state.down)
            else:
                x_grad += (low_grad @ state.down).masked_fill_(state.gone, 0)
        return x_grad, grads

    def _places(self) -> list[tuple[Adapter, slice, slice]]:
        """Returns the adapters with their columns of the output and of the packed ranks."""
        found: list[tuple[Adapter, slice, slice]] = []
        column = rank = 0
        for width, adapter in zip(self.outputs, self.adapters, strict=True):
            if adapter:
                found.append((adapter, slice(column, column + width), slice(rank, rank + len(adapter.a))))
                rank += len(adapter.a)
            column += width
        return found


@dataclass(frozen=True, slots=True, eq=False)
class GroupState:
    """The adapters' input, what was dropped of it, its low-rank image, and the packed `a`."""

    seen: Tensor
    gone: Tensor | None
    low: Tensor
    down: Tensor
    share: float


def _placed(part: Tensor, whole: Tensor, place: tuple[slice, slice]) -> Tensor:
    part = part.to(whole.dtype)
    if part.shape == whole.shape:
        return part
    found = torch.zeros_like(whole)
    found[place] = part
    return found


def dropped(x: Tensor, share: float, seed: int) -> Tensor:
    """Returns a random bool tensor in the shape of `x`, true for about `share` of the values, the same for the same seed.

    torch draws Bernoulli values one by one on a CPU, which takes as long as two large products; here 16 random bits a value
    are compared with a threshold.
    """
    if x.device.type != "cpu":
        generator = torch.Generator(x.device).manual_seed(seed)
        return torch.rand(x.shape, device=x.device, generator=generator) < share
    count = x.numel()
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 1 << 64, -(-count // 4), dtype=np.uint64)
    bits = torch.from_numpy(words.view(np.int16)[:count])
    return (bits < round(share * 65536) - 32768).view(x.shape)

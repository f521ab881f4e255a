"""Cross entropy of the head at labelled positions alone, in pieces: logits are never held for all tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from deepwell.tuning.train.forward.layout import unit_of

__all__ = ["PIECE", "head_logprobs", "head_loss"]

PIECE: Final = 256
"""Positions at a time: 25 MB of bf16 logits with 49,152 tokens. Fewer make the product slower, more only take memory."""


_LEAST: Final = 1e-30


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the summed cross entropy and, without a gradient, how many targets are a likeliest token.

    Args:
        hidden: normalised states at the positions that predict, [labelled, width].
        weight: frozen head, [vocabulary, width].
        targets: int64 [labelled].
    """
    return _HeadLoss.apply(hidden, weight, targets)  # pyright: ignore[reportReturnType]


def head_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Returns the log-probability of every target, float32 [labelled], with the gradient of each by itself.

    Args:
        hidden: normalised states at the positions that predict, [labelled, width].
        weight: frozen head, [vocabulary, width].
        targets: int64 [labelled].
    """
    return _HeadLogprobs.apply(hidden, weight, targets)  # pyright: ignore[reportReturnType]


class _HeadLogprobs(Function):
    """A row's gradient with respect to its own state waits in the size of `hidden`, as for the summed loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for rows, found, _, slope in _pieces(hidden, weight, targets):
            losses[rows] = found
            if gradient is not None:
                gradient[rows] = (slope.to(weight.dtype) @ weight)[: len(found)]
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return -losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradient * -grad[:, None].to(gradient.dtype), None, None


class _HeadLoss(Function):
    """The gradient is computed with the loss, while a piece's logits are there, and waits in the size of `hidden`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        wanted = ctx.needs_input_grad[0]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        gradient = torch.empty_like(hidden) if wanted else None
        for rows, losses, right, slope in _pieces(hidden, weight, targets):
            total += losses.sum()
            correct += right
            if gradient is not None:
                gradient[rows] = (slope.to(weight.dtype) @ weight)[: len(losses)]
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None


def _pieces(
    hidden: Tensor, weight: Tensor, targets: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yields the rows of a piece and what `_piece` returns of them. The gradient is there until the next piece.

    Two buffers serve all pieces of all batches. As tensors of each pass they found no place between small ones that had stayed
    in the meantime, and the heap grew by 85 MB a step.
    """
    space, shares = _space(hidden.dtype, hidden.device, len(weight)).unbind()
    for start in range(0, len(hidden), PIECE):
        rows = slice(start, start + PIECE)
        count = len(targets[rows])
        spare = min(-count % unit_of(count), PIECE - count)  # products of few shapes: see `lay_out`
        states = F.pad(hidden[rows], (0, 0, 0, spare)) if spare else hidden[rows]
        logits = torch.mm(states, weight.t(), out=space[: count + spare])[:count]
        losses, right, slope = _piece(logits, targets[rows], shares[:count])
        if spare and slope.dtype == shares.dtype:
            slope = shares[: count + spare]
            slope[count:] = 0
        yield rows, losses, right, slope


@lru_cache(maxsize=1)
def _space(dtype: torch.dtype, device: torch.device, vocabulary: int) -> Tensor:
    return torch.empty(2, PIECE, vocabulary, dtype=dtype, device=device)


def _piece(logits: Tensor, targets: Tensor, space: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the loss of every row, the number of right predictions, and the gradient of the logits.

    The gradient is in `space` unless the logits are fp16.

    The softmax computes in fp32 and rounds its result to the dtype of the logits. Where the target is likelier than not, its
    loss is -log(1 - the others' sum): a rounded probability near 1 would lose it.
    """
    if logits.dtype == torch.float16:
        logits = logits.float()
    column = targets[:, None]
    p = torch.softmax(logits, -1, out=None if logits.dtype != space.dtype else space)
    chosen = p.gather(1, column).float()
    p.scatter_(1, column, 0)
    others = p.sum(
        -1, keepdim=True
    ).float()  # accumulated in fp32; asking for an fp32 result takes ten times as long
    loss = torch.where(others < 0.5, -torch.log1p(-others.clamp(max=0.5)), -chosen.log())[:, 0]
    lost = chosen[:, 0] < _LEAST
    if lost.any():  # the probability has lost digits, or has become 0
        loss[lost] = F.cross_entropy(logits[lost].float(), targets[lost], reduction="none")
    right = (chosen[:, 0] >= _largest(p)).sum()
    p.scatter_(1, column, -others.to(p.dtype))
    return loss, right, p


def _largest(p: Tensor) -> Tensor:
    """Returns the largest probability of each row. Positive bf16 values have the order of their bits, which compare faster."""
    if p.dtype == torch.bfloat16 and p.device.type == "cpu":
        return p.view(torch.int16).amax(-1).view(torch.bfloat16).float()
    return p.amax(-1)

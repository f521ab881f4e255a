"""Recovery of a pruned model: it learns the donor's distributions on calibration text, for a bounded time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from deepwell.errors import InvalidRequest
from deepwell.tuning.compress.training.layers import final_states
from deepwell.tuning.compress.training.mixtures import masked
from deepwell.tuning.train.loop import processor_is_fast_at_bf16

__all__ = ["Heads", "Recovery", "distil", "keep_gates"]

_PIECE: Final = 64
"""Positions whose logits are held at a time."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """A recovery.

    Attributes:
        minutes: most time that it takes; windows repeat when they end earlier.
        rate: learning rate at its highest.
        batch: windows of a step.
        tokens: most tokens that it sees; None: as many as there is time for.

    Raises:
        InvalidRequest: the minutes are none.
    """

    minutes: float
    rate: float = 2e-4
    batch: int = 2
    seed: int = 0
    tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise InvalidRequest.of("compress_minutes", param="minutes", minutes=f"{self.minutes:g}")

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as plain JSON values."""
        return asdict(self)


def distil(
    model: Any,
    donor: Any,
    windows: Tensor,
    how: Recovery,
    *,
    progress: Callable[[float, float], None] = lambda share, divergence: None,
) -> int:
    """Trains a model towards the donor's distribution of the next token, and returns the tokens seen.

    The embedding and the head stay as they are: the donor's head reads what the layers that are trained write. Gates of
    experts stay too, see `keep_gates`.

    Args:
        windows: text, int64 [windows, tokens]; none of it may be measured later.
        progress: takes the share of the time that is over, and the divergence of the step.
    """
    with masked(model):
        seen = _taught(model, donor, windows, how, progress)
    model.eval().requires_grad_(False)
    return seen


def _taught(
    model: Any, donor: Any, windows: Tensor, how: Recovery, progress: Callable[[float, float], None]
) -> int:
    model.train().requires_grad_(True)
    for kept in (model.get_input_embeddings(), model.get_output_embeddings()):
        kept.requires_grad_(False)
    keep_gates(model)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=how.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(how.seed)
    fast = processor_is_fast_at_bf16()
    heads = Heads.of(model, donor, torch.bfloat16 if fast else torch.float32)
    begin, seen, order = time.monotonic(), 0, torch.empty(0, dtype=torch.int64)
    over = 0.0
    while over < 1:
        if len(order) < how.batch:
            order = torch.cat([order, torch.randperm(len(windows), generator=generator)])
        part, order = windows[order[: how.batch]], order[how.batch :]
        # A tenth of the time warms up, and the rate falls to nothing at the end.
        factor = min(1.0, (over + 0.01) / 0.1) * min(1.0, (1 - over) / 0.9)
        for group in optimizer.param_groups:
            group["lr"] = how.rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            loss = _step(model, donor, heads, part)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += part.numel()
        over = (time.monotonic() - begin) / (60 * how.minutes)
        if how.tokens is not None:
            over = max(over, seen / how.tokens)
        progress(min(1.0, over), loss)
    return seen


def keep_gates(model: Any) -> None:
    """Keeps the gates of DeepSeek-V3's mixtures from being trained, and computes their scores in float32 under autocast.

    Converted mixtures choose by scores that differ little, see `convert.router`: bf16 does not tell them apart, and one step of
    training would mix them up.
    """
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):
            module.requires_grad_(False)
            if "forward" not in vars(module):
                module.forward = torch.autocast("cpu", enabled=False)(module.forward)


@dataclass(frozen=True)
class Heads:
    """Heads of the model and of the donor, [vocab, width], in the format of products, and room for logits of a piece."""

    ours: Tensor
    theirs: Tensor
    logits: Tensor  # [2, positions, vocab], float32

    @classmethod
    def of(cls, model: Any, donor: Any, dtype: torch.dtype) -> Heads:
        """Returns the heads of two models; one copy where they are equal."""
        ours, theirs = model.lm_head.weight.detach(), donor.lm_head.weight.detach()
        first = ours.to(dtype)
        second = first if ours.shape == theirs.shape and torch.equal(ours, theirs) else theirs.to(dtype)
        return cls(first, second, torch.empty(2, _PIECE, len(first)))

    def gradient(self, states: Tensor, donor: Tensor) -> tuple[Tensor, float]:
        """Returns the gradient of the sum of divergences by states, [positions, width], and that sum.

        By the logits of the model it is the difference of both distributions. Logits are written into room that is had already:
        new memory for them costs as much time as the products.
        """
        gradient, total = torch.empty_like(states, dtype=torch.float32), 0.0
        for place in range(0, len(states), _PIECE):
            rows = states[place : place + _PIECE].to(self.ours.dtype)
            wanted = donor[place : place + _PIECE].to(self.theirs.dtype)
            ours, theirs = self.logits[0, : len(rows)], self.logits[1, : len(rows)]
            ours.copy_(rows @ self.ours.T)
            theirs.copy_(wanted @ self.theirs.T)
            ours -= ours.logsumexp(1, keepdim=True)
            theirs -= theirs.logsumexp(1, keepdim=True)
            q = theirs.exp()
            total += float((q * theirs.sub_(ours)).sum())
            gradient[place : place + _PIECE] = ours.exp_().sub_(q).to(self.ours.dtype) @ self.ours
        return gradient, total


def _step(model: Any, donor: Any, heads: Heads, windows: Tensor) -> float:
    """Adds the gradients of the mean divergence of windows, and returns it."""
    with torch.inference_mode():
        theirs = final_states(donor, windows)[:, :-1].reshape(-1, donor.config.hidden_size)
    states = final_states(model, windows)[:, :-1].reshape(-1, model.config.hidden_size)
    with torch.inference_mode():
        gradient, total = heads.gradient(states.detach(), theirs)
    states.backward(gradient.clone().to(states.dtype) / len(states))
    return total / len(states)

"""Recovery of a pruned model: it learns the donor's distributions on calibration text, for a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepwell.tuning.compress.training.layers import final_states
from deepwell.tuning.train.loop import processor_is_fast_at_bf16

__all__ = ["Recovery", "distil", "keep_gates"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """A recovery.

    Attributes:
        minutes: most time that it takes; windows repeat when they end earlier.
        rate: learning rate at its highest.
        batch: windows of a step.
        tokens: most tokens that it sees; None: as many as there is time for.
    """

    minutes: float
    rate: float = 2e-4
    batch: int = 4
    seed: int = 0
    tokens: int | None = None

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
    """Trains the weights of a model towards the donor's distribution of the next token, and returns the tokens seen.

    Gates of experts stay as they are, see `keep_gates`; everything else is trained.

    Args:
        windows: text, int64 [windows, tokens]; none of it may be measured later.
        progress: takes the share of the time that is over, and the divergence of the step.
    """
    model.train().requires_grad_(True)
    keep_gates(model)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=how.rate, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(how.seed)
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
        with torch.autocast("cpu", torch.bfloat16, enabled=processor_is_fast_at_bf16()):
            loss = _step(model, donor, part)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += part.numel()
        over = (time.monotonic() - begin) / (60 * how.minutes)
        if how.tokens is not None:
            over = max(over, seen / how.tokens)
        progress(min(1.0, over), loss)
    model.eval().requires_grad_(False)
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


def _step(model: Any, donor: Any, windows: Tensor) -> float:
    """Adds the gradients of the mean divergence of windows, in pieces of logits, and returns it."""
    with torch.inference_mode():
        theirs = final_states(donor, windows)[:, :-1].reshape(-1, donor.config.hidden_size).clone()
    states = final_states(model, windows)[:, :-1].reshape(-1, model.config.hidden_size)
    cut = states.detach().requires_grad_(True)
    total = 0.0
    for rows, wanted in zip(cut.split(256), theirs.split(256), strict=True):
        with torch.no_grad():
            target = F.log_softmax(donor.lm_head(wanted).float(), 1)
        found = F.log_softmax(model.lm_head(rows).float(), 1)
        loss = F.kl_div(found, target, reduction="sum", log_target=True) / len(cut)
        loss.backward()
        total += float(loss.detach())
    states.backward(cut.grad)
    return total

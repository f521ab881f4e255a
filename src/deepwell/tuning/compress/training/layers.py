"""A model of transformers as layers that can be left out, and what it predicts on windows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Predictions", "cross_entropy", "final_states", "first_states", "next_states", "predictions"]

PIECE: Final = 256
"""Positions whose logits are held at a time."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of a model at each position but the last of every window.

    Attributes:
        losses: cross entropy of the token that follows, float32 [positions].
        agreed: share of positions with the donor's likeliest token.
        divergence: mean of KL(donor || model).
    """

    losses: Tensor
    agreed: float
    divergence: float

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return float(self.losses.mean())


def first_states(model: Any, windows: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Returns the embedded tokens of windows, int64 [windows, tokens], and the rotary factors that every layer takes."""
    states = model.model.embed_tokens(windows)
    positions = torch.arange(windows.shape[1])[None]
    return states, model.model.rotary_emb(states, positions)


def next_states(layer: Any, states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Returns the output of one layer; without a mask its attention is causal."""
    found = layer(states, attention_mask=None, position_embeddings=rotary)
    return found[0] if isinstance(found, tuple) else found


def final_states(model: Any, windows: Tensor) -> Tensor:
    """Returns the normalised states behind the last layer."""
    states, rotary = first_states(model, windows)
    for layer in model.model.layers:
        states = next_states(layer, states, rotary)
    return model.model.norm(states)


def cross_entropy(model: Any, states: Tensor, windows: Tensor) -> float:
    """Returns the mean cross entropy of windows by normalised states."""
    total = sum(
        float(F.cross_entropy(logits, targets, reduction="sum"))
        for logits, targets in _logits(model, states, windows)
    )
    return total / windows[:, 1:].numel()


def predictions(
    model: Any,
    windows: Tensor,
    donor: Any = None,
    *,
    states: Tensor | None = None,
    batch: int = 4,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Predictions:
    """Returns what a model predicts on windows, and how far that is from a donor; without one they are 1 and 0.

    Args:
        states: the donor's `final_states` of the windows, where they are had already.
        progress: takes the tokens of a batch.
    """
    losses: list[Tensor] = []
    agreed = divergence = 0.0
    with torch.inference_mode():
        for number, part in enumerate(windows.split(batch)):
            others: Iterator[tuple[Tensor, Tensor]] = iter(())
            if donor is not None:
                had = final_states(donor, part) if states is None else states.split(batch)[number]
                others = _logits(donor, had, part)
            for logits, targets in _logits(model, final_states(model, part), part):
                losses.append(F.cross_entropy(logits, targets, reduction="none"))
                if donor is None:
                    continue
                theirs, _ = next(others)
                agreed += float((theirs.argmax(1) == logits.argmax(1)).sum())
                divergence += float(_divergence(theirs, logits).sum())
            progress(part.numel())
    count = windows[:, 1:].numel()
    if donor is None:
        return Predictions(torch.cat(losses), 1.0, 0.0)
    return Predictions(torch.cat(losses), agreed / count, divergence / count)


def _divergence(donor: Tensor, logits: Tensor) -> Tensor:
    theirs = F.log_softmax(donor, 1)
    return (theirs.exp() * (theirs - F.log_softmax(logits, 1))).sum(1)


def _logits(model: Any, states: Tensor, windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the logits of a piece of positions that have a next token, and those tokens."""
    width = states.shape[-1]
    flat, targets = states[:, :-1].reshape(-1, width), windows[:, 1:].reshape(-1)
    for rows, wanted in zip(flat.split(PIECE), targets.split(PIECE), strict=True):
        yield model.lm_head(rows).float(), wanted

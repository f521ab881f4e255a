"""`loss`: the forward pass of training, written out where the model allows it, of transformers elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepwell.tuning.train.batches import PADDING, Batch
from deepwell.tuning.train.forward.decoder import Decoder, Shard, base_of, decoder_of, unsupported
from deepwell.tuning.train.forward.head import head_loss
from deepwell.tuning.train.forward.layer import Step, run_layer
from deepwell.tuning.train.forward.layout import Layout, lay_out
from deepwell.tuning.train.forward.norm import rms_norm, rms_norm_backward

__all__ = ["Outcome", "loss", "outcome"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The result of a forward pass.

    Attributes:
        loss: summed cross entropy over the labelled tokens; it has the gradient.
        labelled: number of labelled tokens.
        correct: how many of them were a likeliest token.
    """

    loss: Tensor
    labelled: int
    correct: int


def loss(model: nn.Module, batch: Batch, *, checkpointing: bool = False) -> tuple[Tensor, int]:
    """Returns the summed cross entropy over the labelled tokens, and their number."""
    found = outcome(model, batch, checkpointing=checkpointing)
    return found.loss, found.labelled


def outcome(model: nn.Module, batch: Batch, *, checkpointing: bool = False) -> Outcome:
    """Runs the model on a batch. Adapters drop inputs only where the model is in training mode.

    Args:
        model: of transformers, with or without adapters of peft. Products are computed in the format of its frozen weights.
        checkpointing: whether a layer's activations are computed again in the backward pass. The forward pass of
            transformers has its own switch for that, and ignores this one.
    """
    if unsupported(model):
        return _plain(model, batch)
    decoder = decoder_of(model)
    layout = lay_out(batch, decoder.embedding.dtype, fill=True)
    with torch.autocast(batch.token_ids.device.type, enabled=False):
        total, correct = _written_out(decoder, layout, checkpointing=checkpointing, drop=model.training)
    return Outcome(total, len(layout.targets), int(correct))


def _written_out(
    decoder: Decoder, layout: Layout, *, checkpointing: bool, drop: bool
) -> tuple[Tensor, Tensor]:
    x = F.embedding(layout.token_ids, decoder.embedding.detach())
    cos, sin = decoder.rotary(x[None], layout.positions[None])
    cos, sin = cos[0, :, None], sin[0, :, None]
    # Drawn from torch's generator, so that a run which restores that draws the same again.
    seed = int(torch.randint(1 << 46, ())) if drop else None
    last = len(decoder.layers) - 1
    for layer in decoder.layers:
        rows = layout.predictors if layer.number == last else None
        x = run_layer(layer, x, Step(layout, cos, sin, seed, rows, checkpointing))
    hidden = _LastNorm.apply(x, decoder.norm, decoder.eps)
    if decoder.shard is None:
        return head_loss(hidden, decoder.head, layout.targets)
    # Every process holds the head, and computes the loss of its share of the positions.
    shard = decoder.shard
    mine = torch.arange(shard.rank, len(layout.targets), shard.world, device=hidden.device)
    total, correct = head_loss(_Shared.apply(hidden, mine, shard), decoder.head, layout.targets[mine])
    return _Summed.apply(total, shard), _summed(correct, shard)


class _LastNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, scale = rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scale = ctx.saved_tensors
        return rms_norm_backward(grad, x, weight, scale, onto=None), None, None


class _Shared(torch.autograd.Function):
    """Some rows of a tensor that every process has; its gradient is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, shard: Shard) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.rows, ctx.shard, ctx.count = rows, shard, len(x)
        return x[rows]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        whole = grad.new_zeros(ctx.count, grad.shape[1]).index_copy_(0, ctx.rows, grad)
        ctx.shard.reduce(whole)
        return whole, None, None


class _Summed(torch.autograd.Function):
    """The sum over the processes, each of which goes back into its own part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shard: Shard) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _summed(x, shard)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None


def _summed(x: Tensor, shard: Shard) -> Tensor:
    total = x.clone()
    shard.reduce(total)
    return total


def _plain(model: nn.Module, batch: Batch) -> Outcome:
    """The forward pass of transformers, with the head at the labelled positions alone."""
    base: Any = base_of(model)
    seen = batch.segments[:, :, None] == batch.segments[:, None, :]
    # Padding attends to itself: a row of the mask without a key would give NaN.
    seen &= torch.ones_like(seen[0]).tril() & (batch.segments != PADDING)[:, None, :] | torch.eye(
        seen.shape[1], dtype=torch.bool, device=seen.device
    )
    mask = seen[:, None]
    if base.config._attn_implementation == "eager":  # it adds its mask to the scores
        dtype = base.get_input_embeddings().weight.dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
            ~mask, torch.finfo(dtype).min
        )
    states = base.model(
        input_ids=batch.token_ids,
        attention_mask=mask,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    hidden = states[:, :-1][batch.loss_mask[:, 1:]]
    targets = batch.token_ids[batch.loss_mask]
    head = base.get_output_embeddings()
    if not head.weight.requires_grad and head.bias is None and hidden.dtype == head.weight.dtype:
        total, correct = head_loss(hidden, head.weight, targets)
        return Outcome(total, len(targets), int(correct))
    return _plain_head(head, hidden, targets)


def _plain_head(head: nn.Module, hidden: Tensor, targets: Tensor) -> Outcome:
    """A head that is trained as well: pieces are computed again in the backward pass, so that one alone holds logits."""
    from torch.utils.checkpoint import checkpoint

    total = hidden.new_zeros((), dtype=torch.float32)
    correct = 0

    def piece(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states).float()
        return F.cross_entropy(logits, wanted, reduction="sum"), (logits.argmax(-1) == wanted).sum()

    for states, wanted in zip(hidden.split(256), targets.split(256), strict=True):
        part, right = checkpoint(piece, states, wanted, use_reentrant=False)  # pyright: ignore[reportGeneralTypeIssues]
        total = total + part
        correct += int(right)
    return Outcome(total, len(targets), correct)

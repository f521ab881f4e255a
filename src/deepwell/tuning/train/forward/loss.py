"""`loss`: the forward pass of training, written out where the model allows it, of transformers elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepwell.tuning.train.batches import PADDING, Batch
from deepwell.tuning.train.forward.decoder import (
    Decoder,
    Shard,
    base_of,
    decoder_of,
    unsupported,
    without_adapters,
)
from deepwell.tuning.train.forward.head import PIECE, head_logprobs, head_loss
from deepwell.tuning.train.forward.layer import Step, run_layer
from deepwell.tuning.train.forward.layout import Layout, lay_out, unit_of
from deepwell.tuning.train.forward.norm import rms_norm, rms_norm_backward

__all__ = ["Outcome", "logprobs", "loss", "outcome", "reference_logprobs", "states_and_logprobs"]


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


def logprobs(model: nn.Module, batch: Batch, *, checkpointing: bool = False) -> Tensor:
    """Returns the log-probability of every labelled token, float32 [labelled], in the order of `batch.loss_mask`.

    Each has its own gradient; adapters drop inputs only where the model is in training mode. Arguments are those of `outcome`.
    """
    if unsupported(model):
        return _plain_logprobs(model, batch)
    return _decoder_logprobs(decoder_of(model), batch, checkpointing=checkpointing, drop=model.training)


@torch.no_grad()
def reference_logprobs(model: nn.Module, batch: Batch) -> Tensor:
    """Returns `logprobs` of the model without its adapters and without a gradient: of the weights that training started from.

    Args:
        model: with adapters of peft. Other trained weights would be part of the reference, so they are refused.
    """
    if any(one.requires_grad for name, one in model.named_parameters() if "lora_" not in name):
        raise ValueError(
            "the reference is the model without its adapters, and weights of its own are trained"
        )
    if unsupported(model):
        wrapped: Any = model
        training = wrapped.training
        with wrapped.disable_adapter():
            found = _plain_logprobs(wrapped.eval(), batch)
        wrapped.train(training)
        return found
    return _decoder_logprobs(without_adapters(decoder_of(model)), batch, checkpointing=False, drop=False)


@torch.no_grad()
def states_and_logprobs(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns the normalised states in front of the labelled tokens, [labelled, width], with `logprobs`, bit for bit.

    Neither has a gradient, and nothing is dropped.
    """
    training = model.training
    model.eval()
    try:
        if unsupported(model):
            return _plain_states(model, batch)[0], _plain_logprobs(model, batch)
        decoder = decoder_of(model)
        layout = lay_out(batch, decoder.embedding.dtype)
        with torch.autocast(batch.token_ids.device.type, enabled=False):
            hidden = _states(decoder, layout, checkpointing=False, drop=False)
            return hidden, head_logprobs(hidden, decoder.head, layout.targets)
    finally:
        model.train(training)


def _decoder_logprobs(decoder: Decoder, batch: Batch, *, checkpointing: bool, drop: bool) -> Tensor:
    layout = lay_out(batch, decoder.embedding.dtype)
    with torch.autocast(batch.token_ids.device.type, enabled=False):
        hidden = _states(decoder, layout, checkpointing=checkpointing, drop=drop)
        return head_logprobs(hidden, decoder.head, layout.targets)


def _states(decoder: Decoder, layout: Layout, *, checkpointing: bool, drop: bool) -> Tensor:
    """Returns the normalised states in front of the labelled tokens, [labelled, width]."""
    x = F.embedding(layout.token_ids, decoder.embedding.detach())
    cos, sin = decoder.rotary(x[None], layout.positions[None])
    cos, sin = cos[0, :, None], sin[0, :, None]
    # Drawn from torch's generator, so that a run which restores that draws the same again.
    seed = int(torch.randint(1 << 46, ())) if drop else None
    last = len(decoder.layers) - 1
    wanted = _with_others(layout.predictors, len(layout.token_ids))
    for layer in decoder.layers:
        rows = wanted if layer.number == last else None
        x = run_layer(layer, x, Step(layout, cos, sin, seed, rows, checkpointing))
    return _LastNorm.apply(x, decoder.norm, decoder.eps)[: len(layout.predictors)]  # pyright: ignore[reportIndexIssue]


def _with_others(rows: Tensor, tokens: int) -> Tensor:
    """Returns rows with others behind them, none twice, up to a number that is one of few; see `lay_out`."""
    count = min(-len(rows) % unit_of(len(rows)), tokens - len(rows))
    others = torch.ones(tokens, dtype=torch.bool, device=rows.device)
    others[rows] = False
    return torch.cat([rows, others.nonzero()[:count, 0]])


def _written_out(
    decoder: Decoder, layout: Layout, *, checkpointing: bool, drop: bool
) -> tuple[Tensor, Tensor]:
    hidden = _states(decoder, layout, checkpointing=checkpointing, drop=drop)
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
    hidden, targets, head = _plain_states(model, batch)
    if not head.weight.requires_grad and head.bias is None and hidden.dtype == head.weight.dtype:
        total, correct = head_loss(hidden, head.weight, targets)
        return Outcome(total, len(targets), int(correct))
    return _plain_head(head, hidden, targets)


def _plain_logprobs(model: nn.Module, batch: Batch) -> Tensor:
    hidden, targets, head = _plain_states(model, batch)
    if not head.weight.requires_grad and head.bias is None and hidden.dtype == head.weight.dtype:
        return head_logprobs(hidden, head.weight, targets)
    from torch.utils.checkpoint import checkpoint

    def piece(states: Tensor, wanted: Tensor) -> Tensor:
        return -F.cross_entropy(head(states).float(), wanted, reduction="none")

    pairs = zip(hidden.split(PIECE), targets.split(PIECE), strict=True)
    parts = [checkpoint(piece, states, wanted, use_reentrant=False) for states, wanted in pairs]
    return torch.cat(parts)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _plain_states(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Any]:
    """Returns the states in front of the labelled tokens, these tokens, and the head."""
    base: Any = base_of(model)
    if base.config.model_type == "deepseek_v4":
        states = _states_by_segment(base, batch)
        return (
            states[:, :-1][batch.loss_mask[:, 1:]],
            batch.token_ids[batch.loss_mask],
            base.get_output_embeddings(),
        )
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
    return hidden, targets, base.get_output_embeddings()


def _states_by_segment(base: Any, batch: Batch) -> Tensor:
    """Returns the states of every row, computed segment by segment: entries of several tokens would mix two of them."""
    rows: list[Tensor] = []
    for tokens, segments in zip(batch.token_ids, batch.segments, strict=True):
        _, counts = torch.unique_consecutive(segments, return_counts=True)
        parts = tokens.split(counts.tolist())
        rows.append(
            torch.cat([base.model(part[None], use_cache=False).last_hidden_state[0] for part in parts])
        )
    return torch.stack(rows)


def _plain_head(head: nn.Module, hidden: Tensor, targets: Tensor) -> Outcome:
    """A head that is trained as well: pieces are computed again in the backward pass, so that one alone holds logits."""
    from torch.utils.checkpoint import checkpoint

    total = hidden.new_zeros((), dtype=torch.float32)
    correct = 0

    def piece(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states).float()
        return F.cross_entropy(logits, wanted, reduction="sum"), (logits.argmax(-1) == wanted).sum()

    for states, wanted in zip(hidden.split(PIECE), targets.split(PIECE), strict=True):
        part, right = checkpoint(piece, states, wanted, use_reentrant=False)  # pyright: ignore[reportGeneralTypeIssues]
        total = total + part
        correct += int(right)
    return Outcome(total, len(targets), correct)

"""A decoder layer whose backward pass is written out: it saves little, and adds gradients of the residual stream in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from deepwell.tuning.train.forward.adapters import Group, GroupState
from deepwell.tuning.train.forward.attention import (
    attend,
    attend_backward,
    by_key_head,
    by_token,
    rotate,
)
from deepwell.tuning.train.forward.layout import Layout
from deepwell.tuning.train.forward.norm import rms_norm, rms_norm_backward

__all__ = ["Layer", "Step", "run_layer"]

KEPT_REACH = 640
"""Probabilities of the attention are kept up to so many a query and head, else computed again, which takes
time for a sixth of the step on segments of 1,024 tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Weights and shapes of a layer in the form of Llama, Qwen2 or Qwen3.

    Attributes:
        number: from 0.
        qkv, out, gate_up, down: its projections.
        norms: weights in front of the attention and of the MLP.
        head_norms: weights for queries and keys (Qwen3), or None.
        heads, kv_heads, head_dim: of this process.
        reduce: sums a tensor over the processes that share the layer, in place; None for one process.
    """

    number: int
    qkv: Group
    out: Group
    gate_up: Group
    down: Group
    norms: tuple[Tensor, Tensor]
    head_norms: tuple[Tensor, Tensor] | None
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    scaling: float
    reduce: Callable[[Tensor], None] | None = None

    @property
    def trained(self) -> list[Tensor]:
        """The adapters' parameters, in order."""
        return [*self.qkv.trained, *self.out.trained, *self.gate_up.trained, *self.down.trained]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The state that the layers of one forward pass share.

    Attributes:
        cos, sin: [tokens, 1, head_dim].
        seed: of the dropout, another in each layer; None: nothing is dropped.
        rows: tokens whose output is wanted; None: all.
        checkpointing: whether the backward pass computes the layer again from its input.
    """

    layout: Layout
    cos: Tensor
    sin: Tensor
    seed: int | None
    rows: Tensor | None
    checkpointing: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Attention:
    """State of the attention: its inputs by key head, its probabilities, and queries and keys in front of their norms."""

    heads: tuple[Tensor, Tensor, Tensor]
    kept: list[Tensor]
    unturned: Tensor | None
    head_scales: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """State of a layer: the inputs of its two norms with their scales, of the attention, of the activation, of the adapters."""

    x: Tensor
    scale: Tensor
    attention: _Attention
    middle: Tensor
    middle_scale: Tensor
    gated: Tensor
    adapters: tuple[GroupState | None, GroupState | None, GroupState | None, GroupState | None]


def run_layer(layer: Layer, x: Tensor, step: Step) -> Tensor:
    """Returns the layer's output, [tokens, width], or that of `step.rows`."""
    return _LayerFunction.apply(layer, step, x, *layer.trained)  # pyright: ignore[reportReturnType]


class _LayerFunction(Function):
    @staticmethod
    def forward(ctx: Any, layer: Layer, step: Step, x: Tensor, *trained: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, state = _forward(layer, x, step)
        if any(ctx.needs_input_grad):
            ctx.layer, ctx.step = layer, step
            ctx.state = x if step.checkpointing else state
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        state = ctx.state
        if ctx.step.checkpointing:
            state = _forward(ctx.layer, state, ctx.step)[1]
        ctx.state = None
        x_grad, grads = _backward(ctx.layer, grad, state, ctx.step, wanted=ctx.needs_input_grad[2])
        return None, None, x_grad, *grads


def _forward(layer: Layer, x: Tensor, step: Step) -> tuple[Tensor, _State]:
    normed, scale = rms_norm(x, layer.norms[0], layer.eps)
    qkv, qkv_state = layer.qkv.forward(normed, _seed(layer, step, 0))
    del normed
    heads = qkv.view(len(x), -1, layer.head_dim)
    turned = layer.heads + layer.kv_heads
    pair, unturned, head_scales = heads[:, :turned], None, None
    if layer.head_norms:
        unturned = pair
        pair, head_scales = _norm_heads(pair, layer)
    pair = rotate(pair, step.cos, step.sin)
    q = by_key_head(pair[:, : layer.heads], layer.kv_heads).mul_(layer.scaling)
    k = by_key_head(pair[:, layer.heads :], layer.kv_heads).squeeze(2)
    v = by_key_head(heads[:, turned:], layer.kv_heads).squeeze(2)
    keep = not step.checkpointing and step.layout.mean_reach <= KEPT_REACH
    mixed, kept = attend(q, k, v, step.layout.tiles, keep=keep)
    mixed = by_token(mixed).flatten(1)
    residual = x
    if step.rows is not None:
        mixed, residual = mixed[step.rows], x[step.rows]
    middle, out_state = layer.out.forward(mixed, _seed(layer, step, 1))
    if layer.reduce:
        layer.reduce(middle)
    middle += residual
    normed, middle_scale = rms_norm(middle, layer.norms[1], layer.eps)
    gated, gate_up_state = layer.gate_up.forward(normed, _seed(layer, step, 2))
    gate, up = gated.chunk(2, -1)
    y, down_state = layer.down.forward(F.silu(gate).mul_(up), _seed(layer, step, 3))
    if layer.reduce:
        layer.reduce(y)
    y += middle
    attention = _Attention((q, k, v), kept, unturned, head_scales)
    adapters = (qkv_state, out_state, gate_up_state, down_state)
    state = _State(x, scale, attention, middle, middle_scale, gated, adapters)
    return y, state


def _backward(
    layer: Layer, grad: Tensor, state: _State, step: Step, *, wanted: bool
) -> tuple[Tensor | None, list[Tensor]]:
    qkv_state, out_state, gate_up_state, down_state = state.adapters
    act_grad, down_grads = layer.down.backward(grad, down_state, wanted=True)
    assert act_grad is not None
    gate, up = state.gated.chunk(2, -1)
    gated_grad = torch.empty_like(state.gated)
    gate_grad, up_grad = gated_grad.chunk(2, -1)
    torch.mul(F.silu(gate), act_grad, out=up_grad)
    act_grad *= up
    torch.ops.aten.silu_backward.grad_input(act_grad, gate, grad_input=gate_grad)
    del act_grad
    normed_grad, gate_up_grads = layer.gate_up.backward(gated_grad, gate_up_state, wanted=True)
    assert normed_grad is not None
    if layer.reduce:
        layer.reduce(normed_grad)
    grad = rms_norm_backward(normed_grad, state.middle, layer.norms[1], state.middle_scale, onto=grad)
    mixed_grad, out_grads = layer.out.backward(grad, out_state, wanted=True)
    assert mixed_grad is not None
    if step.rows is not None:
        mixed_grad = _spread(mixed_grad, step.rows, len(state.x))
        grad = _spread(grad, step.rows, len(state.x)) if wanted else grad
    qkv_grad = _attention_backward(layer, mixed_grad, state.attention, step)
    normed_grad, qkv_grads = layer.qkv.backward(qkv_grad, qkv_state, wanted=wanted)
    grads = [*qkv_grads, *out_grads, *gate_up_grads, *down_grads]
    if normed_grad is None:
        return None, grads
    if layer.reduce:
        layer.reduce(normed_grad)
    return rms_norm_backward(normed_grad, state.x, layer.norms[0], state.scale, onto=grad), grads


def _attention_backward(layer: Layer, mixed_grad: Tensor, state: _Attention, step: Step) -> Tensor:
    """Returns the gradient of the packed queries, keys and values."""
    mixed_grad = by_key_head(mixed_grad.view(len(mixed_grad), layer.heads, layer.head_dim), layer.kv_heads)
    q_grad, k_grad, v_grad = attend_backward(mixed_grad, *state.heads, step.layout.tiles, state.kept)
    pair = torch.cat([by_token(q_grad.mul_(layer.scaling)), k_grad.transpose(0, 1)], 1)
    pair = rotate(pair, step.cos, step.sin, back=True)
    if layer.head_norms and state.unturned is not None and state.head_scales:
        pair = _norm_heads_backward(pair, layer, state.unturned, state.head_scales)
    return torch.cat([pair, v_grad.transpose(0, 1)], 1).flatten(1)


def _norm_heads(pair: Tensor, layer: Layer) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    assert layer.head_norms
    found, scales = [], []
    for part, weight in zip(_split(pair, layer), layer.head_norms, strict=True):
        flat, scale = rms_norm(part.reshape(-1, layer.head_dim), weight, layer.eps)
        found.append(flat.view(part.shape))
        scales.append(scale)
    return torch.cat(found, 1), (scales[0], scales[1])


def _norm_heads_backward(
    grad: Tensor, layer: Layer, unturned: Tensor, scales: tuple[Tensor, Tensor]
) -> Tensor:
    assert layer.head_norms
    found = []
    parts = zip(_split(grad, layer), _split(unturned, layer), layer.head_norms, scales, strict=True)
    for part, x, weight, scale in parts:
        flat = x.reshape(-1, layer.head_dim)
        slope = rms_norm_backward(part.reshape(flat.shape), flat, weight, scale, onto=None)
        found.append(slope.view(part.shape))
    return torch.cat(found, 1)


def _split(pair: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    return pair[:, : layer.heads], pair[:, layer.heads :]


def _spread(values: Tensor, rows: Tensor, count: int) -> Tensor:
    return values.new_zeros(count, values.shape[1]).index_copy_(0, rows, values)


def _seed(layer: Layer, step: Step, place: int) -> int | None:
    return None if step.seed is None else (step.seed << 16) + 4 * layer.number + place

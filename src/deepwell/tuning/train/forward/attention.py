"""Causal attention within segments, by tiles of queries: products of matrices without a mask of tokens x tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepwell.tuning.train.forward.layout import Tile

__all__ = ["attend", "attend_backward", "rotate"]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """Returns heads turned by their positions (rotary embedding, arXiv 2104.09864); `back` turns gradients the other way.

    Args:
        x: [tokens, heads, head_dim].
        cos: [tokens, 1, head_dim], both halves alike; `sin` too.
    """
    half = x.shape[-1] // 2
    turned = x * cos
    sign = -1 if back else 1
    turned[..., :half].addcmul_(x[..., half:], sin[..., half:], value=-sign)
    turned[..., half:].addcmul_(x[..., :half], sin[..., :half], value=sign)
    return turned


def attend(
    q: Tensor, k: Tensor, v: Tensor, tiles: Sequence[Tile], scale: float, *, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """Returns [tokens, heads, head_dim], and with `keep` the probabilities of every tile.

    Args:
        q: [tokens, heads, head_dim].
        k: [tokens, kv_heads, head_dim]; `v` likewise.
    """
    keys, values = k.transpose(0, 1), v.transpose(0, 1)
    out = torch.empty_like(q)
    kept: list[Tensor] = []
    for tile in tiles:
        queries = _gather(q, tile, len(keys))
        probabilities = _probabilities(queries, keys[:, tile.first_key : tile.end], tile.mask, scale)
        _scatter(out, torch.bmm(probabilities, values[:, tile.first_key : tile.end]), tile)
        if keep:
            kept.append(probabilities)
    return out, kept


def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Sequence[Tile],
    scale: float,
    kept: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k and v; probabilities that were not kept are computed again."""
    keys, values = k.transpose(0, 1), v.transpose(0, 1)
    grad_q = torch.empty_like(q)
    # Keys of a long segment get gradients from many tiles; sums of bf16 would round each time.
    grad_k = torch.zeros(keys.shape, dtype=torch.float32, device=k.device)
    grad_v = torch.zeros_like(grad_k)
    for number, tile in enumerate(tiles):
        span = slice(tile.first_key, tile.end)
        queries, gradient = _gather(q, tile, len(keys)), _gather(grad, tile, len(keys))
        p = kept[number] if kept else _probabilities(queries, keys[:, span], tile.mask, scale)
        grad_v[:, span] += torch.bmm(p.transpose(1, 2), gradient)
        grad_p = torch.bmm(gradient, values[:, span].transpose(1, 2))
        grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype).mul_(scale)  # pyright: ignore[reportPrivateUsage]
        _scatter(grad_q, torch.bmm(grad_s, keys[:, span]), tile)
        grad_k[:, span] += torch.bmm(grad_s.transpose(1, 2), queries)
    return grad_q, grad_k.transpose(0, 1).to(k.dtype), grad_v.transpose(0, 1).to(v.dtype)


def _probabilities(queries: Tensor, keys: Tensor, mask: Tensor, scale: float) -> Tensor:
    groups = queries.shape[1] // len(mask)
    added = mask.repeat(groups, 1).expand(len(queries), -1, -1)
    return torch.softmax(torch.baddbmm(added, queries, keys.transpose(1, 2), alpha=scale), -1)


def _gather(x: Tensor, tile: Tile, kv_heads: int) -> Tensor:
    """Returns the tile's queries by the key head that they read, [kv_heads, groups * queries, head_dim]."""
    count, heads, width = tile.end - tile.start, x.shape[1], x.shape[2]
    split = x[tile.start : tile.end].view(count, kv_heads, heads // kv_heads, width)
    return split.permute(1, 2, 0, 3).reshape(kv_heads, -1, width)


def _scatter(out: Tensor, values: Tensor, tile: Tile) -> None:
    count, heads, width = tile.end - tile.start, out.shape[1], out.shape[2]
    split = values.view(len(values), heads // len(values), count, width)
    out[tile.start : tile.end] = split.permute(2, 0, 1, 3).reshape(count, heads, width)

"""Causal attention within segments, by tiles of queries: products of matrices without a mask of tokens x tokens.

Heads that read the same keys lie beside each other, [kv_heads, tokens, groups, head_dim], so that a tile's queries of one key
head are the rows of one matrix, without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepwell.tuning.train.forward.layout import Tile

__all__ = ["attend", "attend_backward", "by_key_head", "by_token", "rotate"]

_ROUNDED_TILES = 8
"""Gradients of keys and values that more tiles add to are summed in fp32."""


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


def by_key_head(x: Tensor, kv_heads: int) -> Tensor:
    """Returns [kv_heads, tokens, groups, head_dim] of [tokens, heads, head_dim]."""
    split = x.unflatten(1, (kv_heads, x.shape[1] // kv_heads))
    return split.transpose(0, 1).contiguous()


def by_token(x: Tensor) -> Tensor:
    """Returns [tokens, heads, head_dim] of [kv_heads, tokens, groups, head_dim]."""
    return x.transpose(0, 1).flatten(1, 2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, tiles: Sequence[Tile], *, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """Returns the output in the shape of `q`, and with `keep` the probabilities of every tile.

    Args:
        q: scaled, [kv_heads, tokens, groups, head_dim]. Scaling queries is a pass over far fewer values than scaling scores.
        k: [kv_heads, tokens, head_dim]; `v` likewise.
    """
    out = torch.empty_like(q)
    kept: list[Tensor] = []
    for tile in tiles:
        probabilities = _probabilities(_rows(q, tile), k, tile)
        _rows(out, tile).copy_(torch.bmm(probabilities, v[:, tile.first_key : tile.end]))
        if keep:
            kept.append(probabilities)
    return out, kept


def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Sequence[Tile],
    kept: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k and v; probabilities that were not kept are computed again."""
    grad_q = torch.empty_like(q)
    longest = max(tile.end - tile.first_key for tile in tiles)
    wide = longest > _ROUNDED_TILES * (tiles[0].end - tiles[0].start)
    grad_k = torch.zeros(k.shape, dtype=torch.float32 if wide else k.dtype, device=k.device)
    grad_v = torch.zeros_like(grad_k)
    for number, tile in enumerate(tiles):
        span = slice(tile.first_key, tile.end)
        queries, gradient = _rows(q, tile), _rows(grad, tile)
        p = kept[number] if kept else _probabilities(queries, k, tile)
        _add_product(grad_v[:, span], p.transpose(1, 2), gradient)
        grad_p = torch.bmm(gradient, v[:, span].transpose(1, 2))
        grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)  # pyright: ignore[reportPrivateUsage]
        _rows(grad_q, tile).copy_(torch.bmm(grad_s, k[:, span]))
        _add_product(grad_k[:, span], grad_s.transpose(1, 2), queries)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total += torch.bmm(left, right)


def _probabilities(queries: Tensor, k: Tensor, tile: Tile) -> Tensor:
    keys = k[:, tile.first_key : tile.end]
    scores = torch.bmm(queries, keys.transpose(1, 2))
    count = tile.end - tile.start
    by_query = scores.view(len(k), count, -1, keys.shape[1])
    if tile.lead:
        by_query[..., : tile.lead] = -torch.inf
    by_query[..., tile.lead + tile.clear :] += tile.mask[:, None]
    return torch.softmax(scores, -1)


def _rows(x: Tensor, tile: Tile) -> Tensor:
    """Returns a view of the tile's queries, [kv_heads, queries * groups, head_dim]."""
    return x[:, tile.start : tile.end].flatten(1, 2)

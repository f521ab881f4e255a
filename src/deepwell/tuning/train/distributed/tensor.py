"""Tensor parallelism: each process keeps some key heads with the query heads that read them, and a part of the MLP.

Products by queries, keys, values, gate and up are divided by outputs, those by the output and down projections by inputs. So
a layer needs two sums over the processes in each direction (arXiv 1909.08053). Heads need not divide evenly.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from deepwell.errors import InvalidRequest
from deepwell.tuning.train.distributed.group import Group
from deepwell.tuning.train.forward.decoder import Part, Shard, base_of, unsupported

__all__ = ["shard_model", "span"]


def span(count: int, rank: int, world: int) -> tuple[int, int]:
    """Returns the first of `count` things that a process has, and the one behind its last; shares differ by one at most."""
    share, more = divmod(count, world)
    first = rank * share + min(rank, more)
    return first, first + share + (rank < more)


def shard_model(model: Any, group: Group) -> None:
    """Keeps this process's part of every projection, in place. Adapters stay whole; a process uses its part of them.

    Raises:
        InvalidRequest: the model has fewer key heads than there are processes, or another architecture.
    """
    if why := unsupported(model):
        raise InvalidRequest(
            f"the model's layers cannot be divided: {why}",
            fix="set train.strategy to ddp or fsdp2",
            param="train.strategy",
        )
    base: Any = base_of(model)
    config = base.config
    if config.num_key_value_heads < group.world:
        raise InvalidRequest(
            f"{group.world} processes cannot share {config.num_key_value_heads} key heads",
            fix=f"start {config.num_key_value_heads} processes or fewer, or set train.strategy to ddp",
            param="train.strategy",
        )
    for layer in base.model.layers:
        layer.deepwell_shard = _shard(layer, config, group)


def _shard(layer: Any, config: Any, group: Group) -> Shard:
    attention, mlp = layer.self_attn, layer.mlp
    first, last = span(config.num_key_value_heads, group.rank, group.world)
    width, queries = attention.head_dim, config.num_attention_heads // config.num_key_value_heads
    everything = slice(None)
    keys = slice(first * width, last * width)
    heads = slice(first * queries * width, last * queries * width)
    columns = slice(*span(config.intermediate_size, group.rank, group.world))
    parts = {
        attention.q_proj: Part(heads, everything),
        attention.k_proj: Part(keys, everything),
        attention.v_proj: Part(keys, everything),
        attention.o_proj: Part(everything, heads),
        mlp.gate_proj: Part(columns, everything),
        mlp.up_proj: Part(columns, everything),
        mlp.down_proj: Part(everything, columns),
    }
    with torch.no_grad():
        for module, part in parts.items():
            linear = module.get_base_layer() if hasattr(module, "lora_A") else module
            linear.weight.data = linear.weight.data[part.outputs, part.inputs].clone()
            if linear.bias is not None:
                bias = linear.bias.data[part.outputs].clone()
                # The outputs are summed over the processes, and the bias must count once.
                linear.bias.data = (
                    bias if part.inputs == everything or group.rank == 0 else torch.zeros_like(bias)
                )
    return Shard((first, last), parts, _reduce, group.rank, group.world)


def _reduce(tensor: Tensor) -> None:
    dist.all_reduce(tensor)

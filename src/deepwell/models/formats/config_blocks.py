"""Layers that differ, in the form of Nemotron-NAS: `block_configs` of a `config.json`, read and written.

A block says whether its layer has attention and an MLP, and how wide that is. Key heads are the same in every layer here.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any, Final, cast

from deepwell.errors import UnsupportedModel
from deepwell.models.formats.config import Block, ModelConfig
from deepwell.models.formats.config_fields import SUPPORTED, Fields

__all__ = ["blocks_json", "json_blocks"]

_OTHER_KINDS: Final = ("sparsify", "window_length", "num_sink_tokens")
_MULTIPLE: Final = 256  # to which the form rounds a width that is given as a factor
_MOST_WIDTH: Final = 1 << 20


def json_blocks(fields: Fields) -> dict[str, Any]:
    """Reads the fields of `ModelConfig` that layers which differ need.

    Raises:
        UnsupportedModel: a layer has a part that Deepwell does not run, or key heads differ.
        InvalidModelFile: missing or absurd values.
    """
    blocks: Any = fields.get("block_configs")
    if blocks is None:
        raise UnsupportedModel(f"{fields.where}: DeciLMForCausalLM without block_configs", fix=SUPPORTED)
    layers = fields.integer("num_hidden_layers")
    if not isinstance(blocks, list) or len(cast("list[Any]", blocks)) != layers:
        raise fields.error(f"block_configs is not a list of {layers} blocks")
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    found: list[Block] = []
    kv_heads: set[int] = set()
    for number, values in enumerate(cast("list[Any]", blocks)):
        where = f"{fields.where}: block {number}"
        if not isinstance(values, dict):
            raise fields.error(f"block {number} is not an object")
        block = Fields(cast("dict[str, Any]", values), where)
        attention, ffn = block.section("attention"), block.section("ffn")
        if attention is None or ffn is None:
            raise fields.error(f"block {number} lacks attention or ffn")
        for part in (attention, ffn):
            if part.boolean("replace_with_linear", False):
                raise UnsupportedModel(f"{part.where} is replaced by a matrix", fix=SUPPORTED)
            if (name := next((one for one in _OTHER_KINDS if part.get(one) is not None), None)) is not None:
                raise UnsupportedModel(f"{part.where} has {name}", fix=SUPPORTED)
        has_attention = not attention.boolean("no_op", False)
        if has_attention:
            group = attention.integer("n_heads_in_group")
            if group < 1 or heads % group:
                raise fields.error(f"block {number} groups {heads} heads by {group}")
            kv_heads.add(heads // group)
        width = 0 if ffn.boolean("no_op", False) else _width(ffn, hidden)
        found.append(Block(has_attention, width))
    if len(kv_heads) != 1:
        raise UnsupportedModel(
            f"{fields.where}: layers have {sorted(kv_heads)} key heads",
            fix="use a model with the same key heads in every layer that has attention",
        )
    widest = max(one.intermediate_size for one in found)
    if not widest:
        raise UnsupportedModel(f"{fields.where}: no layer has an MLP", fix=SUPPORTED)
    return {"blocks": tuple(found), "intermediate_size": widest, "num_key_value_heads": kv_heads.pop()}


def _width(ffn: Fields, hidden: int) -> int:
    width = ffn.integer("intermediate_size", 0)
    if not width:
        factor = ffn.number("ffn_mult", 0.0)
        if not 0 < factor < 1024:
            raise ffn.error(f"ffn_mult is {factor:g}")
        if not 0 < hidden <= _MOST_WIDTH:
            raise ffn.error(f"hidden_size is {reprlib.repr(hidden)}, expected 1 to {_MOST_WIDTH}")
        width = -(-int(2 * factor * hidden / 3) // _MULTIPLE) * _MULTIPLE
    if not 1 <= width <= _MOST_WIDTH:
        raise ffn.error(f"intermediate_size is {width}, expected 1 to {_MOST_WIDTH}")
    return width


def blocks_json(config: ModelConfig) -> dict[str, Any]:
    """Returns what a `config.json` has in place of one shape for all layers. Widths stand as numbers and as factors."""
    group = config.num_attention_heads // config.num_key_value_heads
    blocks = [
        {
            "attention": {
                "n_heads_in_group": group if block.attention else None,
                "no_op": not block.attention,
                "replace_with_linear": False,
            },
            "ffn": {
                "intermediate_size": block.intermediate_size or None,
                "ffn_mult": _factor(block.intermediate_size, config.hidden_size) or None,
                "no_op": not block.intermediate_size,
                "replace_with_linear": False,
            },
        }
        for block in config.blocks
    ]
    return {"architectures": ["DeciLMForCausalLM"], "model_type": "nemotron-nas", "block_configs": blocks}


def _factor(width: int, hidden: int) -> float:
    """Returns the factor whose product, rounded down, is the width."""
    factor = 3 * width / (2 * hidden)
    while int(2 * factor * hidden / 3) < width:
        factor = math.nextafter(factor, math.inf)
    return factor

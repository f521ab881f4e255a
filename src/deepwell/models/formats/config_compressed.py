"""Reads the hyperparameters of DeepSeek-V4: attention over entries, residual streams, experts chosen by tokens."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, cast

from deepwell.errors import UnsupportedModel
from deepwell.models.formats.config import (
    AttentionKind,
    Compression,
    HyperConnections,
    ModelConfig,
    RopeScaling,
)
from deepwell.models.formats.config_fields import SUPPORTED, Fields

__all__ = ["check_compressed", "json_compressed"]

ReadScaling = Callable[[Fields, ModelConfig], RopeScaling | None]
CheckScaling = Callable[[RopeScaling, Fields], None]
_KINDS: Final[dict[str, AttentionKind]] = {
    "sliding_attention": "sliding",
    "compressed_sparse_attention": "sparse",
    "heavily_compressed_attention": "heavy",
}
_BY_RATE: Final[dict[int, AttentionKind]] = {0: "sliding", 4: "sparse", 128: "heavy"}
_SPARSE_RATE, _HEAVY_RATE = 4, 128
_HASH_LAYERS: Final = 3
_ROPE_SHARE: Final = 8  # one dimension in so many is rotated, where no file says how many
# No model in use comes near these bounds. A configuration beyond them is corrupt or hostile.
_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "head_dim": (2, 1024),
    "q_lora_rank": (1, 1 << 14),
    "index_n_heads": (1, 256),
    "index_head_dim": (2, 256),
    "index_topk": (1, 1 << 20),
    "num_experts": (1, 1024),
    "num_shared_experts": (1, 64),
    "num_experts_per_tok": (1, 64),
    "moe_intermediate_size": (1, 1 << 17),
    "num_nextn_predict_layers": (0, 8),
}


def json_compressed(fields: Fields) -> dict[str, Any]:
    """Reads the fields of `ModelConfig` that other models lack, but for the rotation; see `with_rotation`."""
    head_dim = fields.integer("head_dim")
    low, high = _BOUNDS["head_dim"]
    if not low <= head_dim <= high:
        raise fields.error(f"head_dim is {reprlib.repr(head_dim)}, expected {low} to {high}")
    rope = fields.integer("qk_rope_head_dim", head_dim // _ROPE_SHARE)
    if fields.get("partial_rotary_factor") is not None:
        factor = fields.number("partial_rotary_factor", 0.0)
        if not 0.0 < factor <= 1.0:
            raise fields.error(f"partial_rotary_factor is {factor}, expected up to 1")
        rope = int(head_dim * factor)
    layers = fields.integer("num_hidden_layers")
    scoring = fields.text("scoring_func") or "sqrtsoftplus"
    if scoring != "sqrtsoftplus" or not fields.boolean("norm_topk_prob", True):
        raise UnsupportedModel(
            f"{fields.where}: experts are weighed by {reprlib.repr(scoring)} scores", fix=SUPPORTED
        )
    return {
        "head_dim": head_dim,
        "qk_rope_head_dim": rope,
        "num_key_value_heads": 1,
        "intermediate_size": fields.integer("moe_intermediate_size"),
        "q_lora_rank": fields.integer("q_lora_rank"),
        "index_n_heads": fields.integer("index_n_heads"),
        "index_head_dim": fields.integer("index_head_dim"),
        "index_topk": fields.integer("index_topk"),
        "num_experts": fields.integer("n_routed_experts"),
        "num_shared_experts": fields.integer("n_shared_experts", 1),
        "num_experts_per_tok": fields.integer("num_experts_per_tok"),
        "moe_intermediate_size": fields.integer("moe_intermediate_size"),
        "scoring_func": scoring,
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "routed_scaling_factor": fields.number("routed_scaling_factor", 1.5),
        "num_nextn_predict_layers": fields.integer("num_nextn_predict_layers", 0),
        "hash_layers": _hash_layers(fields, layers),
        "swiglu_limit": fields.number("swiglu_limit", 10.0),
        "compression": Compression(
            kinds=_kinds(fields, layers),
            window=fields.integer("sliding_window", 128),
            sparse_rate=_rate(fields, "compressed_sparse_attention", _SPARSE_RATE),
            heavy_rate=_rate(fields, "heavily_compressed_attention", _HEAVY_RATE),
            rope_theta=fields.number("compress_rope_theta", 160_000.0),
            rope_scaling=None,
            o_groups=fields.integer("o_groups", 8),
            o_lora_rank=fields.integer("o_lora_rank", 1024),
        ),
        "hyper": HyperConnections(
            fields.integer("hc_mult", 4),
            fields.integer("hc_sinkhorn_iters", 20),
            fields.number("hc_eps", 1e-6),
        ),
    }


def with_rotation(config: ModelConfig, fields: Fields, read: ReadScaling, check: CheckScaling) -> ModelConfig:
    """Returns the configuration with the rotations of both kinds of layers; yarn never scales cosines here."""
    compression = config.compression
    if compression is None:
        raise ValueError("a model without entries")
    rope = fields.section("rope_parameters") or fields.section("rope_scaling")
    if rope is None:
        return config
    main, other = rope.section("main"), rope.section("compress")
    theta, entries = config.rope_theta, other or rope
    if main is not None:
        theta = main.number("rope_theta", theta)
    of_entries = other.number("rope_theta", compression.rope_theta) if other else compression.rope_theta
    scaling = read(entries, config)
    if scaling is not None and scaling.kind == "yarn":
        scaling = replace(scaling, attention_factor=entries.number("attention_factor", 1.0))
    if scaling is not None:
        check(scaling, fields)
    changed = replace(compression, rope_theta=of_entries, rope_scaling=scaling)
    return replace(config, rope_theta=theta, compression=changed)


def check_compressed(config: ModelConfig, fields: Fields) -> None:
    """Refuses absurd values.

    Raises:
        InvalidModelFile: a value is out of bounds; the message names it and the expected range.
        UnsupportedModel: rates that do not divide blocks of the cache, or are not divided by them.
    """
    one, hyper = config.compression, config.hyper
    if one is None or hyper is None:
        return
    values: dict[str, tuple[float, float, float]] = {
        key: (getattr(config, key), low, high) for key, (low, high) in _BOUNDS.items()
    }
    values |= {
        "sliding_window": (one.window, 1, 1 << 20),
        "o_groups": (one.o_groups, 1, config.num_attention_heads),
        "o_lora_rank": (one.o_lora_rank, 1, 1 << 14),
        "hc_mult": (hyper.streams, 1, 8),
        "hc_sinkhorn_iters": (hyper.rounds, 1, 1000),
        "hc_eps": (hyper.eps, 0.0, 0.1),
        "num_attention_heads": (config.num_attention_heads, 1, 1024),
        "compress_rope_theta": (one.rope_theta, 1.001, 1e12),
        "swiglu_limit": (config.swiglu_limit, 1e-6, 1e6),
        "routed_scaling_factor": (config.routed_scaling_factor, 1e-6, 1e4),
        "qk_rope_head_dim": (config.qk_rope_head_dim, 2, min(config.head_dim, config.index_head_dim)),
    }
    for key, (value, low, high) in values.items():
        if not low <= value <= high:
            raise fields.error(f"{key} is {reprlib.repr(value)}, expected {low:g} to {high:g}")
    widest = max(one.o_groups * one.o_lora_rank, config.num_shared_experts * config.moe_intermediate_size)
    if widest > 1 << 20:
        raise fields.error(f"a matrix of {widest} columns, expected up to {1 << 20}")
    if config.num_attention_heads % one.o_groups:
        raise fields.error(f"{config.num_attention_heads} heads cannot be divided into {one.o_groups} groups")
    if config.num_experts_per_tok > config.num_experts:
        raise fields.error(f"{config.num_experts_per_tok} experts a token of {config.num_experts}")
    for rate in (one.sparse_rate, one.heavy_rate):
        if rate < 1 or (16 % rate and rate % 16) or rate > 1 << 16:
            raise UnsupportedModel(
                f"{fields.where}: entries of {rate} tokens",
                fix="rates that divide 16, or multiples of it, run",
            )


def _list(fields: Fields, key: str, layers: int) -> list[Any] | None:
    value = fields.get(key)
    if value is None:
        return None
    values = cast("list[Any]", value) if isinstance(value, list) else []
    if len(values) < layers:
        raise fields.error(f"{key} has {len(values)} values, not one for each of {layers} layers")
    return values[:layers]


def _kinds(fields: Fields, layers: int) -> tuple[AttentionKind, ...]:
    if not 0 < layers <= 1024:
        raise fields.error(f"num_hidden_layers is {layers}, expected 1 to 1024")
    names = _list(fields, "layer_types", layers)
    rates = _list(fields, "compress_ratios", layers) if names is None else None
    known: dict[Any, AttentionKind] = dict[Any, AttentionKind](_BY_RATE if names is None else _KINDS)
    if names is None and rates is None:
        return tuple("sparse" if i > 1 and i % 2 else "heavy" for i in range(layers))
    kinds: list[AttentionKind] = []
    for one in names if names is not None else rates or []:
        if not isinstance(one, str | int) or one not in known:
            raise fields.error(f"{reprlib.repr(one)} is no kind of attention")
        kinds.append(known[one])
    return tuple(kinds)


def _hash_layers(fields: Fields, layers: int) -> tuple[int, ...]:
    names = _list(fields, "mlp_layer_types", layers)
    if names is None:
        return tuple(range(min(layers, fields.integer("num_hash_layers", _HASH_LAYERS))))
    if not all(name in ("hash_moe", "moe") for name in names):
        raise fields.error(f"mlp_layer_types is {reprlib.repr(names)}, not a list of hash_moe and moe")
    return tuple(i for i, name in enumerate(names) if name == "hash_moe")


def _rate(fields: Fields, kind: str, default: int) -> int:
    rates = fields.section("compress_rates")
    legacy = "compress_rate_csa" if default == _SPARSE_RATE else "compress_rate_hca"
    return (
        (rates.integer(kind, default) if rates else default)
        if fields.get(legacy) is None
        else fields.integer(legacy)
    )

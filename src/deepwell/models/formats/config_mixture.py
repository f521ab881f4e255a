"""Reads the hyperparameters of latent attention, sparse attention and mixtures of experts, for `config_reader`."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Final, cast

from deepwell.errors import UnsupportedModel
from deepwell.models.formats.config import Architecture, ModelConfig
from deepwell.models.formats.config_fields import SUPPORTED, Fields
from deepwell.models.formats.gguf import GGUFHeader

__all__ = ["MAX_HEAD_DIM", "MAX_LATENT_RANK", "check_mixture", "gguf_mixture", "json_mixture"]

MAX_HEAD_DIM: Final = 256
MAX_LATENT_RANK: Final = 1024
"""Limits of the attention kernels, the latter as `kv_lora_rank`."""

# No model in use comes near these bounds. A configuration beyond them is corrupt or hostile.
_LATENT_BOUNDS: Final[dict[str, tuple[int, int]]] = {
    "q_lora_rank": (0, 1 << 14),
    "kv_lora_rank": (1, MAX_LATENT_RANK),
    "qk_nope_head_dim": (1, MAX_HEAD_DIM),
    "qk_rope_head_dim": (2, MAX_HEAD_DIM),
    "v_head_dim": (1, MAX_HEAD_DIM),
}
_INDEX_BOUNDS: Final[dict[str, tuple[int, int]]] = {
    "index_n_heads": (1, 256),
    "index_head_dim": (2, 256),
    "index_topk": (1, 1 << 20),
}
_MIXTURE_BOUNDS: Final[dict[str, tuple[int, int]]] = {
    "num_experts": (1, 1024),
    "num_shared_experts": (0, 64),
    "num_experts_per_tok": (1, 64),
    "moe_intermediate_size": (1, 1 << 17),
    "first_k_dense_replace": (0, 1024),
    "decoder_sparse_step": (1, 1024),
    "n_group": (1, 1024),
    "topk_group": (1, 1024),
    "num_nextn_predict_layers": (0, 8),
}
# expert_gating_func; 0 was written before there were two kinds.
_GATING: Final = {
    0: "softmax",
    1: "softmax",
    2: "sigmoid",
}
# Groups of experts, and how many are chosen, in files of converters that did not write them yet
# (https://github.com/ggml-org/llama.cpp/pull/16063), by layers, hidden size and experts: V2, V2.5, Coder-V2; V3, V3.1, R1.
_UNWRITTEN_GROUPS: Final = {(60, 5120, 160): (8, 3), (61, 7168, 256): (8, 4)}


def json_mixture(fields: Fields, architecture: Architecture) -> dict[str, Any]:
    """Reads the fields of `ModelConfig` that a dense model lacks from `config.json`; none for a dense architecture."""
    if architecture == "qwen3_moe":
        return _qwen3_moe(fields)
    if architecture not in ("deepseek_v2", "deepseek_v3", "deepseek_v32"):
        return {}
    if fields.boolean("attention_bias", False):
        raise UnsupportedModel(f"{fields.where}: latent attention with biases", fix=SUPPORTED)
    if fields.integer("moe_layer_freq", 1) != 1:
        raise UnsupportedModel(f"{fields.where}: moe_layer_freq is not 1", fix=SUPPORTED)
    v2 = architecture == "deepseek_v2"
    values = _latent(fields.integer("qk_nope_head_dim"), fields.integer("qk_rope_head_dim"))
    values |= {
        key: fields.integer(key)
        for key in ("kv_lora_rank", "v_head_dim", "num_experts_per_tok", "moe_intermediate_size")
    }
    values |= {
        "q_lora_rank": fields.integer("q_lora_rank", 0),
        "rope_interleave": fields.boolean("rope_interleave", True),
        "num_experts": _experts(fields, "n_routed_experts"),
        "num_shared_experts": fields.integer("n_shared_experts", 0),
        "first_k_dense_replace": fields.integer("first_k_dense_replace", 0 if v2 else 3),
        "n_group": fields.integer("n_group", 1),
        "topk_group": fields.integer("topk_group", 1),
        "norm_topk_prob": fields.boolean("norm_topk_prob", not v2),
        "routed_scaling_factor": fields.number("routed_scaling_factor", 1.0 if v2 else 2.5),
        "num_nextn_predict_layers": fields.integer("num_nextn_predict_layers", 0),
    }
    if architecture == "deepseek_v32":
        values |= {key: fields.integer(key) for key in _INDEX_BOUNDS}
        values |= _layer_types(fields)
    method = fields.text("topk_method") or ("greedy" if v2 else "noaux_tc")
    scoring = fields.text("scoring_func") or ("softmax" if v2 else "sigmoid")
    if (scoring, method) not in (
        (("softmax", "greedy"), ("softmax", "group_limited_greedy")) if v2 else (("sigmoid", "noaux_tc"),)
    ):
        raise UnsupportedModel(
            f"{fields.where}: experts are chosen by {reprlib.repr(method)} on {reprlib.repr(scoring)} scores",
            fix="V2 models choose by greedy or group_limited_greedy on softmax, V3 by noaux_tc on sigmoid",
        )
    values |= {"scoring_func": scoring, "topk_method": method}
    _refuse_scaled_norm(fields, values)
    return _grouped(values)


def gguf_mixture(fields: Fields, header: GGUFHeader) -> dict[str, Any]:
    """Reads the same fields from GGUF metadata, `deepseek2.*` or `qwen3moe.*`."""
    count = fields.integer("expert_count", 0)
    if fields.prefix == "qwen3moe.":
        return {
            "architecture": "qwen3_moe",
            "num_experts": count,
            "num_experts_per_tok": fields.integer("expert_used_count"),
            "moe_intermediate_size": fields.integer("expert_feed_forward_length"),
            "norm_topk_prob": fields.boolean("expert_weights_norm", True),  # converters leave it out
            "scoring_func": "softmax",
        }
    rope = fields.integer("rope.dimension_count")
    # Files with an absorbed kv_b give the lengths of the cached vectors here, and those of a head in the `_mla` keys.
    head_dim = fields.integer("attention.key_length_mla", fields.integer("attention.key_length"))
    gating = fields.integer("expert_gating_func", 0)
    if gating not in _GATING:
        raise UnsupportedModel(f"{fields.where}: expert_gating_func is {gating}", fix=SUPPORTED)
    corrected = any(name.endswith(".exp_probs_b.bias") for name in header.tensors)
    layers = fields.integer("block_count")
    groups, chosen = _UNWRITTEN_GROUPS.get((layers, fields.integer("embedding_length"), count), (1, 1))
    if fields.get("expert_group_count") is not None:
        groups, chosen = fields.integer("expert_group_count"), fields.integer("expert_group_used_count", 1)
    method = "noaux_tc" if corrected else "group_limited_greedy" if groups > 1 else "greedy"
    values = _latent(head_dim - rope, rope) | {
        "architecture": "deepseek_v3" if _GATING[gating] == "sigmoid" else "deepseek_v2",
        "q_lora_rank": fields.integer("attention.q_lora_rank", 0),
        "kv_lora_rank": fields.integer("attention.kv_lora_rank"),
        "v_head_dim": fields.integer("attention.value_length_mla", fields.integer("attention.value_length")),
        "num_experts": count,
        "num_shared_experts": fields.integer("expert_shared_count", 0),
        "num_experts_per_tok": fields.integer("expert_used_count"),
        "moe_intermediate_size": fields.integer("expert_feed_forward_length"),
        "first_k_dense_replace": fields.integer("leading_dense_block_count", 0),
        "n_group": groups,
        "topk_group": chosen,
        "norm_topk_prob": fields.boolean("expert_weights_norm", False),
        "routed_scaling_factor": float(f"{fields.number('expert_weights_scale', 1.0):.7g}"),  # float32
        "scoring_func": _GATING[gating],
        "topk_method": method,
    }
    _refuse_scaled_norm(fields, values)
    return _grouped(values)


def check_mixture(config: ModelConfig, fields: Fields) -> None:
    """Refuses absurd values.

    Raises:
        InvalidModelFile: a value is out of bounds; the message names it and the expected range.
    """
    bounds: dict[str, tuple[int, int]] = {}
    if config.is_latent or config.architecture.startswith("deepseek"):
        bounds |= _LATENT_BOUNDS
    if config.architecture == "deepseek_v32":
        bounds |= _INDEX_BOUNDS
    is_dense = config.is_encoder or config.architecture in ("llama", "qwen2", "qwen3")
    if config.num_experts or not is_dense:
        bounds |= _MIXTURE_BOUNDS
    for key, (low, high) in bounds.items():
        if not low <= (value := getattr(config, key)) <= high:
            raise fields.error(f"{key} is {value}, expected {low} to {high}")
    if not config.num_experts:
        return
    experts, groups, top_k = config.num_experts, config.n_group, config.num_experts_per_tok
    if experts % groups or config.topk_group > groups:
        raise fields.error(f"{experts} experts in {groups} groups, of which {config.topk_group} are chosen")
    if top_k > experts // groups * config.topk_group:
        raise fields.error(f"{top_k} experts a token, but {config.topk_group} groups hold fewer")
    if config.has_correction_bias and groups > 1 and experts // groups < 2:
        raise fields.error(f"groups of {experts // groups} expert have no two best scores")
    if not 0.0 < config.routed_scaling_factor <= 1e4:
        raise fields.error(f"routed_scaling_factor is {config.routed_scaling_factor}, expected up to 10000")
    if config.index_topk and config.index_head_dim < config.qk_rope_head_dim:
        raise fields.error(f"index_head_dim is {config.index_head_dim}, less than the rotated dimensions")
    if config.index_topk and not config.q_lora_rank:
        raise fields.error("q_lora_rank is 0, but the indexer reads the compressed query")


def _refuse_scaled_norm(fields: Fields, values: Mapping[str, Any]) -> None:
    """Refuses V2's `norm_topk_prob` where its implementations compute different weights.

    DeepSeek-V2's own code divides weights by their sum and then drops `routed_scaling_factor`. DeepSeek-VL2's, vLLM and
    llama.cpp multiply by it, and transformers does not divide. Without a factor all but the last agree on more than one expert.
    """
    if values["scoring_func"] != "softmax" or not values["norm_topk_prob"]:
        return
    if values["routed_scaling_factor"] != 1.0 or values["num_experts_per_tok"] == 1:
        raise UnsupportedModel.of("norm_topk_prob_scaled", where=fields.where)


def _latent(nope: int, rope: int) -> dict[str, Any]:
    return {"qk_nope_head_dim": nope, "qk_rope_head_dim": rope, "head_dim": nope + rope}


def _grouped(values: dict[str, Any]) -> dict[str, Any]:
    """Sets the groups to 1 for greedy choice, which ignores them."""
    return values | {"n_group": 1, "topk_group": 1} if values["topk_method"] == "greedy" else values


def _experts(fields: Fields, key: str) -> int:
    """Reads the number of experts, whose field transformers has renamed more than once."""
    for name in (key, "num_local_experts", "num_experts"):
        if fields.get(name) is not None:
            return fields.integer(name)
    return fields.integer(key)


def _list(fields: Fields, key: str) -> list[Any]:
    """Returns the items of a list; none if the list is missing."""
    value = fields.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise fields.error(f"{key} is {reprlib.repr(value)}, not a list")
    return cast("list[Any]", value)


def _layers(fields: Fields, key: str) -> tuple[int, ...]:
    layers = _list(fields, key)
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers):
        raise fields.error(f"{key} is {reprlib.repr(layers)}, not a list of layers")
    return tuple(layers)


def _layer_types(fields: Fields) -> dict[str, Any]:
    """Reads `mlp_layer_types`, if transformers wrote it."""
    names = _list(fields, "mlp_layer_types")
    if not all(name in ("dense", "sparse") for name in names):
        raise fields.error(f"mlp_layer_types is {reprlib.repr(names)}, not a list of dense and sparse")
    if not names:
        return {}
    return {
        "first_k_dense_replace": 0,
        "mlp_only_layers": tuple(i for i, name in enumerate(names) if name == "dense"),
    }


def _qwen3_moe(fields: Fields) -> dict[str, Any]:
    return {
        "num_experts": _experts(fields, "num_experts"),
        "num_experts_per_tok": fields.integer("num_experts_per_tok"),
        "moe_intermediate_size": fields.integer("moe_intermediate_size"),
        "decoder_sparse_step": fields.integer("decoder_sparse_step", 1),
        "mlp_only_layers": _layers(fields, "mlp_only_layers"),
        "norm_topk_prob": fields.boolean("norm_topk_prob", False),
        "scoring_func": "softmax",
    }

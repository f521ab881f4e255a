"""A GGUF file of random Q8_0 weights in a DeepSeek-V2 shape, for llama.cpp to run beside a packed model of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

__all__ = ["write_random_gguf"]

_POOL_BLOCKS: Final = 1 << 16
_CHUNK_BLOCKS: Final = 1 << 19  # 18 MB
_BLOCK: Final = 32  # weights of a Q8_0 block: float16 scale, 32 int8


def write_random_gguf(path: Path, config: Mapping[str, Any], *, seed: int = 0) -> None:
    """Writes a model of the `config.json` of DeepSeek-V2's kind, as llama.cpp's converter names things.

    llama.cpp takes queries without a low rank in models of 26 and 27 layers alone (V2-Lite): others need `q_lora_rank`.
    kv_b is stored in its two absorbed halves, as the converter does. There is no vocabulary: benchmarks feed token ids.
    """
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "deepseek2")
    _write_metadata(writer, config)
    shapes = _tensors(config)
    for name, shape in shapes.items():
        if _is_float(name):
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
        else:
            row_bytes = shape[-1] // _BLOCK * 34
            stored = (*shape[:-1], row_bytes)
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    hidden = config["hidden_size"]
    for name, shape in shapes.items():
        if _is_float(name):
            values = np.ones(shape, np.float32)
            if "norm" not in name:
                values = rng.standard_normal(shape, dtype=np.float32) * np.float32(hidden**-0.5)
            writer.write_tensor_data(values)
        else:
            writer.write_tensor_data(_q8_0(shape, rng))
    writer.close()
    part.rename(path)


def _is_float(name: str) -> bool:
    return "norm" in name or "gate_inp" in name


@cache
def _pool(cols: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pool = np.empty((_POOL_BLOCKS, 34), np.uint8)
    weights = np.random.default_rng(cols).standard_normal((_POOL_BLOCKS, _BLOCK), dtype=np.float32)
    weights *= np.float32(cols**-0.5)
    d = (np.abs(weights).max(axis=1) / 127).astype(np.float16)
    pool[:, :2] = d[:, None].view(np.uint8)
    q = np.rint(weights / d.astype(np.float32)[:, None]).clip(-127, 127)
    pool[:, 2:] = q.astype(np.int8).view(np.uint8)
    return pool


def _q8_0(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Returns blocks of Gaussian weights of deviation 1 / sqrt(cols), drawn from a pool."""
    pool = _pool(shape[-1])
    blocks = int(np.prod(shape)) // _BLOCK
    out = np.empty((blocks, 34), np.uint8)
    for first in range(0, blocks, _CHUNK_BLOCKS):
        part = out[first : first + _CHUNK_BLOCKS]
        np.take(pool, rng.integers(0, _POOL_BLOCKS, len(part)), axis=0, out=part)
    return out.reshape(*shape[:-1], -1)


def _write_metadata(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    scaling = config["rope_scaling"]
    writer.add_name("random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(1)  # absorbed: all heads share the latent
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(rope)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(scaling["factor"])
    writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_kv_lora_rank(rank)
    if config["q_lora_rank"]:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(nope + rope)
    writer.add_value_length_mla(value)
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
    writer.add_tokenizer_model("no_vocab")


def _query_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, rank = config["hidden_size"], config["q_lora_rank"]
    rows = config["num_attention_heads"] * (config["qk_nope_head_dim"] + config["qk_rope_head_dim"])
    if not rank:
        return {"attn_q": (rows, hidden)}
    return {"attn_q_a": (rank, hidden), "attn_q_a_norm": (rank,), "attn_q_b": (rows, rank)}


def _tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes, the contiguous dimension last."""
    hidden, heads, experts = config["hidden_size"], config["num_attention_heads"], config["n_routed_experts"]
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    inner = config["moe_intermediate_size"]
    shared = config["n_shared_experts"] * inner
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (config["vocab_size"], hidden),
        "output_norm": (hidden,),
        "output": (config["vocab_size"], hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm": (hidden,),
            **_query_tensors(config),
            "attn_kv_a_mqa": (rank + rope, hidden),
            "attn_kv_a_norm": (rank,),
            "attn_k_b": (heads, rank, nope),
            "attn_v_b": (heads, value, rank),
            "attn_output": (hidden, heads * value),
            "ffn_norm": (hidden,),
        }
        if layer < config["first_k_dense_replace"]:
            dense = config["intermediate_size"]
            parts |= {"ffn_gate": (dense, hidden), "ffn_up": (dense, hidden), "ffn_down": (hidden, dense)}
        else:
            parts |= {
                "ffn_gate_inp": (experts, hidden),
                "ffn_gate_exps": (experts, inner, hidden),
                "ffn_up_exps": (experts, inner, hidden),
                "ffn_down_exps": (experts, hidden, inner),
                "ffn_gate_shexp": (shared, hidden),
                "ffn_up_shexp": (shared, hidden),
                "ffn_down_shexp": (hidden, shared),
            }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    return {f"{name}.weight": shape for name, shape in shapes.items()}

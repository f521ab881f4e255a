"""The tensors a checkpoint must hold: their Hugging Face names and shapes, and their names in GGUF."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from deepwell.models.formats.config import ModelConfig
from deepwell.models.store.layout_compressed import compressed_tensors, module_name, prediction_index

__all__ = [
    "expected_tensors",
    "hugging_face_name",
    "is_ignorable",
    "is_shared_copy",
    "module_of",
    "prediction_layer_of",
]

_GGUF_TOP: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_GGUF_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.k_b_proj",  # absorbed kv_b, stored as two tensors of [heads, in, out]
    "attn_v_b": "self_attn.v_b_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "exp_probs_b": "mlp.gate.e_score_correction_bias",
    "ffn_gate_exps": "mlp.experts.gate_proj",  # all experts, stacked
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
_GGUF_NAME: Final = re.compile(r"(?:blk\.(0|[1-9][0-9]{0,8})\.)?([a-z_]+)\.(weight|bias)")
_SHARED: Final = ("mtp.0.emb.tok_emb.weight", "mtp.0.embed.weight", "mtp.0.head.weight")
# The configuration already gives rotary frequencies and position numbers. No embedding needs BERT's pooler.
_IGNORABLE: Final = re.compile(
    r"embeddings\.position_ids|pooler\.dense\.(?:weight|bias)|rope_freqs\.weight|"
    r"(?:model\.)?(?:layers\.[0-9]+\.self_attn\.)?rotary_emb\.inv_freq"
)


def expected_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the name and shape of every tensor of the model, in forward order; matrices are [out, in]."""
    if config.is_encoder:
        yield from _encoder_tensors(config)
        return
    if config.compression is not None:
        yield from compressed_tensors(config)
        return
    hidden = config.hidden_size
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers + (config.prediction_layer is not None)):
        prefix = f"model.layers.{layer}."
        if layer == config.prediction_layer:
            yield prefix + "enorm.weight", (hidden,)
            yield prefix + "hnorm.weight", (hidden,)
            yield prefix + "eh_proj.weight", (hidden, 2 * hidden)
            yield prefix + "shared_head.norm.weight", (hidden,)
        if config.has_attention(layer):
            yield prefix + "input_layernorm.weight", (hidden,)
            yield from (_latent_tensors if config.is_latent else _attention_tensors)(
                config, f"{prefix}self_attn."
            )
        if not config.mlp_size(layer):
            continue
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        if config.has_experts(layer):
            yield from _mixture_tensors(config, f"{prefix}mlp.")
        else:
            yield from _mlp_tensors(f"{prefix}mlp.", config.mlp_size(layer), hidden)
    yield "model.norm.weight", (hidden,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, hidden)


_Named = Iterator[tuple[str, tuple[int, ...]]]


def _attention_tensors(config: ModelConfig, prefix: str) -> _Named:
    hidden = config.hidden_size
    q_rows = config.num_attention_heads * config.head_dim
    kv_rows = config.num_key_value_heads * config.head_dim
    for name, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
        yield f"{prefix}{name}_proj.weight", (rows, hidden)
        if config.attention_bias:
            yield f"{prefix}{name}_proj.bias", (rows,)
    if config.qk_norm:
        yield prefix + "q_norm.weight", (config.head_dim,)
        yield prefix + "k_norm.weight", (config.head_dim,)
    yield prefix + "o_proj.weight", (hidden, q_rows)


def _latent_tensors(config: ModelConfig, prefix: str) -> _Named:
    hidden, heads, rank, q_rank = (
        config.hidden_size,
        config.num_attention_heads,
        config.kv_lora_rank,
        config.q_lora_rank,
    )
    if q_rank:
        yield prefix + "q_a_proj.weight", (q_rank, hidden)
        yield prefix + "q_a_layernorm.weight", (q_rank,)
        yield prefix + "q_b_proj.weight", (heads * config.head_dim, q_rank)
    else:
        yield prefix + "q_proj.weight", (heads * config.head_dim, hidden)
    yield prefix + "kv_a_proj_with_mqa.weight", (rank + config.qk_rope_head_dim, hidden)
    yield prefix + "kv_a_layernorm.weight", (rank,)
    yield prefix + "kv_b_proj.weight", (heads * (config.qk_nope_head_dim + config.v_head_dim), rank)
    yield prefix + "o_proj.weight", (hidden, heads * config.v_head_dim)
    if config.index_topk:
        dim = config.index_head_dim
        yield prefix + "indexer.wq_b.weight", (config.index_n_heads * dim, q_rank)
        yield prefix + "indexer.wk.weight", (dim, hidden)
        yield prefix + "indexer.k_norm.weight", (dim,)
        yield prefix + "indexer.k_norm.bias", (dim,)
        yield prefix + "indexer.weights_proj.weight", (config.index_n_heads, hidden)


def _mlp_tensors(prefix: str, inner: int, hidden: int) -> _Named:
    yield prefix + "gate_proj.weight", (inner, hidden)
    yield prefix + "up_proj.weight", (inner, hidden)
    yield prefix + "down_proj.weight", (hidden, inner)


def _mixture_tensors(config: ModelConfig, prefix: str) -> _Named:
    hidden, inner = config.hidden_size, config.moe_intermediate_size
    yield prefix + "gate.weight", (config.num_experts, hidden)
    if config.has_correction_bias:
        yield prefix + "gate.e_score_correction_bias", (config.num_experts,)
    for expert in range(config.num_experts):
        yield from _mlp_tensors(f"{prefix}experts.{expert}.", inner, hidden)
    if config.num_shared_experts:
        yield from _mlp_tensors(f"{prefix}shared_experts.", config.num_shared_experts * inner, hidden)


def _encoder_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = config.hidden_size, config.intermediate_size

    def linear(name: str, rows: int, cols: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (rows, cols)
        yield f"{name}.bias", (rows,)

    def norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.LayerNorm.weight", (hidden,)
        yield f"{name}.LayerNorm.bias", (hidden,)

    yield "embeddings.word_embeddings.weight", (config.vocab_size, hidden)
    positions = config.position_offset + config.max_position_embeddings
    yield "embeddings.position_embeddings.weight", (positions, hidden)
    yield "embeddings.token_type_embeddings.weight", (config.type_vocab_size, hidden)
    yield from norm("embeddings")
    for layer in range(config.num_hidden_layers):
        prefix = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            yield from linear(f"{prefix}attention.self.{name}", hidden, hidden)
        yield from linear(f"{prefix}attention.output.dense", hidden, hidden)
        yield from norm(f"{prefix}attention.output")
        yield from linear(f"{prefix}intermediate.dense", inner, hidden)
        yield from linear(f"{prefix}output.dense", hidden, inner)
        yield from norm(f"{prefix}output")


def hugging_face_name(gguf_name: str) -> str | None:
    """Maps `blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`; None for unknown names."""
    if (match := _GGUF_NAME.fullmatch(gguf_name)) is None:
        return None
    layer, stem, kind = match.groups()
    if layer is None:
        return f"{_GGUF_TOP[stem]}.{kind}" if stem in _GGUF_TOP else None
    if stem == "exp_probs_b":
        return f"model.layers.{layer}.{_GGUF_LAYER[stem]}" if kind == "bias" else None
    return f"model.layers.{layer}.{_GGUF_LAYER[stem]}.{kind}" if stem in _GGUF_LAYER else None


def module_of(source: str, config: ModelConfig) -> str | None:
    """Returns the module of transformers that a stored matrix is, by which adapters know it; None: they do not change it."""
    return source.removesuffix(".weight") if config.compression is None else module_name(source)


def is_ignorable(name: str) -> bool:
    """Returns whether an unexpected tensor is never needed."""
    return _IGNORABLE.fullmatch(name) is not None


def prediction_layer_of(name: str, config: ModelConfig) -> int | None:
    """Returns the index of the multi-token prediction layer that a tensor belongs to, or None.

    Prediction layers are stored after the last layer, those of DeepSeek-V4 under names of their own.
    """
    if config.compression is not None:
        return prediction_index(name)
    match = re.match(r"model\.layers\.([0-9]{1,4})\.", name)
    index = int(match[1]) - config.num_hidden_layers if match is not None else -1
    return index if 0 <= index < config.num_nextn_predict_layers else None


def is_shared_copy(name: str) -> bool:
    """Returns whether a prediction layer's tensor repeats the model's embedding or head (arXiv:2412.19437, section 2.2)."""
    return name.endswith((".embed_tokens.weight", ".shared_head.head.weight")) or name in _SHARED

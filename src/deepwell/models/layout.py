"""The tensors a checkpoint must hold: their Hugging Face names and shapes, and what GGUF calls them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from deepwell.models.config import ModelConfig

__all__ = ["expected_tensors", "hugging_face_name", "is_ignorable"]

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
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_NAME: Final = re.compile(r"(?:blk\.(0|[1-9][0-9]{0,8})\.)?([a-z_]+)\.(weight|bias)")
# Rotary frequencies and position numbers: the configuration says the same. BERT's pooler: no
# embedding needs it.
_IGNORABLE: Final = re.compile(
    r"embeddings\.position_ids|pooler\.dense\.(?:weight|bias)|rope_freqs\.weight|"
    r"(?:model\.)?(?:layers\.[0-9]+\.self_attn\.)?rotary_emb\.inv_freq"
)


def expected_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of the model, in forward order; matrices are [out, in]."""
    if config.is_encoder:
        yield from _encoder_tensors(config)
        return
    hidden, inner = config.hidden_size, config.intermediate_size
    q_rows = config.num_attention_heads * config.head_dim
    kv_rows = config.num_key_value_heads * config.head_dim
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        for name, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            yield f"{prefix}self_attn.{name}_proj.weight", (rows, hidden)
            if config.attention_bias:
                yield f"{prefix}self_attn.{name}_proj.bias", (rows,)
        if config.qk_norm:
            yield prefix + "self_attn.q_norm.weight", (config.head_dim,)
            yield prefix + "self_attn.k_norm.weight", (config.head_dim,)
        yield prefix + "self_attn.o_proj.weight", (hidden, q_rows)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (inner, hidden)
        yield prefix + "mlp.up_proj.weight", (inner, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, hidden)


def _encoder_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = config.hidden_size, config.intermediate_size

    def linear(name: str, rows: int, cols: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (rows, cols)
        yield f"{name}.bias", (rows,)

    def norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.LayerNorm.weight", (hidden,)
        yield f"{name}.LayerNorm.bias", (hidden,)

    yield "embeddings.word_embeddings.weight", (config.vocab_size, hidden)
    yield "embeddings.position_embeddings.weight", (config.max_position_embeddings, hidden)
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
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; None for other names."""
    if (match := _GGUF_NAME.fullmatch(gguf_name)) is None:
        return None
    layer, stem, kind = match.groups()
    if layer is None:
        return f"{_GGUF_TOP[stem]}.{kind}" if stem in _GGUF_TOP else None
    return f"model.layers.{layer}.{_GGUF_LAYER[stem]}.{kind}" if stem in _GGUF_LAYER else None


def is_ignorable(name: str) -> bool:
    """Whether a tensor beyond the expected ones is never needed."""
    return _IGNORABLE.fullmatch(name) is not None

"""Llama, Qwen2 and Qwen3: pre-norm decoders with grouped-query attention, rotary positions and a SwiGLU MLP.

Qwen2 adds a bias on q, k and v. Qwen3 adds an RMSNorm of each query and key head before rotation. Qwen3-MoE also replaces
MLPs by mixtures of experts. Layers of a Llama may differ (`ModelConfig.blocks`): in the width of the MLP, or without one part.
"""

from __future__ import annotations

from dataclasses import replace

from deepwell.engine.architectures.mixture import build_mlp, mlp_tensors, wrapped
from deepwell.engine.architectures.tensors import MatrixPlan, TensorPlan, VectorPlan
from deepwell.engine.backends.backend import Backend, Layer, Model
from deepwell.engine.backends.rope import rope_tables
from deepwell.engine.backends.specs import AttentionSpec
from deepwell.engine.weights.packed import Weights
from deepwell.models.formats.config import ModelConfig

__all__ = ["build", "tensors"]


def tensors(config: ModelConfig) -> TensorPlan:
    """Returns the tensors of `config`, by their names in transformers."""
    hidden, vocab = config.hidden_size, config.vocab_size
    matrices = [MatrixPlan("embed", vocab, hidden, ("model.embed_tokens.weight",), "embedding")]
    vectors = [VectorPlan("norm", hidden, ("model.norm.weight",))]
    for i in range(config.num_hidden_layers):
        if config.has_attention(i):
            attention = _attention_tensors(config, i)
            matrices += attention.matrices
            vectors += attention.vectors
        if config.mlp_size(i):
            mlp = mlp_tensors(config, i)
            matrices += mlp.matrices
            vectors += mlp.vectors
    if config.attention_layers < config.num_hidden_layers:
        # An adapter counts its blocks by attention layers, which are no longer the layers.
        matrices = [replace(one, adapts=False) for one in matrices]
    if not config.tie_word_embeddings:
        matrices.append(MatrixPlan("head", vocab, hidden, ("lm_head.weight",), "embedding"))
    return TensorPlan(tuple(matrices), tuple(vectors))


def _attention_tensors(config: ModelConfig, i: int) -> TensorPlan:
    hidden, layer = config.hidden_size, f"model.layers.{i}"
    q_rows = config.num_attention_heads * config.head_dim
    qkv_rows = q_rows + 2 * config.num_key_value_heads * config.head_dim
    qkv = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
    matrices = (
        MatrixPlan(f"{i}.qkv", qkv_rows, hidden, tuple(f"{part}.weight" for part in qkv), "body"),
        MatrixPlan(f"{i}.o", hidden, q_rows, (f"{layer}.self_attn.o_proj.weight",), "body"),
    )
    vectors = [VectorPlan(f"{i}.attention_norm", hidden, (f"{layer}.input_layernorm.weight",))]
    if config.attention_bias:
        vectors.append(VectorPlan(f"{i}.qkv_bias", qkv_rows, tuple(f"{part}.bias" for part in qkv)))
    if config.qk_norm:
        vectors += [
            VectorPlan(f"{i}.{part}_norm", config.head_dim, (f"{layer}.self_attn.{part}_norm.weight",))
            for part in "qk"
        ]
    return TensorPlan(matrices, tuple(vectors))


def build(backend: Backend, weights: Weights, config: ModelConfig, max_positions: int) -> Model:
    """Composes the decoder for sequences of up to `max_positions` tokens."""
    matrices = wrapped(backend, weights)
    vectors, eps = weights.vectors, config.rms_norm_eps
    layers: list[Layer] = []
    for i in range(config.num_hidden_layers):
        if config.has_attention(i):
            spec = AttentionSpec(
                vectors[f"{i}.attention_norm"],
                matrices[f"{i}.qkv"],
                vectors.get(f"{i}.qkv_bias"),
                matrices[f"{i}.o"],
                num_heads=config.num_attention_heads,
                num_kv_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                eps=eps,
                q_norm=vectors.get(f"{i}.q_norm"),
                k_norm=vectors.get(f"{i}.k_norm"),
            )
            layers.append(backend.attention(spec))
        if config.mlp_size(i):
            layers.append(build_mlp(backend, matrices, vectors, config, i))
    cos, sin = rope_tables(config, max_positions)
    embed = matrices["embed"]
    head = matrices.get("head", embed)
    return backend.model(embed, layers, vectors["norm"], head, cos, sin, eps=eps)

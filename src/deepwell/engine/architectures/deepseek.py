"""DeepSeek-V2 (arXiv:2405.04434), V3 (arXiv:2412.19437) and V3.2.

They have latent attention, and mixtures of experts after the first dense layers. V3.2 adds a lightning indexer, which
restricts a query to its best tokens. kv_b is packed as three matrices: k_up and v_up, which expand latents, and
k_absorb, the transposed half of the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures.mixture import build_mlp, mlp_tensors, wrapped
from deepwell.engine.architectures.tensors import HeadRows, MatrixPlan, TensorPlan, VectorPlan
from deepwell.engine.backends.backend import Backend, LatentAttention, Layer, Matrix, Model
from deepwell.engine.backends.rope import rope_tables
from deepwell.engine.backends.specs import Indexer, Join, LatentAttentionSpec
from deepwell.engine.layouts import PANEL
from deepwell.engine.weights.packed import Weights
from deepwell.models.formats.config import ModelConfig

__all__ = ["build", "build_prediction", "tensors"]


def tensors(config: ModelConfig) -> TensorPlan:
    """Returns the tensors of `config`, by their names in transformers."""
    hidden, vocab = config.hidden_size, config.vocab_size
    matrices = [MatrixPlan("embed", vocab, hidden, ("model.embed_tokens.weight",), "embedding")]
    vectors = [VectorPlan("norm", hidden, ("model.norm.weight",))]
    for i in range(config.num_hidden_layers):
        for part in (_attention_tensors(config, i), mlp_tensors(config, i)):
            matrices += part.matrices
            vectors += part.vectors
    if not config.tie_word_embeddings:
        matrices.append(MatrixPlan("head", vocab, hidden, ("lm_head.weight",), "embedding"))
    if config.prediction_layer is not None:
        prediction = _prediction_tensors(config, config.prediction_layer)
        matrices += prediction.matrices
        vectors += prediction.vectors
    return TensorPlan(tuple(matrices), tuple(vectors))


def _prediction_tensors(config: ModelConfig, layer: int) -> TensorPlan:
    """Returns the tensors of the multi-token prediction layer: those of a layer, and the join. It takes no adapters."""
    hidden, source = config.hidden_size, f"model.layers.{layer}"
    parts = (_attention_tensors(config, layer), mlp_tensors(config, layer))
    matrices = [MatrixPlan("join", hidden, 2 * hidden, (f"{source}.eh_proj.weight",), "body", adapts=False)]
    matrices += [replace(matrix, adapts=False) for part in parts for matrix in part.matrices]
    vectors = [
        VectorPlan("join_embed_norm", hidden, (f"{source}.enorm.weight",)),
        VectorPlan("join_state_norm", hidden, (f"{source}.hnorm.weight",)),
        VectorPlan("prediction_norm", hidden, (f"{source}.shared_head.norm.weight",)),
    ]
    vectors += [vector for part in parts for vector in part.vectors]
    return TensorPlan(tuple(matrices), tuple(vectors))


def _attention_tensors(config: ModelConfig, layer: int) -> TensorPlan:
    hidden, heads, rank, q_rank = (
        config.hidden_size,
        config.num_attention_heads,
        config.kv_lora_rank,
        config.q_lora_rank,
    )
    nope, rope, value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    source, name = f"model.layers.{layer}.self_attn", str(layer)
    interleaved = rope if config.rope_interleave else 0
    query = HeadRows(heads, nope + rope, 0, nope + rope, interleaved)
    latent = HeadRows(1, rank + rope, 0, rank + rope, interleaved)
    keys = HeadRows(heads, nope + value, 0, nope, pad=PANEL)
    values = HeadRows(heads, nope + value, nope, value, pad=PANEL)
    columns = HeadRows(heads, nope + value, 0, nope)
    kv_a, kv_b = f"{source}.kv_a_proj_with_mqa.weight", (f"{source}.kv_b_proj.weight",)
    first = f"{source}.q_a_proj.weight" if q_rank else f"{source}.q_proj.weight"
    a_rows = (q_rank or query.heads * query.count) + rank + rope
    padded_rank = -(-rank // PANEL) * PANEL

    matrices = [
        MatrixPlan(
            f"{name}.a", a_rows, hidden, (first, kv_a), "body", heads=(None if q_rank else query, latent)
        )
    ]
    if q_rank:
        q_b = (f"{source}.q_b_proj.weight",)
        matrices.append(
            MatrixPlan(f"{name}.q_b", query.heads * query.count, q_rank, q_b, "body", heads=(query,))
        )
    matrices += [
        MatrixPlan(f"{name}.o", hidden, heads * value, (f"{source}.o_proj.weight",), "body"),
        MatrixPlan(f"{name}.k_up", heads * keys.padded, rank, kv_b, "body", heads=(keys,), adapts=False),
        MatrixPlan(
            f"{name}.k_absorb", heads * padded_rank, nope, kv_b, "body", "transpose", (columns,), adapts=False
        ),
        MatrixPlan(f"{name}.v_up", heads * values.padded, rank, kv_b, "body", heads=(values,), adapts=False),
    ]
    vectors = [
        VectorPlan(f"{name}.attention_norm", hidden, (f"model.layers.{layer}.input_layernorm.weight",)),
        VectorPlan(f"{name}.kv_norm", rank, (f"{source}.kv_a_layernorm.weight",)),
    ]
    if q_rank:
        vectors.append(VectorPlan(f"{name}.q_norm", q_rank, (f"{source}.q_a_layernorm.weight",)))
    if config.index_topk:
        count, dim, indexer = config.index_n_heads, config.index_head_dim, f"{source}.indexer"
        matrices += [
            MatrixPlan(
                f"{name}.index_q", count * dim, q_rank, (f"{indexer}.wq_b.weight",), "body", adapts=False
            ),
            MatrixPlan(f"{name}.index_k", dim, hidden, (f"{indexer}.wk.weight",), "body", adapts=False),
        ]
        vectors += [
            VectorPlan(f"{name}.index_norm", dim, (f"{indexer}.k_norm.weight",)),
            VectorPlan(f"{name}.index_shift", dim, (f"{indexer}.k_norm.bias",)),
            VectorPlan(f"{name}.index_weights", count * hidden, (f"{indexer}.weights_proj.weight",)),
        ]
    return TensorPlan(tuple(matrices), tuple(vectors))


def build(backend: Backend, weights: Weights, config: ModelConfig, max_positions: int) -> Model:
    """Composes the decoder for sequences of up to `max_positions` tokens."""
    matrices, vectors = wrapped(backend, weights), weights.vectors
    layers: list[Layer] = []
    for i in range(config.num_hidden_layers):
        layers.append(_attention(backend, matrices, vectors, config, i))
        layers.append(build_mlp(backend, matrices, vectors, config, i))
    cos, sin = rope_tables(config, max_positions)
    embed = matrices["embed"]
    head = matrices.get("head", embed)
    return backend.model(embed, layers, vectors["norm"], head, cos, sin, eps=config.rms_norm_eps)


def build_prediction(backend: Backend, weights: Weights, config: ModelConfig, max_positions: int) -> Model:
    """Composes the multi-token prediction layer of `config`, which shares the embedding and head of the decoder."""
    layer = config.prediction_layer
    assert layer is not None
    matrices, vectors = wrapped(backend, weights), weights.vectors
    layers = (
        _attention(backend, matrices, vectors, config, layer),
        build_mlp(backend, matrices, vectors, config, layer),
    )
    cos, sin = rope_tables(config, max_positions)
    embed, eps = matrices["embed"], config.rms_norm_eps
    head = matrices.get("head", embed)
    join = Join(vectors["join_embed_norm"], vectors["join_state_norm"], matrices["join"])
    return backend.model(embed, layers, vectors["prediction_norm"], head, cos, sin, eps=eps, join=join)


def _attention(
    backend: Backend,
    matrices: Mapping[str, Matrix],
    vectors: Mapping[str, NDArray[np.float32]],
    config: ModelConfig,
    layer: int,
) -> LatentAttention:
    indexer = None
    if config.index_topk:
        indexer = Indexer(
            matrices[f"{layer}.index_q"],
            matrices[f"{layer}.index_k"],
            vectors[f"{layer}.index_norm"],
            vectors[f"{layer}.index_shift"],
            vectors[f"{layer}.index_weights"].reshape(config.index_n_heads, config.hidden_size),
            config.index_n_heads,
            config.index_head_dim,
            config.index_topk,
        )
    return backend.latent_attention(
        LatentAttentionSpec(
            vectors[f"{layer}.attention_norm"],
            matrices[f"{layer}.a"],
            vectors.get(f"{layer}.q_norm"),
            matrices.get(f"{layer}.q_b"),
            vectors[f"{layer}.kv_norm"],
            matrices[f"{layer}.k_up"],
            matrices[f"{layer}.k_absorb"],
            matrices[f"{layer}.v_up"],
            matrices[f"{layer}.o"],
            num_heads=config.num_attention_heads,
            qk_nope_head_dim=config.qk_nope_head_dim,
            qk_rope_head_dim=config.qk_rope_head_dim,
            v_head_dim=config.v_head_dim,
            kv_lora_rank=config.kv_lora_rank,
            scale=config.attention_scale,
            eps=config.rms_norm_eps,
            indexer=indexer,
        )
    )

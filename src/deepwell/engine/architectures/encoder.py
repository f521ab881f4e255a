"""BERT and XLM-RoBERTa: post-norm layers, learned positions, biases everywhere and an exact GELU (Devlin et al. 2019).

MiniLM, E5 and most sentence embedding models have this architecture. Their embedding is the mean of the last hidden states.
XLM-RoBERTa (Conneau et al. 2020) differs in its vocabulary, and in the row of the position table that a text begins at.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from deepwell.engine.architectures.tensors import MatrixPlan, TensorPlan, VectorPlan
from deepwell.engine.backends.backend import Backend
from deepwell.engine.backends.encoder_backend import (
    Encoder,
    EncoderAttention,
    EncoderBackend,
    EncoderMlp,
)
from deepwell.engine.weights.packed import Weights
from deepwell.models.formats.config import ModelConfig

__all__ = ["build", "tensors"]


def tensors(config: ModelConfig) -> TensorPlan:
    """Returns the tensors of `config`, by their names in transformers."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    embeddings = "embeddings."
    matrices = [
        MatrixPlan("embed", config.vocab_size, hidden, (f"{embeddings}word_embeddings.weight",), "embedding")
    ]
    positions = (config.position_offset + config.max_position_embeddings) * hidden
    vectors = [
        VectorPlan("positions", positions, (f"{embeddings}position_embeddings.weight",)),
        VectorPlan("types", config.type_vocab_size * hidden, (f"{embeddings}token_type_embeddings.weight",)),
        VectorPlan("norm", hidden, (f"{embeddings}LayerNorm.weight",)),
        VectorPlan("shift", hidden, (f"{embeddings}LayerNorm.bias",)),
    ]

    def norm(name: str, source: str) -> list[VectorPlan]:
        return [
            VectorPlan(f"{name}_norm", hidden, (f"{source}.LayerNorm.weight",)),
            VectorPlan(f"{name}_shift", hidden, (f"{source}.LayerNorm.bias",)),
        ]

    for i in range(config.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        qkv = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
        for name, rows, cols, sources in (
            ("qkv", 3 * hidden, hidden, qkv),
            ("o", hidden, hidden, [f"{layer}.attention.output.dense"]),
            ("up", intermediate, hidden, [f"{layer}.intermediate.dense"]),
            ("down", hidden, intermediate, [f"{layer}.output.dense"]),
        ):
            weights, biases = tuple(f"{s}.weight" for s in sources), tuple(f"{s}.bias" for s in sources)
            matrices.append(MatrixPlan(f"{i}.{name}", rows, cols, weights, "body"))
            vectors.append(VectorPlan(f"{i}.{name}_bias", rows, biases))
        vectors += norm(f"{i}.attention", f"{layer}.attention.output")
        vectors += norm(f"{i}.mlp", f"{layer}.output")
    return TensorPlan(tuple(matrices), tuple(vectors))


def build(backend: Backend, weights: Weights, config: ModelConfig) -> Encoder:
    """Composes the encoder. Every token has the first type, as in a single text."""
    run, vectors, eps = _encoder_backend(backend), weights.vectors, config.layer_norm_eps
    matrices = {
        name: backend.matrix(packed.data, packed.rows, packed.cols, packed.scheme)
        for name, packed in weights.matrices.items()
    }
    layers: list[EncoderAttention | EncoderMlp] = []
    for i in range(config.num_hidden_layers):
        attention = run.encoder_attention(
            matrices[f"{i}.qkv"],
            vectors[f"{i}.qkv_bias"],
            matrices[f"{i}.o"],
            vectors[f"{i}.o_bias"],
            vectors[f"{i}.attention_norm"],
            vectors[f"{i}.attention_shift"],
            num_heads=config.num_attention_heads,
            eps=eps,
        )
        mlp = run.encoder_mlp(
            matrices[f"{i}.up"],
            vectors[f"{i}.up_bias"],
            matrices[f"{i}.down"],
            vectors[f"{i}.down_bias"],
            vectors[f"{i}.mlp_norm"],
            vectors[f"{i}.mlp_shift"],
            eps=eps,
        )
        layers += [attention, mlp]
    hidden = config.hidden_size
    used = vectors["positions"].reshape(-1, hidden)[config.position_offset :]
    positions = np.add(used, vectors["types"][:hidden], dtype=np.float32)
    return run.encoder(
        matrices["embed"],
        positions,
        vectors["norm"],
        vectors["shift"],
        layers,
        eps=eps,
        pooling=config.pooling,
    )


def _encoder_backend(backend: Backend) -> EncoderBackend:
    """Returns the encoder's half of `backend`."""
    if backend.name == "native":
        from deepwell.engine.backends import encoder_native as module
    else:
        from deepwell.engine.backends import encoder_reference as module
    return cast("EncoderBackend", module)

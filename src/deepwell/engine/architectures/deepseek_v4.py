"""DeepSeek-V4: attention over a window and compressed entries, several residual streams, experts that tokens choose.

Tensors have the names of DeepSeek's own files. One matrix `a` holds all that reads a layer's input: the first half of the
query, the vector that is key and value, and what entries are made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures.mixture import wrapped
from deepwell.engine.architectures.tensors import HeadRows, MatrixPlan, TensorPlan, VectorPlan
from deepwell.engine.backends.backend import Backend, Layer, Matrix, Model, Moe
from deepwell.engine.backends.rope import rope_tables
from deepwell.engine.backends.specs import (
    CompressedAttentionSpec,
    CompressedPage,
    CompressorSpec,
    EntryIndexer,
    EntryShape,
    HyperHeadSpec,
    HyperSpec,
    Join,
    MoeSpec,
)
from deepwell.engine.layouts import PANEL
from deepwell.engine.weights.packed import Weights
from deepwell.errors import InvalidModelFile
from deepwell.models.formats.config import Compression, HyperConnections, ModelConfig
from deepwell.models.store.layout_compressed import layer_name

__all__ = ["build", "build_prediction", "cache_pages", "horizon", "prediction_pages", "tensors"]

Vectors = Mapping[str, NDArray[np.float32]]
Tables = Mapping[bool, tuple[NDArray[np.float32], NDArray[np.float32]]]
_RUN: Final = 16  # rows of gate and of up alternate in runs of this length
_HYPER: Final = {"attention": "attn", "mlp": "ffn"}


def tensors(config: ModelConfig) -> TensorPlan:
    """Returns the tensors of `config`, by their names in DeepSeek's files."""
    hidden, vocab = config.hidden_size, config.vocab_size
    matrices = [MatrixPlan("embed", vocab, hidden, ("embed.weight",), "embedding")]
    vectors = [VectorPlan("norm", hidden, ("norm.weight",))]
    for layer in range(config.num_hidden_layers):
        for part in (_attention_tensors(config, layer), _mlp_tensors(config, layer)):
            matrices += part.matrices
            vectors += part.vectors
    matrices.append(MatrixPlan("head", vocab, hidden, ("head.weight",), "embedding"))
    vectors += _head_vectors(config, "streams", "hc_head")
    if config.prediction_layer is not None:
        prediction = _prediction_tensors(config, config.prediction_layer)
        matrices += prediction.matrices
        vectors += prediction.vectors
    return TensorPlan(tuple(matrices), tuple(vectors))


def _prediction_tensors(config: ModelConfig, layer: int) -> TensorPlan:
    """Returns the tensors of the multi-token prediction layer: those of a layer, the join, and a head's mixture of its own.

    It takes no adapters.
    """
    hidden, source = config.hidden_size, layer_name(config, layer)
    parts = (_attention_tensors(config, layer), _mlp_tensors(config, layer))
    matrices = [
        MatrixPlan("join", hidden, hidden, (f"{source}.e_proj.weight",), "body", adapts=False),
        MatrixPlan("join_state", hidden, hidden, (f"{source}.h_proj.weight",), "body", adapts=False),
    ]
    matrices += [replace(matrix, adapts=False) for part in parts for matrix in part.matrices]
    vectors = [
        VectorPlan("join_embed_norm", hidden, (f"{source}.enorm.weight",)),
        VectorPlan("join_state_norm", hidden, (f"{source}.hnorm.weight",)),
        VectorPlan("prediction_norm", hidden, (f"{source}.norm.weight",)),
        *_head_vectors(config, "prediction_streams", f"{source}.hc_head"),
    ]
    vectors += [vector for part in parts for vector in part.vectors]
    return TensorPlan(tuple(matrices), tuple(vectors))


def _head_vectors(config: ModelConfig, name: str, source: str) -> list[VectorPlan]:
    _, hyper = _parts(config)
    count = hyper.streams
    return [
        VectorPlan(name, count * count * config.hidden_size, (f"{source}_fn",)),
        VectorPlan(f"{name}_base", count, (f"{source}_base",)),
        VectorPlan(f"{name}_scale", 1, (f"{source}_scale",)),
    ]


def _parts(config: ModelConfig) -> tuple[Compression, HyperConnections]:
    if config.compression is None or config.hyper is None:
        raise ValueError(f"{config.architecture} has neither entries nor streams")
    return config.compression, config.hyper


def _rate(config: ModelConfig, layer: int) -> int:
    """Returns the tokens of an entry of a layer, 0 where it has none."""
    one, _ = _parts(config)
    return {"sliding": 0, "sparse": one.sparse_rate, "heavy": one.heavy_rate}[one.kind(layer)]


def _attention_tensors(config: ModelConfig, layer: int) -> TensorPlan:
    hidden, heads, dim, low = (
        config.hidden_size,
        config.num_attention_heads,
        config.head_dim,
        config.q_lora_rank,
    )
    one, _ = _parts(config)
    source, rate = f"{layer_name(config, layer)}.attn", _rate(config, layer)
    sparse = one.kind(layer) == "sparse"
    first, rows = [f"{source}.wq_a.weight", f"{source}.wkv.weight"], low + dim
    vectors = [
        VectorPlan(f"{layer}.attention_norm", hidden, (f"{layer_name(config, layer)}.attn_norm.weight",)),
        VectorPlan(f"{layer}.q_norm", low, (f"{source}.q_norm.weight",)),
        VectorPlan(f"{layer}.kv_norm", dim, (f"{source}.kv_norm.weight",)),
        VectorPlan(f"{layer}.sinks", heads, (f"{source}.attn_sink",)),
        *_hyper_vectors(config, layer, "attention"),
    ]
    matrices: list[MatrixPlan] = []
    made = {"entries": (f"{source}.compressor", dim)} if rate else {}
    if sparse:
        made["index"] = (f"{source}.indexer.compressor", config.index_head_dim)
        count = config.index_n_heads * config.index_head_dim
        indexer = f"{source}.indexer"
        matrices.append(
            MatrixPlan(f"{layer}.index_q", count, low, (f"{indexer}.wq_b.weight",), "body", adapts=False)
        )
        weights = (f"{indexer}.weights_proj.weight",)
        vectors.append(VectorPlan(f"{layer}.index_weights", config.index_n_heads * hidden, weights))
    for key, (of, width) in made.items():
        wide = width * (2 if sparse else 1)
        first += [f"{of}.wkv.weight", f"{of}.wgate.weight"]
        rows += 2 * wide
        vectors += [
            VectorPlan(f"{layer}.{key}_bias", rate * wide, (f"{of}.ape",)),
            VectorPlan(f"{layer}.{key}_norm", width, (f"{of}.norm.weight",)),
        ]
    groups = HeadRows(one.o_groups, one.o_lora_rank, 0, one.o_lora_rank, pad=PANEL)
    matrices += [
        MatrixPlan(f"{layer}.a", rows, hidden, tuple(first), "body"),
        MatrixPlan(f"{layer}.q_b", heads * dim, low, (f"{source}.wq_b.weight",), "body"),
        MatrixPlan(
            f"{layer}.o_a",
            one.o_groups * groups.padded,
            heads * dim // one.o_groups,
            (f"{source}.wo_a.weight",),
            "body",
            heads=(groups,),
            adapts=False,
        ),
        MatrixPlan(
            f"{layer}.o_b", hidden, one.o_groups * one.o_lora_rank, (f"{source}.wo_b.weight",), "body"
        ),
    ]
    return TensorPlan(tuple(matrices), tuple(vectors))


def _hyper_vectors(config: ModelConfig, layer: int, part: str) -> list[VectorPlan]:
    _, hyper = _parts(config)
    count, source = hyper.streams, f"{layer_name(config, layer)}.hc_{_HYPER[part]}"
    outputs = (2 + count) * count
    return [
        VectorPlan(f"{layer}.{part}_streams", outputs * count * config.hidden_size, (f"{source}_fn",)),
        VectorPlan(f"{layer}.{part}_streams_base", outputs, (f"{source}_base",)),
        VectorPlan(f"{layer}.{part}_streams_scale", 3, (f"{source}_scale",)),
    ]


def _mlp_tensors(config: ModelConfig, layer: int) -> TensorPlan:
    hidden, source, count = config.hidden_size, f"{layer_name(config, layer)}.ffn", config.num_experts
    inner, shared = config.moe_intermediate_size, config.num_shared_experts * config.moe_intermediate_size
    padded, wide = (-(-one // _RUN) * _RUN for one in (inner, shared))
    experts = [f"{source}.experts.{e}" for e in range(count)]
    gate_up = tuple(f"{e}.{part}.weight" for e in experts for part in ("w1", "w3"))
    down = tuple(f"{e}.w2.weight" for e in experts)
    panels = HeadRows(1, hidden, 0, hidden, pad=PANEL)
    of_shared = tuple(f"{source}.shared_experts.{part}.weight" for part in ("w1", "w3"))
    matrices = (
        MatrixPlan(f"{layer}.experts_gate_up", count * 2 * padded, hidden, gate_up, "body", "interleave"),
        MatrixPlan(
            f"{layer}.experts_down", count * panels.padded, padded, down, "body", heads=(panels,) * count
        ),
        MatrixPlan(f"{layer}.shared_gate_up", 2 * wide, hidden, of_shared, "body", "interleave"),
        MatrixPlan(f"{layer}.shared_down", hidden, wide, (f"{source}.shared_experts.w2.weight",), "body"),
    )
    vectors = [
        VectorPlan(f"{layer}.mlp_norm", hidden, (f"{layer_name(config, layer)}.ffn_norm.weight",)),
        VectorPlan(f"{layer}.router", count * hidden, (f"{source}.gate.weight",)),
        *_hyper_vectors(config, layer, "mlp"),
    ]
    if layer in config.hash_layers:
        table = config.vocab_size * config.num_experts_per_tok
        vectors.append(VectorPlan(f"{layer}.token_experts", table, (f"{source}.gate.tid2eid",)))
    else:
        vectors.append(VectorPlan(f"{layer}.correction_bias", count, (f"{source}.gate.bias",)))
    return TensorPlan(matrices, tuple(vectors))


def build(backend: Backend, weights: Weights, config: ModelConfig, max_positions: int) -> Model:
    """Composes the decoder for sequences of up to `max_positions` tokens."""
    matrices, vectors = wrapped(backend, weights), weights.vectors
    # By whether a layer has entries.
    tables = {of: rope_tables(config, max_positions, of_entries=of) for of in (False, True)}
    layers: list[Layer] = []
    for layer in range(config.num_hidden_layers):
        layers += _layer(backend, matrices, vectors, config, layer, tables)
    streams, eps = _head_streams(vectors, config, "streams"), config.rms_norm_eps
    embed, head = matrices["embed"], matrices["head"]
    return backend.model(embed, layers, vectors["norm"], head, *tables[False], eps=eps, streams=streams)


def build_prediction(backend: Backend, weights: Weights, config: ModelConfig, max_positions: int) -> Model:
    """Composes the multi-token prediction layer of `config`, which shares the embedding and head of the decoder."""
    layer = config.prediction_layer
    assert layer is not None
    matrices, vectors = wrapped(backend, weights), weights.vectors
    cos, sin = rope_tables(config, max_positions)
    join = Join(
        vectors["join_embed_norm"], vectors["join_state_norm"], matrices["join"], matrices["join_state"]
    )
    return backend.model(
        matrices["embed"],
        _layer(backend, matrices, vectors, config, layer, {False: (cos, sin)}),
        vectors["prediction_norm"],
        matrices["head"],
        cos,
        sin,
        eps=config.rms_norm_eps,
        join=join,
        streams=_head_streams(vectors, config, "prediction_streams"),
    )


def _head_streams(vectors: Vectors, config: ModelConfig, name: str) -> HyperHeadSpec:
    _, hyper = _parts(config)
    return HyperHeadSpec(
        vectors[name].reshape(hyper.streams, -1),
        vectors[f"{name}_base"],
        vectors[f"{name}_scale"],
        hyper.streams,
        hyper.eps,
        config.rms_norm_eps,
    )


def _layer(
    backend: Backend,
    matrices: Mapping[str, Matrix],
    vectors: Vectors,
    config: ModelConfig,
    layer: int,
    tables: Tables,
) -> list[Layer]:
    spec = _attention_spec(matrices, vectors, config, layer, tables)
    return [backend.compressed_attention(spec), _mlp(backend, matrices, vectors, config, layer)]


def cache_pages(config: ModelConfig) -> list[CompressedPage]:
    """Returns what a block of the cache holds of each layer."""
    one, _ = _parts(config)
    pages: list[CompressedPage] = []
    for layer, kind in enumerate(one.kinds):
        made: list[EntryShape] = []
        if kind != "sliding":
            made.append(EntryShape(_rate(config, layer), config.head_dim, kind == "sparse"))
        if kind == "sparse":
            made.append(EntryShape(one.sparse_rate, config.index_head_dim, True))
        pages.append(CompressedPage(config.head_dim, tuple(made)))
    return pages


def prediction_pages(config: ModelConfig) -> list[CompressedPage]:
    """Returns what a block of the prediction layer's own cache holds: of single tokens their vectors, and no entries."""
    return [CompressedPage(config.head_dim)]


def horizon(config: ModelConfig) -> int:
    """Returns the tokens before a row that it reads one by one: of its window, and of its entries and those before."""
    one, _ = _parts(config)
    made = (
        one.sparse_rate * 2 if kind == "sparse" else one.heavy_rate for kind in one.kinds if kind != "sliding"
    )
    return max((one.window, *made)) - 1


def _attention_spec(
    matrices: Mapping[str, Matrix], vectors: Vectors, config: ModelConfig, layer: int, tables: Tables
) -> CompressedAttentionSpec:
    one, _ = _parts(config)
    rate = _rate(config, layer)
    cos, sin = tables[rate > 0]
    sparse = one.kind(layer) == "sparse"
    indexer = None
    if sparse:
        indexer = EntryIndexer(
            _compressor(vectors, f"{layer}.index", rate, overlap=True),
            matrices[f"{layer}.index_q"],
            vectors[f"{layer}.index_weights"].reshape(config.index_n_heads, -1),
            config.index_n_heads,
            config.index_topk,
        )
    return CompressedAttentionSpec(
        vectors[f"{layer}.attention_norm"],
        matrices[f"{layer}.a"],
        vectors[f"{layer}.q_norm"],
        matrices[f"{layer}.q_b"],
        vectors[f"{layer}.kv_norm"],
        matrices[f"{layer}.o_a"],
        matrices[f"{layer}.o_b"],
        vectors[f"{layer}.sinks"],
        cos,
        sin,
        _hyper(vectors, config, f"{layer}.attention_streams"),
        num_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        q_lora_rank=config.q_lora_rank,
        o_groups=one.o_groups,
        window=one.window,
        eps=config.rms_norm_eps,
        compressor=_compressor(vectors, f"{layer}.entries", rate, overlap=sparse) if rate else None,
        indexer=indexer,
    )


def _compressor(vectors: Vectors, name: str, rate: int, *, overlap: bool) -> CompressorSpec:
    norm = vectors[f"{name}_norm"]
    return CompressorSpec(rate, len(norm), overlap, vectors[f"{name}_bias"].reshape(rate, -1), norm)


def _hyper(vectors: Vectors, config: ModelConfig, name: str) -> HyperSpec:
    _, hyper = _parts(config)
    count = hyper.streams
    return HyperSpec(
        vectors[name].reshape((2 + count) * count, -1),
        vectors[f"{name}_base"],
        vectors[f"{name}_scale"],
        count,
        hyper.rounds,
        hyper.eps,
        config.rms_norm_eps,
    )


def _experts_of_tokens(table: NDArray[np.float32], config: ModelConfig, layer: int) -> NDArray[np.int32]:
    """Returns the experts that each token has, [vocab, top_k].

    Raises:
        InvalidModelFile: a number is no expert, or a token has one twice.
    """
    rows = np.sort(table.reshape(config.vocab_size, -1), axis=1)
    known = (rows >= 0) & (rows < config.num_experts) & (rows == np.floor(rows))
    if not known.all() or (np.diff(rows, axis=1) == 0).any():
        raise InvalidModelFile(
            f"layers.{layer}.ffn.gate.tid2eid names no {config.num_experts_per_tok} different experts of a token",
            fix="pull the model again",
        )
    return table.astype(np.int32).reshape(config.vocab_size, -1)


def _mlp(
    backend: Backend, matrices: Mapping[str, Matrix], vectors: Vectors, config: ModelConfig, layer: int
) -> Moe:
    table = vectors.get(f"{layer}.token_experts")
    if table is not None:
        table = _experts_of_tokens(table, config, layer)
    return backend.moe(
        MoeSpec(
            vectors[f"{layer}.mlp_norm"],
            vectors[f"{layer}.router"].reshape(config.num_experts, config.hidden_size),
            vectors.get(f"{layer}.correction_bias"),
            matrices[f"{layer}.experts_gate_up"],
            matrices[f"{layer}.experts_down"],
            matrices[f"{layer}.shared_gate_up"],
            matrices[f"{layer}.shared_down"],
            num_experts=config.num_experts,
            top_k=config.num_experts_per_tok,
            scoring=config.scoring_func,
            n_group=1,
            topk_group=1,
            norm_topk_prob=config.norm_topk_prob,
            routed_scaling_factor=config.routed_scaling_factor,
            eps=config.rms_norm_eps,
            limit=config.swiglu_limit,
            token_experts=table,
            hyper=_hyper(vectors, config, f"{layer}.mlp_streams"),
        )
    )

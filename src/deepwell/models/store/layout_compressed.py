"""The tensors of a DeepSeek-V4 checkpoint, by the names of DeepSeek's own files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from deepwell.models.formats.config import Compression, HyperConnections, ModelConfig

__all__ = [
    "compressed_tensors",
    "layer_name",
    "module_name",
    "parameter_source",
    "prediction_index",
    "released_name",
]

# transformers writes its own names where several of DeepSeek's became one.
_TOP: Final = {
    "model.embed_tokens.weight": "embed.weight",
    "lm_head.weight": "head.weight",
    "model.hc_head.hc_fn": "hc_head_fn",
    "model.hc_head.hc_base": "hc_head_base",
    "model.hc_head.hc_scale": "hc_head_scale",
}
_KV_NORM: Final = re.compile(r"(layers\.[0-9]+\.attn\.)norm\.weight")

_Named = Iterator[tuple[str, tuple[int, ...]]]


_MODULES: Final = {
    "attn.wq_a": "self_attn.q_a_proj",
    "attn.wq_b": "self_attn.q_b_proj",
    "attn.wo_b": "self_attn.o_b_proj",
}
_EXPERT: Final = re.compile(r"ffn\.((?:shared_experts|experts\.[0-9]+))\.(w[123])")
_PARTS: Final = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def module_name(source: str) -> str | None:
    """Returns the module of transformers that a matrix of DeepSeek's files is, or None where adapters do not change it.

    The vector's projection is left alone, and those of entries: peft would take all of them for one name.
    """
    match = re.fullmatch(r"layers\.([0-9]+)\.(.+)\.weight", source)
    if match is None:
        return None
    layer, rest = match.groups()
    if rest in _MODULES:
        return f"model.layers.{layer}.{_MODULES[rest]}"
    expert = _EXPERT.fullmatch(rest)
    return None if expert is None else f"model.layers.{layer}.mlp.{expert[1]}.{_PARTS[expert[2]]}"


# Parameters of transformers' layers by the names that DeepSeek's files have for them.
_LAYER: Final = re.compile(r"model\.layers\.([0-9]+)\.(.+)")
_PARAMETERS: Final = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.sinks": "attn.attn_sink",
    "self_attn.q_a_norm.weight": "attn.q_norm.weight",
    "self_attn.kv_proj.weight": "attn.wkv.weight",
    "self_attn.kv_norm.weight": "attn.kv_norm.weight",
    "self_attn.o_a_proj.weight": "attn.wo_a.weight",
    "self_attn.compressor.indexer.q_b_proj.weight": "attn.indexer.wq_b.weight",
    "self_attn.compressor.indexer.scorer.weights_proj.weight": "attn.indexer.weights_proj.weight",
    "mlp.gate.weight": "ffn.gate.weight",
    "mlp.gate.tid2eid": "ffn.gate.tid2eid",
    "mlp.gate.e_score_correction_bias": "ffn.gate.bias",
    **{f"{target}.weight": f"{source}.weight" for source, target in _MODULES.items()},
    **{f"{part}_hc.{one}": f"hc_{part}_{one}" for part in ("attn", "ffn") for one in ("fn", "base", "scale")},
    **{
        f"self_attn.compressor.{target}": f"attn.{source}"
        for inner, of in (("", "compressor"), ("indexer.", "indexer.compressor"))
        for target, source in (
            (f"{inner}kv_proj.weight", f"{of}.wkv.weight"),
            (f"{inner}gate_proj.weight", f"{of}.wgate.weight"),
            (f"{inner}position_bias", f"{of}.ape"),
            (f"{inner}kv_norm.weight", f"{of}.norm.weight"),
        )
    },
}
_EXPERT_PARAMETER: Final = re.compile(
    r"mlp\.((?:shared_experts|experts\.[0-9]+))\.(gate|down|up)_proj\.weight"
)
_WEIGHTS: Final = {"gate": "w1", "down": "w2", "up": "w3"}


def parameter_source(name: str) -> str | None:
    """Returns the name in DeepSeek's files of a parameter of transformers' model, experts apart; None: they have none."""
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return released_name(name)
    if expert := _EXPERT_PARAMETER.fullmatch(layer[2]):
        return f"layers.{layer[1]}.ffn.{expert[1]}.{_WEIGHTS[expert[2]]}.weight"
    return f"layers.{layer[1]}.{_PARAMETERS[layer[2]]}" if layer[2] in _PARAMETERS else None


def released_name(name: str) -> str:
    """Returns the name that DeepSeek's files have for a tensor of a file that transformers wrote."""
    return _KV_NORM.sub(r"\1kv_norm.weight", _TOP.get(name, name).removeprefix("model."))


def compressed_tensors(config: ModelConfig) -> _Named:
    """Yields the name and shape of every tensor, in forward order; matrices are [out, in]."""
    one, hyper = config.compression, config.hyper
    if one is None or hyper is None:
        raise ValueError(f"{config.architecture} has neither entries nor streams")
    hidden, vocab, streams = config.hidden_size, config.vocab_size, hyper.streams
    yield "embed.weight", (vocab, hidden)
    for layer in range(config.num_hidden_layers):
        yield from _layer(config, one, hyper, layer)
    yield from _head_streams("", streams, hidden)
    yield "norm.weight", (hidden,)
    yield "head.weight", (vocab, hidden)
    if config.prediction_layer is not None:
        prefix = f"{layer_name(config, config.prediction_layer)}."
        yield f"{prefix}enorm.weight", (hidden,)
        yield f"{prefix}hnorm.weight", (hidden,)
        yield f"{prefix}e_proj.weight", (hidden, hidden)
        yield f"{prefix}h_proj.weight", (hidden, hidden)
        yield from _layer(config, one, hyper, config.prediction_layer)
        yield from _head_streams(prefix, streams, hidden)
        yield f"{prefix}norm.weight", (hidden,)


def layer_name(config: ModelConfig, layer: int) -> str:
    """Returns what the names of a layer's tensors begin with. The layer may be the prediction layer."""
    return "mtp.0" if layer == config.prediction_layer else f"layers.{layer}"


def prediction_index(name: str) -> int | None:
    """Returns 0 for a tensor of the first block that predicts further tokens, 1 for those behind it, None for others."""
    return None if not name.startswith("mtp.") else int(not name.startswith("mtp.0."))


def _layer(config: ModelConfig, one: Compression, hyper: HyperConnections, layer: int) -> _Named:
    prefix, hidden = f"{layer_name(config, layer)}.", config.hidden_size
    yield from _streams(f"{prefix}hc_attn_", config, hyper)
    yield f"{prefix}attn_norm.weight", (hidden,)
    yield from _attention(config, one, layer, f"{prefix}attn.")
    yield from _streams(f"{prefix}hc_ffn_", config, hyper)
    yield f"{prefix}ffn_norm.weight", (hidden,)
    yield from _experts(config, layer, f"{prefix}ffn.")


def _head_streams(prefix: str, streams: int, hidden: int) -> _Named:
    yield f"{prefix}hc_head_fn", (streams, streams * hidden)
    yield f"{prefix}hc_head_base", (streams,)
    yield f"{prefix}hc_head_scale", (1,)


def _streams(prefix: str, config: ModelConfig, hyper: HyperConnections) -> _Named:
    outputs = (2 + hyper.streams) * hyper.streams
    yield f"{prefix}fn", (outputs, hyper.streams * config.hidden_size)
    yield f"{prefix}base", (outputs,)
    yield f"{prefix}scale", (3,)


def _attention(config: ModelConfig, one: Compression, layer: int, prefix: str) -> _Named:
    hidden, low, dim, heads = (
        config.hidden_size,
        config.q_lora_rank,
        config.head_dim,
        config.num_attention_heads,
    )
    yield f"{prefix}wq_a.weight", (low, hidden)
    yield f"{prefix}q_norm.weight", (low,)
    yield f"{prefix}wq_b.weight", (heads * dim, low)
    yield f"{prefix}wkv.weight", (dim, hidden)
    yield f"{prefix}kv_norm.weight", (dim,)
    yield f"{prefix}attn_sink", (heads,)
    kind = one.kind(layer)
    if kind == "heavy":
        yield from _compressor(f"{prefix}compressor.", hidden, one.heavy_rate, dim, dim)
    elif kind == "sparse":
        yield from _compressor(f"{prefix}compressor.", hidden, one.sparse_rate, dim, 2 * dim)
        width, count = config.index_head_dim, config.index_n_heads
        yield from _compressor(f"{prefix}indexer.compressor.", hidden, one.sparse_rate, width, 2 * width)
        yield f"{prefix}indexer.wq_b.weight", (count * width, low)
        yield f"{prefix}indexer.weights_proj.weight", (count, hidden)
    yield f"{prefix}wo_a.weight", (one.o_groups * one.o_lora_rank, heads * dim // one.o_groups)
    yield f"{prefix}wo_b.weight", (hidden, one.o_groups * one.o_lora_rank)


def _compressor(prefix: str, hidden: int, rate: int, width: int, wide: int) -> _Named:
    yield f"{prefix}wkv.weight", (wide, hidden)
    yield f"{prefix}wgate.weight", (wide, hidden)
    yield f"{prefix}ape", (rate, wide)
    yield f"{prefix}norm.weight", (width,)


def _experts(config: ModelConfig, layer: int, prefix: str) -> _Named:
    hidden, inner = config.hidden_size, config.moe_intermediate_size
    yield f"{prefix}gate.weight", (config.num_experts, hidden)
    if layer in config.hash_layers:
        yield f"{prefix}gate.tid2eid", (config.vocab_size, config.num_experts_per_tok)
    else:
        yield f"{prefix}gate.bias", (config.num_experts,)
    of = [(f"{prefix}experts.{expert}.", inner) for expert in range(config.num_experts)]
    of.append((f"{prefix}shared_experts.", config.num_shared_experts * inner))
    for name, rows in of:
        yield f"{name}w1.weight", (rows, hidden)
        yield f"{name}w2.weight", (hidden, rows)
        yield f"{name}w3.weight", (rows, hidden)

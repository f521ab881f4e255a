"""Reads hyperparameters from GGUF metadata or `config.json` into a `ModelConfig`. Absurd values are refused."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.config import Architecture, ModelConfig, RopeScaling
from deepwell.models.formats.config_blocks import json_blocks
from deepwell.models.formats.config_compressed import check_compressed, json_compressed, with_rotation
from deepwell.models.formats.config_encoder import ENCODERS, check_encoder, e5_encoder, json_encoder
from deepwell.models.formats.config_fields import SUPPORTED, Fields
from deepwell.models.formats.config_mixture import MAX_HEAD_DIM, check_mixture, gguf_mixture, json_mixture
from deepwell.models.formats.e5 import E5Header
from deepwell.models.formats.gguf import GGUFHeader
from deepwell.models.formats.safetensors import read_json

__all__ = [
    "END_TOKENS",
    "SUPPORTED",
    "config_from_directory",
    "config_from_e5",
    "config_from_gguf",
    "llama3_frequency_factors",
    "refuse_unknown_architecture",
]

MAX_GROUP: Final = 96  # query heads per KV head, the limit of the attention kernels
_ARCHITECTURES: Final[dict[str, Architecture]] = {
    "LlamaForCausalLM": "llama",
    "DeciLMForCausalLM": "llama",  # with parts of each layer in `block_configs`
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "DeepseekV32ForCausalLM": "deepseek_v32",
    "DeepseekV4ForCausalLM": "deepseek_v4",
}
_GGUF_ARCHITECTURES: Final[dict[str, Architecture]] = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "deepseek2": "deepseek_v2",  # or V3 if the metadata say so
}
# Chat models end a turn with one token and a document with another. GGUF metadata often names only one of them.
END_TOKENS: Final = frozenset(
    {
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|EOT|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    }
)
_USE_SAFETENSORS: Final = "use the safetensors of this model, whose config.json names the scaling"
_CONTROL_TYPES: Final = (3, 4)  # tokenizer.ggml.token_type: control, user-defined

# No model in use comes near these bounds. A header beyond them is corrupt or hostile.
_BOUNDS: Final[dict[str, tuple[int, int]]] = {
    "vocab_size": (1, 1 << 24),
    "hidden_size": (1, 1 << 17),
    "intermediate_size": (1, 1 << 20),
    "num_hidden_layers": (1, 1024),
    "num_attention_heads": (1, 4096),
    "num_key_value_heads": (1, 4096),
    "head_dim": (2, MAX_HEAD_DIM),
    "max_position_embeddings": (1, 1 << 24),
}


def _unknown_architecture(where: str, name: object) -> UnsupportedModel:
    return UnsupportedModel.of(
        "architecture_unsupported", where=where, architecture=reprlib.repr(name), supported=SUPPORTED
    )


def config_from_gguf(
    header: GGUFHeader, rope_factors: NDArray[np.float32] | None = None, *, where: str = "GGUF metadata"
) -> ModelConfig:
    """Reads `llama.*`, `qwen2.*`, `qwen3.*`, `qwen3moe.*` or `deepseek2.*`.

    Args:
        header: The parsed file.
        rope_factors: The tensor `rope_freqs.weight`, [head_dim / 2], in which converters store Llama 3's scaling.
        where: Name of the file in errors.

    Raises:
        UnsupportedModel: another architecture, or a feature that Deepwell does not run.
        InvalidModelFile: missing or absurd values.
    """
    architecture = Fields(header.metadata, where).text("general.architecture")
    if architecture not in _GGUF_ARCHITECTURES:
        raise _unknown_architecture(where, architecture)
    fields = Fields(header.metadata, where, f"{architecture}.")
    if architecture in ("llama", "qwen2", "qwen3") and fields.integer("expert_count", 0):
        raise UnsupportedModel(f"{where}: it is a mixture of experts", fix=SUPPORTED)
    mixture = gguf_mixture(fields, header) if architecture in ("deepseek2", "qwen3moe") else {}
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise fields.error("the tensor 'token_embd.weight' is missing")
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    head_dim = fields.integer("attention.key_length", hidden // heads if heads > 0 else 0)
    if architecture == "deepseek2":
        head_dim = mixture["head_dim"]
    for key in () if architecture == "deepseek2" else ("attention.value_length", "rope.dimension_count"):
        if (value := fields.integer(key, head_dim)) != head_dim:
            raise UnsupportedModel(
                f"{where}: {key} is {value}, but heads have {head_dim} dimensions", fix=SUPPORTED
            )
    tokenizer = Fields(header.metadata, where, "tokenizer.ggml.")
    eos = [*tokenizer.token_ids("eos_token_id"), *tokenizer.token_ids("eot_token_id")]
    eos += [*tokenizer.token_ids("eom_token_id"), *_named_end_tokens(header.metadata)]
    config = ModelConfig(
        architecture=_GGUF_ARCHITECTURES[architecture],
        vocab_size=embedding.shape[0],
        hidden_size=hidden,
        intermediate_size=fields.integer("feed_forward_length"),
        num_hidden_layers=fields.integer("block_count"),
        num_attention_heads=heads,
        # Files with absorbed projections write 1 here.
        num_key_value_heads=heads
        if architecture == "deepseek2"
        else fields.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=fields.integer("context_length"),
        # The metadata holds float32, so 1e-5 reads as 9.99999974e-06. Seven digits give back the value that was written.
        rms_norm_eps=float(f"{fields.number('attention.layer_norm_rms_epsilon', 1e-5):.7g}"),
        rope_theta=fields.number("rope.freq_base", 10_000.0),
        tie_word_embeddings="output.weight" not in header.tensors,
        attention_bias=architecture == "qwen2" or "blk.0.attn_q.bias" in header.tensors,
        bos_token_id=next(iter(tokenizer.token_ids("bos_token_id")), None),
        eos_token_ids=tuple(dict.fromkeys(eos)),
        pad_token_id=next(iter(tokenizer.token_ids("padding_token_id")), None),
    )
    config = replace(config, **mixture)
    _check(config, fields)
    tokens = header.metadata.get("tokenizer.ggml.tokens", [])
    if not isinstance(tokens, list) or len(cast("list[Any]", tokens)) > config.vocab_size:
        raise fields.error(f"tokenizer.ggml.tokens is not a list of at most {config.vocab_size} strings")
    return _with_scaling(config, _gguf_rope_scaling(fields, config, rope_factors), fields)


def config_from_e5(header: E5Header, *, where: str) -> ModelConfig:
    """Returns the configuration of an E5S1 file.

    Args:
        header: The parsed file.
        where: Name of the file in errors.

    Raises:
        InvalidModelFile: absurd values.
    """
    config, fields = e5_encoder(header, where), Fields({}, where)
    _check(config, fields)
    check_encoder(config, fields)
    return config


def refuse_unknown_architecture(path: Path) -> None:
    """Refuses a `config.json` that names an architecture which nobody can serve. One that names none is left to the reader.

    Raises:
        UnsupportedModel: it names one.
        InvalidModelFile: it is not JSON.
    """
    names = Fields(read_json(path), path.name).get("architectures")
    name: Any = cast("list[Any]", names)[0] if isinstance(names, list) and names else None
    if isinstance(name, str) and name not in ENCODERS and name not in _ARCHITECTURES:
        raise _unknown_architecture(path.name, name)


def config_from_directory(directory: Path) -> ModelConfig:
    """Reads `config.json` and, for the tokens that end a turn, `generation_config.json`.

    Raises:
        UnsupportedModel: another architecture, or a feature that Deepwell does not run.
        InvalidModelFile: missing or absurd values.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise InvalidModelFile(f"{directory} holds no config.json", fix="pull the model again")
    fields = Fields(read_json(path), "config.json")
    names = fields.get("architectures")
    name = cast("list[Any]", names)[0] if isinstance(names, list) and names else None
    if isinstance(name, str) and name in ENCODERS:
        config = json_encoder(fields, ENCODERS[name], directory)
        _check(config, fields)
        check_encoder(config, fields)
        return config
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        raise _unknown_architecture("config.json", name)
    architecture = _ARCHITECTURES[name]
    _refuse_unsupported(fields, architecture)
    if name == "DeciLMForCausalLM":
        mixture = json_blocks(fields)
    elif architecture == "deepseek_v4":
        mixture = json_compressed(fields)
    else:
        mixture = json_mixture(fields, architecture)
    generation_path = directory / "generation_config.json"
    generation = Fields(
        read_json(generation_path) if generation_path.is_file() else {}, "generation_config.json"
    )
    eos = generation.token_ids("eos_token_id") or fields.token_ids("eos_token_id")
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    rope = fields.section("rope_parameters") or fields.section("rope_scaling")
    theta = fields.number("rope_theta", 10_000.0)
    config = ModelConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=mixture.get("intermediate_size") or fields.integer("intermediate_size"),
        num_hidden_layers=fields.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=mixture.get("num_key_value_heads")
        or fields.integer("num_key_value_heads", heads),
        head_dim=mixture.get("head_dim")
        or fields.integer("head_dim", _default_head_dim(architecture, hidden, heads)),
        max_position_embeddings=fields.integer("max_position_embeddings"),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=rope.number("rope_theta", theta) if rope else theta,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        attention_bias=architecture == "qwen2" or fields.boolean("attention_bias", False),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
        eos_token_ids=tuple(dict.fromkeys(eos)),
        pad_token_id=next(
            iter(fields.token_ids("pad_token_id") or generation.token_ids("pad_token_id")), None
        ),
    )
    config = replace(config, **mixture)
    if architecture == "deepseek_v4":
        config = with_rotation(config, fields, _json_rope_scaling, _check_scaling)
        _check(config, fields)
        return config
    _check(config, fields)
    return _with_scaling(config, _json_rope_scaling(rope, config) if rope else None, fields)


def _default_head_dim(architecture: str, hidden: int, heads: int) -> int:
    """Returns the head size that transformers assumes if `config.json` does not give one."""
    if architecture == "qwen3":
        return 128
    return hidden // heads if heads > 0 else 0


def _refuse_unsupported(fields: Fields, architecture: Architecture) -> None:
    """Refuses features of the supported families' `config.json` that would silently change the output if ignored."""
    if (act := fields.text("hidden_act")) not in (None, "silu", "swish"):
        raise UnsupportedModel(
            f"config.json: the activation is {reprlib.repr(act)}", fix="only silu is supported"
        )
    if fields.boolean("mlp_bias", False):
        raise UnsupportedModel("config.json: the MLP has biases", fix=SUPPORTED)
    if fields.boolean("use_sliding_window", False):
        raise UnsupportedModel("config.json: it uses sliding window attention", fix=SUPPORTED)
    if architecture != "deepseek_v4" and fields.number("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModel("config.json: only a part of each head is rotated", fix=SUPPORTED)


def _check(config: ModelConfig, fields: Fields) -> None:
    check = check_mixture if config.compression is None else check_compressed
    check(config, fields)
    for key, (low, high) in _BOUNDS.items():
        if key == "head_dim" and config.compression is not None:
            continue  # checked with its own bounds
        if not low <= (value := getattr(config, key)) <= high:
            raise fields.error(f"{key} is {value}, expected {low} to {high}")
    if config.num_attention_heads % config.num_key_value_heads:
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        raise fields.error(f"{heads} attention heads cannot share {kv_heads} key and value heads")
    group = config.num_attention_heads // config.num_key_value_heads
    if group > MAX_GROUP and config.compression is None:
        raise UnsupportedModel(
            f"{fields.where}: {group} query heads share a key and value head",
            fix=f"use a model whose groups have at most {MAX_GROUP}",
        )
    if config.rotary_dim % 2:
        key = "qk_rope_head_dim" if config.is_latent else "head_dim"
        raise fields.error(f"{key} is {config.rotary_dim}; rotary embeddings need an even number")
    if not 0.0 < config.rms_norm_eps < 1.0:
        raise fields.error(f"rms_norm_eps is {config.rms_norm_eps}")
    if not 1.0 < config.rope_theta < 1e12:
        raise fields.error(f"rope_theta is {config.rope_theta}")
    tokens = [
        *config.eos_token_ids,
        *(t for t in (config.bos_token_id, config.pad_token_id) if t is not None),
    ]
    for token in tokens:
        if not 0 <= token < config.vocab_size:
            raise fields.error(
                f"the special token {token} lies outside the vocabulary of {config.vocab_size}"
            )


def _with_scaling(config: ModelConfig, scaling: RopeScaling | None, fields: Fields) -> ModelConfig:
    if scaling is None:
        return config
    _check_scaling(scaling, fields)
    if scaling.kind == "yarn":
        # Qwen2.5 documents yarn as an addition to an unchanged max_position_embeddings.
        original = scaling.original_max_position_embeddings
        longest = min(max(config.max_position_embeddings, int(original * scaling.factor)), 1 << 24)
        config = replace(config, max_position_embeddings=longest)
    return replace(config, rope_scaling=scaling)


def _check_scaling(scaling: RopeScaling, fields: Fields) -> None:
    if not 1.0 <= scaling.factor <= 1e4:
        raise fields.error(f"the rope scaling factor is {scaling.factor}, expected 1 to 10000")
    original = scaling.original_max_position_embeddings
    if scaling.kind != "linear" and not 1 <= original <= 1 << 24:
        raise fields.error(f"the rope scaling's original_max_position_embeddings is {original}")
    if scaling.attention_factor is not None and not 0.0 < scaling.attention_factor <= 1e4:
        raise fields.error(
            f"the rope scaling's attention_factor is {scaling.attention_factor}, expected up to 10000"
        )
    if scaling.kind == "llama3" and not 0.0 < scaling.low_freq_factor < scaling.high_freq_factor:
        raise fields.error("the rope scaling needs 0 < low_freq_factor < high_freq_factor")
    if scaling.kind == "yarn":
        if not 0.0 <= scaling.mscale_all_dim <= 10.0:
            raise fields.error(
                f"the rope scaling's mscale_all_dim is {scaling.mscale_all_dim}, expected 0 to 10"
            )
        if not 0.0 < scaling.beta_slow < scaling.beta_fast:
            raise fields.error("the rope scaling needs 0 < beta_slow < beta_fast")


def _json_rope_scaling(rope: Fields, config: ModelConfig) -> RopeScaling | None:
    kind = rope.text("rope_type") or rope.text("type")
    if kind in (None, "default"):
        return None
    factor = rope.number("factor", 1.0)
    original = rope.integer("original_max_position_embeddings", config.max_position_embeddings)
    if kind == "linear":
        return RopeScaling("linear", factor)
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            factor,
            original,
            low_freq_factor=rope.number("low_freq_factor", 1.0),
            high_freq_factor=rope.number("high_freq_factor", 4.0),
        )
    if kind == "yarn":
        if not rope.boolean("truncate", True):
            raise UnsupportedModel("config.json: yarn without truncation", fix=SUPPORTED)
        return RopeScaling(
            "yarn",
            factor,
            original,
            beta_fast=rope.number("beta_fast", 32.0),
            beta_slow=rope.number("beta_slow", 1.0),
            attention_factor=_yarn_attention_factor(rope, factor),
            mscale_all_dim=rope.number("mscale_all_dim", 0.0) if config.is_latent else 0.0,
        )
    if kind == "longrope":
        return _longrope(rope, config, original)
    raise UnsupportedModel(
        f"config.json: rope scaling of type {reprlib.repr(kind)}",
        fix="linear, llama3, yarn and longrope are supported",
    )


def _longrope(rope: Fields, config: ModelConfig, original: int) -> RopeScaling:
    """Returns a divisor for each frequency. Only factors that are the same for short and long texts are run."""
    short, long = (_factors(rope, key, config.rotary_dim // 2) for key in ("short_factor", "long_factor"))
    if short != long:
        raise UnsupportedModel(
            "config.json: longrope whose factors depend on the length of the text",
            fix="linear, llama3, yarn and longrope with one set of factors are supported",
        )
    factor = rope.number("factor", config.max_position_embeddings / max(original, 1))
    if rope.get("attention_factor") is not None:
        attention = rope.number("attention_factor", 1.0)
    elif factor <= 1.0:
        attention = 1.0
    else:
        attention = math.sqrt(1.0 + math.log(factor) / math.log(max(original, 2)))
    return RopeScaling("longrope", factor, original, attention_factor=attention, factors=short)


def _factors(rope: Fields, key: str, count: int) -> tuple[float, ...]:
    given = rope.get(key)
    values = cast("list[Any]", given) if isinstance(given, list) else []
    sound = [
        float(one)
        for one in values
        if isinstance(one, int | float) and not isinstance(one, bool) and 1e-12 <= one <= 1e12
    ]
    if len(sound) != len(values) or len(sound) != count:
        raise rope.error(f"{key} is {reprlib.repr(values)}, not {count} factors")
    return tuple(sound)


def _yarn_attention_factor(rope: Fields, factor: float) -> float | None:
    """Returns the factor of cosines and sines that `config.json` asks for; None stands for yarn's own.

    `attention_factor` replaces yarn's own, as does the ratio of DeepSeek's two mscales (transformers). `attn_factor` is
    multiplied into it: vLLM reads it so, and DeepSeek-R1-0528-Qwen3-8B has 0.878 there, which makes the product 1.
    """
    if rope.get("attention_factor") is not None:
        return rope.number("attention_factor", 1.0)
    ratio = _mscale_ratio(rope, rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0), factor)
    return _times(ratio, rope.number("attn_factor", 1.0), factor)


def _mscale(factor: float, weight: float = 1.0) -> float:
    """Returns yarn's factor of cosines and sines (arXiv:2309.00071, section 3.4), its logarithm weighted as DeepSeek does."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def _mscale_ratio(fields: Fields, mscale: float, all_dim: float, factor: float) -> float | None:
    if not mscale or not all_dim or factor <= 1.0:
        return None
    if (divisor := _mscale(factor, all_dim)) <= 0.0:
        raise fields.error(f"the rope scaling's mscale_all_dim is {all_dim}, expected 0 to 10")
    return _mscale(factor, mscale) / divisor


def _times(own: float | None, multiplier: float, factor: float) -> float | None:
    if multiplier == 1.0:
        return own
    # GGUF holds float32: six digits make the product the same in both formats.
    return float(f"{multiplier * (_mscale(factor) if own is None else own):.6g}")


def _gguf_rope_scaling(
    fields: Fields, config: ModelConfig, rope_factors: NDArray[np.float32] | None
) -> RopeScaling | None:
    if rope_factors is not None and not np.all(rope_factors == 1.0):
        return _llama3_from_factors(fields, config, rope_factors)
    kind = fields.text("rope.scaling.type")
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    if kind == "none" or (kind in (None, "linear") and factor == 1.0):
        return None
    if kind in (None, "linear"):
        return RopeScaling("linear", factor)
    if kind == "yarn":
        # Files of latent attention hold 0.1 mscale_all_dim, whatever their age, and no mscale. Every released model has an
        # equal one. (https://github.com/ggml-org/llama.cpp/pull/17945)
        weight = 10 * fields.number("rope.scaling.yarn_log_multiplier", 0.0) if config.is_latent else 0.0
        all_dim = float(f"{weight:.6g}")
        return RopeScaling(
            "yarn",
            factor,
            fields.integer("rope.scaling.original_context_length", config.max_position_embeddings),
            beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1.0),
            attention_factor=_gguf_attention_factor(fields, config, factor, all_dim),
            mscale_all_dim=all_dim,
        )
    raise UnsupportedModel(
        f"{fields.where}: rope scaling of type {reprlib.repr(kind)}",
        fix="linear, llama3 and yarn are supported",
    )


def _gguf_attention_factor(
    fields: Fields, config: ModelConfig, factor: float, all_dim: float
) -> float | None:
    """Returns the factor of cosines and sines; None stands for yarn's own.

    `attn_factor` is multiplied into it. llama.cpp's converter writes `yarn_attn_factor` from `attention_factor`, which
    replaces yarn's own, or from `attn_factor`, and llama.cpp writes 1 where it saves a model that has neither. So only
    values are read with which it can be one thing alone.
    """
    ratio = _mscale_ratio(fields, all_dim, all_dim, factor)
    own = _mscale(factor) if ratio is None else ratio
    multiplier = float(f"{fields.number('rope.scaling.attn_factor', 1.0):.7g}")
    converted = fields.number("rope.scaling.yarn_attn_factor", 1.0)
    if multiplier != 1.0 and config.is_latent:
        raise UnsupportedModel(  # llama.cpp scales all dimensions of the scores by its square
            f"{fields.where}: rope.scaling.attn_factor is {multiplier:g} beside latent attention",
            fix=_USE_SAFETENSORS,
        )
    if converted == 1.0 or math.isclose(converted, own, rel_tol=1e-5):
        return _times(ratio, multiplier, factor)
    if multiplier == 1.0 and math.isclose(converted * own, 1.0, rel_tol=1e-5):
        return 1.0
    raise UnsupportedModel(
        f"{fields.where}: rope.scaling.yarn_attn_factor is {converted:g}, which replaces yarn's own factor or is"
        " multiplied into it",
        fix=_USE_SAFETENSORS,
    )


def llama3_frequency_factors(scaling: RopeScaling, head_dim: int, theta: float) -> NDArray[np.float32]:
    """Returns the divisor of each rotary frequency, [head_dim / 2] (Llama 3.1 reference code)."""
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    # Turns over the original context.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / scaling.factor + smooth)).astype(np.float32)


def _llama3_from_factors(fields: Fields, config: ModelConfig, factors: NDArray[np.float32]) -> RopeScaling:
    """Recovers the parameters behind `rope_freqs.weight`. The released Llama 3.x models differ only in `factor`."""
    if factors.shape != (config.head_dim // 2,) or not np.all(np.isfinite(factors)) or factors.min() < 1.0:
        raise fields.error(f"rope_freqs.weight is not {config.head_dim // 2} factors of at least 1")
    original = fields.integer("rope.scaling.original_context_length", 8192)
    scaling = RopeScaling("llama3", float(factors.max()), original)
    if original < 1 or not np.allclose(
        llama3_frequency_factors(scaling, config.head_dim, config.rope_theta), factors, rtol=1e-3
    ):
        raise UnsupportedModel(
            f"{fields.where}: rope_freqs.weight does not follow Llama 3's formula",
            fix=_USE_SAFETENSORS,
        )
    return scaling


def _named_end_tokens(metadata: Mapping[str, Any]) -> list[int]:
    tokens, types = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(types, np.ndarray):
        return []
    control = np.flatnonzero(np.isin(cast("NDArray[Any]", types), _CONTROL_TYPES))
    texts = cast("list[Any]", tokens)
    return [int(token) for token in control if token < len(texts) and _is_end_token(texts[token])]


def _is_end_token(text: Any) -> bool:
    return isinstance(text, str) and text in END_TOKENS

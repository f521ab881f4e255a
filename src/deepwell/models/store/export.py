"""Exports a checkpoint of any format to a directory that `transformers` loads: weights, configuration, tokenizer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.models.formats.checkpoint import Checkpoint, StoredTensor
from deepwell.models.formats.config import ModelConfig, RopeScaling
from deepwell.models.formats.config_blocks import blocks_json
from deepwell.models.formats.safetensors import read_json
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["ExportDtype", "config_json", "export_safetensors"]

ExportDtype = Literal["float32", "bfloat16", "float16"]
_STORED: Final[dict[ExportDtype, tuple[str, int]]] = {
    "float32": ("F32", 4),
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
}
_CLASSES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}
MAX_SHARD_BYTES: Final = 4_000_000_000
_CHUNK_VALUES: Final = 1 << 21  # values converted at a time: 8 MB of float32


@dataclass(frozen=True, slots=True)
class _Shard:
    name: str
    tensors: tuple[StoredTensor, ...]


def export_safetensors(
    checkpoint: Checkpoint,
    directory: Path,
    dtype: ExportDtype = "float32",
    *,
    tokenizer: Tokenizer | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
    replaced: Mapping[str, StoredTensor] | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Writes `config.json`, `generation_config.json`, the weights and the tokenizer's files.

    Tensors are streamed in pieces of a few megabytes. The directory gets its name only when it is complete.

    Args:
        checkpoint: The source.
        directory: The target; it must not exist, or must be empty.
        dtype: The type of every tensor written, except for V4's tables of experts, which are I64.
        tokenizer: If given, written next to the weights.
        max_shard_bytes: Weights larger than this are split between tensors, with an index.
        progress: Called with the bytes written since the last call.
        replaced: Tensors to write in place of those of the checkpoint, by name.
        beside: Texts of further files, by name.

    Raises:
        InvalidRequest: `directory` is not empty, or `dtype` is not one of the three.
        UnsupportedModel: a weight exceeds the range of float16, or the model is neither a dense Llama or Qwen nor a folder
            of safetensors, whose configuration is kept.
    """
    if dtype not in get_args(ExportDtype):
        raise InvalidRequest(
            f"unknown dtype {dtype!r}", fix=f"choose one of {', '.join(get_args(ExportDtype))}"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidRequest(f"{directory} is not empty", fix="choose a directory that does not exist yet")
    source = _source_config(checkpoint)
    if checkpoint.config.architecture not in _CLASSES and source is None:
        raise UnsupportedModel(
            f"a model of the architecture {checkpoint.config.architecture} cannot be exported",
            fix="use the publisher's safetensors",
        )
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        written = config_json(checkpoint.config, dtype) if source is None else source | {"torch_dtype": dtype}
        _write_json(partial / "config.json", written)
        _write_json(partial / "generation_config.json", _generation_json(checkpoint.config))
        if tokenizer is not None:
            _write_tokenizer(partial, tokenizer, checkpoint.config)
        _write_weights(partial, checkpoint, dtype, max_shard_bytes, progress, replaced or {})
        for name, text in (beside or {}).items():
            # Names of files that are no UTF-8 come as halves of surrogate pairs, which JSON has these escapes for.
            (partial / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_weights(
    directory: Path,
    checkpoint: Checkpoint,
    dtype: ExportDtype,
    max_shard_bytes: int,
    progress: Callable[[int], None] | None,
    replaced: Mapping[str, StoredTensor],
) -> None:
    tensors = [
        *(replaced.get(name) or checkpoint.tensor(name) for name in checkpoint.names),
        *_zero_output_biases(checkpoint.config),
    ]
    shards = _plan_shards(tensors, dtype, max_shard_bytes)
    for shard in shards:
        with (directory / shard.name).open("wb") as file:
            file.write(_header(shard.tensors, dtype))
            for tensor in shard.tensors:
                for data in _pieces(tensor, dtype):
                    file.write(data.data)
                    if progress is not None:
                        progress(data.nbytes)
                checkpoint.release_pages()
    if len(shards) > 1:
        total = sum(_nbytes(tensor, dtype) for tensor in tensors)
        weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _source_config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Returns the configuration of a mixture or of latent attention as its folder has it; None: it is made from ours."""
    written = checkpoint.config.architecture in _CLASSES and not checkpoint.config.is_latent
    if written or checkpoint.format != "safetensors":
        return None
    config = dict(read_json(checkpoint.paths[0].parent / "config.json"))
    for name in (
        "quantization_config",
        "expert_dtype",
        "auto_map",
        "dtype",
    ):  # weights are written as they are, and no code is named
        config.pop(name, None)
    return config


def _zero_output_biases(config: ModelConfig) -> Iterator[StoredTensor]:
    """Yields the `o_proj` biases that transformers also expects if `attention_bias` of a Llama or Qwen3 model is set."""
    if config.architecture in ("llama", "qwen3", "qwen3_moe") and config.attention_bias:
        zeros = np.zeros((1, 4 * config.hidden_size), np.uint8)
        for layer in filter(config.has_attention, range(config.num_hidden_layers)):
            yield StoredTensor(
                f"model.layers.{layer}.self_attn.o_proj.bias", (config.hidden_size,), "F32", zeros
            )


def _plan_shards(tensors: Sequence[StoredTensor], dtype: ExportDtype, max_bytes: int) -> list[_Shard]:
    """Fills shards in order. A tensor larger than a shard gets a shard of its own."""
    groups: list[list[StoredTensor]] = [[]]
    used = 0
    for tensor in tensors:
        nbytes = _nbytes(tensor, dtype)
        if groups[-1] and used + nbytes > max_bytes:
            groups.append([])
            used = 0
        groups[-1].append(tensor)
        used += nbytes
    if len(groups) == 1:
        return [_Shard("model.safetensors", tuple(groups[0]))]
    return [
        _Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def _written(tensor: StoredTensor, dtype: ExportDtype) -> tuple[str, int]:
    """Returns the type of a written tensor, and the bytes of a value. Tables of numbers stay what they are."""
    return ("I64", 8) if tensor.dtype == "I64" else _STORED[dtype]


def _nbytes(tensor: StoredTensor, dtype: ExportDtype) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * _written(tensor, dtype)[1]


def _header(tensors: Sequence[StoredTensor], dtype: ExportDtype) -> bytes:
    """Returns the length-prefixed JSON header, padded with spaces so that the data starts 8-byte aligned."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + _nbytes(tensor, dtype)
        stored = _written(tensor, dtype)[0]
        entries[tensor.name] = {"dtype": stored, "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(tensor: StoredTensor, dtype: ExportDtype) -> Iterator[NDArray[Any]]:
    """Yields a tensor in pieces of some megabytes, as they are written."""
    if len(tensor.shape) == 1:
        yield _convert(tensor.float32(), tensor.name, dtype)
        return
    rows, cols = tensor.shape
    step = max(1, _CHUNK_VALUES // cols)
    for start in range(0, rows, step):
        piece = slice(start, start + step)
        if tensor.dtype == "I64":
            yield np.ascontiguousarray(tensor.raw_rows(piece))
        else:
            yield _convert(tensor.float32(piece), tensor.name, dtype)


def _convert(values: NDArray[np.float32], name: str, dtype: ExportDtype) -> NDArray[Any]:
    """Rounds to nearest even; NaN stays NaN."""
    values = np.ascontiguousarray(values, np.dtype("<f4"))
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore"):
            half = values.astype("<f2")
        if np.any(np.isinf(half) & np.isfinite(values)):
            raise UnsupportedModel(
                f"{name} holds weights beyond the range of float16", fix="use --dtype bfloat16"
            )
        return half
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet_nan, rounded).astype("<u2")


def config_json(config: ModelConfig, dtype: ExportDtype) -> dict[str, Any]:
    """Returns `config.json` with the names of transformers 4, which transformers 5 reads too."""
    result: dict[str, Any] = {
        "architectures": [_CLASSES[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_json(config.rope_scaling) if config.rope_scaling else None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": _eos_json(config),
        "pad_token_id": config.pad_token_id,
    }
    if config.architecture == "qwen2":
        return result
    if config.is_latent:
        del result["head_dim"]  # follows from the parts of a head
        return result | _latent_json(config)
    result |= {"attention_bias": config.attention_bias, "mlp_bias": False}
    return result | blocks_json(config) if config.blocks else result


def _latent_json(config: ModelConfig) -> dict[str, Any]:
    """Returns the fields of DeepSeek-V3 that a dense model lacks."""
    return {
        "attention_bias": False,
        "q_lora_rank": config.q_lora_rank or None,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "rope_interleave": config.rope_interleave,
        "n_routed_experts": config.num_experts,
        "n_shared_experts": config.num_shared_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "moe_intermediate_size": config.moe_intermediate_size,
        "first_k_dense_replace": config.first_k_dense_replace,
        "moe_layer_freq": 1,
        "n_group": config.n_group,
        "topk_group": config.topk_group,
        "norm_topk_prob": config.norm_topk_prob,
        "routed_scaling_factor": config.routed_scaling_factor,
        "scoring_func": config.scoring_func,
        "topk_method": config.topk_method,
        "num_nextn_predict_layers": config.num_nextn_predict_layers,
    }


def _rope_json(scaling: RopeScaling) -> dict[str, Any]:
    result: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        result["original_max_position_embeddings"] = scaling.original_max_position_embeddings
    if scaling.kind == "llama3":
        result["low_freq_factor"] = scaling.low_freq_factor
        result["high_freq_factor"] = scaling.high_freq_factor
    if scaling.kind == "yarn":
        result["beta_fast"] = scaling.beta_fast
        result["beta_slow"] = scaling.beta_slow
        if scaling.mscale_all_dim:
            result["mscale_all_dim"] = scaling.mscale_all_dim
        if scaling.mscale_all_dim and scaling.attention_factor == 1.0:
            result["mscale"] = scaling.mscale_all_dim  # vLLM reads the two alone
        elif scaling.attention_factor is not None:
            result["attention_factor"] = scaling.attention_factor
    if scaling.kind == "longrope":
        result["short_factor"] = result["long_factor"] = list(scaling.factors)
        result["attention_factor"] = 1.0 if scaling.attention_factor is None else scaling.attention_factor
    return result


def _eos_json(config: ModelConfig) -> int | list[int] | None:
    if len(config.eos_token_ids) == 1:
        return config.eos_token_ids[0]
    return list(config.eos_token_ids) or None


def _generation_json(config: ModelConfig) -> dict[str, Any]:
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": _eos_json(config),
        "pad_token_id": config.pad_token_id,
    }
    return {key: value for key, value in ids.items() if value is not None}


def _write_tokenizer(directory: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
    (directory / "tokenizer.json").write_text(tokenizer.backend.to_str(), encoding="utf-8")
    fields: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "chat_template": tokenizer.chat_template,
    }
    fields = {key: value for key, value in fields.items() if value is not None}
    _write_json(directory / "tokenizer_config.json", fields)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

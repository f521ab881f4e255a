"""Loads a model of the store, or a folder, into transformers: weights and configuration come through Deepwell's own readers.

Nothing of a file is executed and no name is looked up elsewhere: the class of the model follows from the architecture that the
reader recognised, and quantised weights are dequantised as serving dequantises them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from deepwell.dialogue.text import Codec
from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import Checkpoint, open_checkpoint
from deepwell.models.formats.config import Compression, ModelConfig, RopeScaling
from deepwell.models.store.layout_compressed import parameter_source
from deepwell.models.store.manifest import Manifest
from deepwell.models.store.store import ModelStore, declared_licence
from deepwell.settings import Settings

__all__ = ["Base", "empty_model", "hf_config", "load_model", "model_of", "open_base", "released_weights"]

_CLASSES: Final = {
    "llama": "Llama",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3Moe",
    "deepseek_v2": "DeepseekV2",
    "deepseek_v3": "DeepseekV3",
    "deepseek_v4": "DeepseekV4",
}


@dataclass(frozen=True)
class Base:
    """A model to train: its checkpoint, and the tokenizer and template that serve it.

    Attributes:
        licence: SPDX identifier as far as the store or the model's own files name it, else empty.
    """

    name: str
    path: Path
    checkpoint: Checkpoint
    codec: Codec
    licence: str = ""

    @property
    def config(self) -> ModelConfig:
        """Hyperparameters."""
        return self.checkpoint.config

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights; reads all of them."""
        return self.checkpoint.sha256


def open_base(model: str, models_dir: Path | None = None) -> Base:
    """Finds a model by its name in the store or by its path, and reads its headers and its tokenizer.

    Raises:
        ModelNotFound: there is none.
        UnsupportedModel: it can be neither trained nor compressed.
        InvalidModelFile: a file is not sound.
    """
    if models_dir is None:
        # A path needs no store, and the training of a server has no settings that can be loaded: those with secrets are missing
        path = Path(model)
        models_dir = path.parent if path.is_absolute() else Settings.load().models_dir
    stored = ModelStore(models_dir).resolve(model)
    checkpoint = open_checkpoint(stored.path)
    if checkpoint.config.architecture not in _CLASSES:
        raise UnsupportedModel.of(
            "base_architecture", architecture=checkpoint.config.architecture, known=", ".join(_CLASSES)
        )
    if checkpoint.packed_precision is not None:
        raise UnsupportedModel.of("base_packed", name=stored.name)
    if checkpoint.config.blocks:
        raise UnsupportedModel.of("base_layers_differ", name=stored.name)
    manifest = stored.manifest or _manifest_beside(stored.path)
    licence = manifest.licence if manifest else declared_licence(stored.path)
    name = manifest.name if manifest else stored.name
    return Base(name, stored.path, checkpoint, Codec.load(stored.path), licence)


def _manifest_beside(path: Path) -> Manifest | None:
    """Returns the manifest of a model that is named by its path within a store; None: it is in none."""
    try:
        return Manifest.read(path if path.is_dir() else path.parent)
    except InvalidModelFile:
        return None


def load_model(base: Base, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Returns the model in evaluation mode, on the processor, with every weight in `dtype`."""
    model = model_of(base.config, _state(base.checkpoint, dtype), dtype)
    base.checkpoint.release_pages()
    return model


def model_of(
    config: ModelConfig, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Returns a model of a configuration in evaluation mode, from weights by the names of released checkpoints."""
    kind = getattr(transformers, f"{_CLASSES[config.architecture]}ForCausalLM")
    with _quiet():
        model = kind.from_pretrained(
            None,
            config=hf_config(config),
            state_dict=dict(state),
            dtype=dtype,
            attn_implementation="sdpa" if config.compression is None else "eager",  # V4 has no other
        )
    return model.eval()


def empty_model(base: Base) -> PreTrainedModel:
    """Returns the model without values, to count by: call it under `torch.device("meta")`."""
    kind = getattr(transformers, f"{_CLASSES[base.config.architecture]}ForCausalLM")
    return kind(hf_config(base.config))


def released_weights(parameters: Mapping[str, Tensor], config: ModelConfig) -> dict[str, NDArray[np.float32]]:
    """Returns trained weights by the names of released checkpoints, in which every expert has matrices of its own."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, parameter in parameters.items():
        values = parameter.detach().float().cpu().numpy()
        prefix, _, last = name.rpartition(".experts.")
        if not prefix:
            found[name] = values
            continue
        for expert, matrix in enumerate(values):  # [experts, outputs, inputs]
            parts = {"down_proj": matrix}
            if last == "gate_up_proj":
                gate, up = np.split(matrix, 2)
                parts = {"gate_proj": gate, "up_proj": up}
            for part, rows in parts.items():
                found[f"{prefix}.experts.{expert}.{part}.weight"] = rows
    if config.compression is not None:
        return {parameter_source(name) or name: values for name, values in found.items()}
    return found


def _state(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the tensors by the names of released checkpoints; transformers stacks experts itself."""
    state: dict[str, Tensor] = {}
    for name in checkpoint.names:
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if name.startswith("mtp.") or (layer and int(layer[1]) >= checkpoint.config.num_hidden_layers):
            continue  # prediction layers, which only serving uses
        kind = torch.long if name.endswith(".tid2eid") else dtype
        state[name] = torch.from_numpy(checkpoint.tensor(name).float32()).to(kind)
    if (
        checkpoint.config.architecture not in ("qwen2", "deepseek_v2", "deepseek_v3")
        and checkpoint.config.attention_bias
    ):
        # Llama's and Qwen3's attention_bias covers o_proj too, for which the reader accepts zeros alone.
        for number in range(checkpoint.config.num_hidden_layers):
            zeros = torch.zeros(checkpoint.config.hidden_size, dtype=dtype)
            state[f"model.layers.{number}.self_attn.o_proj.bias"] = zeros
    return state


def hf_config(config: ModelConfig) -> PreTrainedConfig:
    """Returns the configuration of transformers that computes the same function."""
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_theta": config.rope_theta, **_rope(config.rope_scaling)},
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids) or None,
        "pad_token_id": config.pad_token_id,
        "use_cache": False,
    }
    if config.compression is not None:
        return transformers.DeepseekV4Config(**values | _compressed(config, config.compression))
    if not config.is_latent:
        values["head_dim"] = config.head_dim
    if config.architecture in ("llama", "qwen3", "qwen3_moe"):
        values["attention_bias"] = config.attention_bias
    if config.architecture == "llama":
        values["mlp_bias"] = False
    if config.architecture == "qwen3_moe":
        values |= {
            "num_experts": config.num_experts,
            "num_experts_per_tok": config.num_experts_per_tok,
            "moe_intermediate_size": config.moe_intermediate_size,
            "decoder_sparse_step": config.decoder_sparse_step,
            "mlp_only_layers": list(config.mlp_only_layers),
            "norm_topk_prob": config.norm_topk_prob,
        }
    if config.is_latent:
        values |= _latent(config)
    return getattr(transformers, f"{_CLASSES[config.architecture]}Config")(**values)


def _latent(config: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        "q_lora_rank": config.q_lora_rank or None,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "attention_bias": False,
        "n_routed_experts": config.num_experts or None,
        "n_shared_experts": config.num_shared_experts or None,
        "num_experts_per_tok": config.num_experts_per_tok or None,
        "moe_intermediate_size": config.moe_intermediate_size,
        # Without experts every layer is dense.
        "first_k_dense_replace": config.first_k_dense_replace
        if config.num_experts
        else config.num_hidden_layers,
        "n_group": config.n_group,
        "topk_group": config.topk_group,
        "norm_topk_prob": config.norm_topk_prob,
        "routed_scaling_factor": config.routed_scaling_factor,
    }
    if config.architecture == "deepseek_v2":
        if not config.rope_interleave:
            raise UnsupportedModel(
                "DeepSeek V2 with rotary halves cannot be trained", fix="use the publisher's safetensors"
            )
        return values | {"topk_method": config.topk_method}
    return values | {"rope_interleave": config.rope_interleave}


def _compressed(config: ModelConfig, one: Compression) -> dict[str, Any]:
    names = {
        "sliding": "sliding_attention",
        "sparse": "compressed_sparse_attention",
        "heavy": "heavily_compressed_attention",
    }
    hyper = config.hyper
    if hyper is None:
        raise ValueError("a model of entries has several streams")
    layers = range(config.num_hidden_layers)
    factor = config.qk_rope_head_dim / config.head_dim
    main = {"rope_type": "default", "rope_theta": config.rope_theta, "partial_rotary_factor": factor}
    entries = {**_rope(one.rope_scaling), "rope_theta": one.rope_theta, "partial_rotary_factor": factor}
    return {
        "head_dim": config.head_dim,
        "moe_intermediate_size": config.moe_intermediate_size,
        "q_lora_rank": config.q_lora_rank,
        "n_routed_experts": config.num_experts,
        "n_shared_experts": config.num_shared_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "routed_scaling_factor": config.routed_scaling_factor,
        "layer_types": [names[kind] for kind in one.kinds],
        "mlp_layer_types": ["hash_moe" if layer in config.hash_layers else "moe" for layer in layers],
        "compress_rates": {names["sparse"]: one.sparse_rate, names["heavy"]: one.heavy_rate},
        "partial_rotary_factor": factor,
        "rope_parameters": {"main": main, "compress": entries},
        "compress_rope_theta": one.rope_theta,
        "swiglu_limit": config.swiglu_limit,
        "sliding_window": one.window,
        "o_groups": one.o_groups,
        "o_lora_rank": one.o_lora_rank,
        "index_n_heads": config.index_n_heads,
        "index_head_dim": config.index_head_dim,
        "index_topk": config.index_topk,
        "hc_mult": hyper.streams,
        "hc_sinkhorn_iters": hyper.rounds,
        "hc_eps": hyper.eps,
    }


def _rope(scaling: RopeScaling | None) -> Mapping[str, Any]:
    if scaling is None:
        return {"rope_type": "default"}
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        values["original_max_position_embeddings"] = scaling.original_max_position_embeddings
    if scaling.kind == "llama3":
        values |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        values |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        if scaling.attention_factor is not None:
            values["attention_factor"] = scaling.attention_factor
        if scaling.mscale_all_dim:
            values["mscale_all_dim"] = scaling.mscale_all_dim
    if scaling.kind == "longrope":
        factors = list(scaling.factors)
        values |= {
            "short_factor": factors,
            "long_factor": factors,
            "attention_factor": scaling.attention_factor,
        }
    return values


@contextmanager
def _quiet():
    """Keeps the progress bar of transformers away, which would mix with ours."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

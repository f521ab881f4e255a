"""Composes converted layers into a DeepSeek-V3 checkpoint, and writes its folder. Nothing here needs torch.

The parts come from elsewhere: attention by the names `self_attn.*`, MLPs by the names `mlp.*`, both as in released checkpoints,
where every expert has matrices of its own. What nobody converted is taken from the donor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import UnsupportedModel
from deepwell.models.formats.config import ModelConfig, RopeScaling
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.folder import model_card, write_folder
from deepwell.tuning.compress.sound import in_markdown

__all__ = [
    "NORM_EPS",
    "Latent",
    "Mixture",
    "check_convertible",
    "converted_config",
    "converted_tensors",
    "rescaled_residual",
    "write_converted",
]

NORM_EPS: Final = 1e-6
"""Epsilon of the norm of latents in transformers, whatever the configuration says; other engines take the configured one."""

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Latent:
    """Shape of latent attention, the same in every layer.

    Attributes:
        kv_lora_rank: width of the latent.
        qk_nope_head_dim: dimensions of a query head that meet a key from the latent.
        qk_rope_head_dim: dimensions that meet the rotated key, which all heads share.
        v_head_dim: dimensions of a value.
        frequencies: angle per position of each pair of rotated dimensions, [qk_rope_head_dim / 2], in radians.
    """

    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    frequencies: tuple[float, ...]

    @property
    def cached(self) -> int:
        """Numbers that the cache holds for a token and layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shape of the mixtures of experts, with the names of DeepSeek-V3's configuration."""

    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    n_shared_experts: int = 1
    first_k_dense_replace: int = 0
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1


def check_convertible(config: ModelConfig) -> None:
    """Checks that a model is a dense Llama without biases: DeepSeek-V3's attention has no place for them, nor for key norms.

    Raises:
        UnsupportedModel: it is another.
    """
    if config.architecture != "llama" or config.attention_bias:
        biased = " with biases" if config.attention_bias else ""
        raise UnsupportedModel(
            f"a model of the architecture {config.architecture}{biased} cannot be converted",
            fix="choose a dense model of the Llama architecture, such as smollm2",
        )
    scaling = config.rope_scaling
    if scaling is not None and (scaling.kind == "yarn" or scaling.attention_factor not in (None, 1.0)):
        # Scores of rotated dimensions have a factor of their own there, which the others would lack.
        raise UnsupportedModel(
            f"a model with {scaling.kind} that scales attention cannot be converted",
            fix="use it without its extension of the context",
        )


def converted_config(
    donor: ModelConfig, latent: Latent, mixture: Mixture | None = None, *, rms_norm_eps: float | None = None
) -> ModelConfig:
    """Returns the configuration of a converted model; without a mixture every layer is dense.

    The frequencies of the rotated dimensions become factors of longrope, the same for short and long texts.
    """
    base = donor.rope_theta ** -(np.arange(0, latent.qk_rope_head_dim, 2) / latent.qk_rope_head_dim)
    factors = tuple(float(one) for one in base / np.asarray(latent.frequencies, np.float64))
    # A dense model names experts that no layer has: the fields have to be sound.
    shape = mixture or Mixture(1, 1, donor.intermediate_size, first_k_dense_replace=donor.num_hidden_layers)
    return replace(
        donor,
        architecture="deepseek_v3",
        num_key_value_heads=donor.num_attention_heads,
        head_dim=latent.qk_nope_head_dim + latent.qk_rope_head_dim,
        rms_norm_eps=donor.rms_norm_eps if rms_norm_eps is None else rms_norm_eps,
        rope_scaling=RopeScaling(
            "longrope", 1.0, donor.max_position_embeddings, attention_factor=1.0, factors=factors
        ),
        q_lora_rank=0,
        kv_lora_rank=latent.kv_lora_rank,
        qk_nope_head_dim=latent.qk_nope_head_dim,
        qk_rope_head_dim=latent.qk_rope_head_dim,
        v_head_dim=latent.v_head_dim,
        rope_interleave=False,
        num_experts=shape.n_routed_experts,
        num_shared_experts=shape.n_shared_experts,
        num_experts_per_tok=shape.num_experts_per_tok,
        moe_intermediate_size=shape.moe_intermediate_size,
        first_k_dense_replace=shape.first_k_dense_replace,
        n_group=shape.n_group,
        topk_group=shape.topk_group,
        scoring_func="sigmoid",
        topk_method="noaux_tc",
        norm_topk_prob=shape.norm_topk_prob,
        routed_scaling_factor=shape.routed_scaling_factor,
    )


def converted_tensors(
    names: tuple[str, ...],
    donor: Callable[[str], NDArray[np.float32]],
    attention: Mapping[int, Weights],
    mlps: Mapping[int, Weights] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Returns the weights of a converted model by their names.

    Args:
        names: tensors of the donor.
        donor: returns one of them.
        attention: of every layer `input_layernorm.weight` and `self_attn.*`, in place of the donor's.
        mlps: of converted layers `mlp.*`, in place of the donor's.
    """
    mlps = mlps or {}
    found: dict[str, NDArray[np.float32]] = {}
    for name in names:
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            number, part = int(parts[2]), parts[3]
            if part == "self_attn" or ".".join(parts[3:]) in attention[number]:
                continue
            if part == "mlp" and number in mlps:
                continue
        found[name] = donor(name)
    for layers in (attention, mlps):
        for number, tensors in layers.items():
            found |= {f"model.layers.{number}.{name}": values for name, values in tensors.items()}
    return found


def rescaled_residual(weights: Weights, config: ModelConfig, eps: float) -> dict[str, NDArray[np.float32]]:
    """Returns weights that compute the same function with another epsilon of all norms of the hidden states.

    Multiplying the hidden states by a, with a^2 = eps / config.rms_norm_eps, gives a norm the same output when its epsilon is
    multiplied by a^2. So whatever adds to them is multiplied: the embedding, and the projections that end attention and MLPs.
    """
    scale = np.float32(np.sqrt(eps / config.rms_norm_eps))
    found: dict[str, NDArray[np.float32]] = {}
    for name, values in weights.items():
        if name == "model.embed_tokens.weight" or name.endswith((".o_proj.weight", ".down_proj.weight")):
            found[name] = values * scale
        elif name == "model.norm.weight" and config.tie_word_embeddings:
            found[name] = values / scale  # the head is the embedding
        else:
            found[name] = values
    return found


def write_converted(
    target: Path,
    config: ModelConfig,
    weights: Weights,
    tokenizer: Tokenizer,
    card: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes a converted model as a folder that transformers and Deepwell load, with its card.

    Raises:
        InvalidRequest: the folder is not empty, or its disk has no room.
    """
    write_folder(target, config, weights, tokenizer, card, _read_me(config, card), progress=progress)


def _read_me(config: ModelConfig, card: Mapping[str, Any]) -> str:
    experts = "no experts"
    if config.sparse_layers:
        experts = (
            f"{config.num_shared_experts} shared and {config.num_experts} routed experts,"
            f" of which a token computes {config.num_experts_per_tok}"
        )
    name = in_markdown(card["base"])
    return model_card(
        card,
        f"{name} in DeepSeek-V3's shape",
        f"Converted from {name} by Deepwell: a latent of {config.kv_lora_rank} and a rotated key of"
        f" {config.qk_rope_head_dim} dimensions a token and layer, {experts}.",
        judged_on="text that took part in the choice",
        loads="The folder loads in deepwell and transformers (DeepseekV3ForCausalLM), in bfloat16 or float32.",
    )

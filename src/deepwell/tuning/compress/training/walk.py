"""Goes through a model a layer at a time on two paths of states: of the weights as they were, and of the quantised ones.

One layer of transformers is in memory for each path, so a model of any depth needs little more than the states of the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deepwell.models.formats.checkpoint import Checkpoint
from deepwell.models.formats.config import ModelConfig
from deepwell.tuning.compress.sound import check_finite
from deepwell.tuning.train.bases import hf_config

__all__ = ["INPUTS", "MOST_WEIGHT", "Layer", "Stages", "layer_weights", "moments_of"]

INPUTS: Final = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "heads": ("self_attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj"),
    "channels": ("mlp.down_proj",),
}
"""Projections by the name of the input that they share, in the order in which they run."""
MOST_WEIGHT: Final = 65504.0
"""Largest weight of a model to quantise: scales of blocks are float16."""
_BATCH: Final = 8  # windows


def layer_weights(checkpoint: Checkpoint, number: int) -> dict[str, NDArray[np.float32]]:
    """Returns the float32 tensors of a layer by their names within it.

    Raises:
        InvalidModelFile: a tensor holds NaN, infinity or weights that no block holds.
    """
    prefix, found = f"model.layers.{number}.", dict[str, NDArray[np.float32]]()
    for name in checkpoint.names:
        if name.startswith(prefix):
            values = found[name.removeprefix(prefix)] = checkpoint.tensor(name).float32()
            check_finite(name, values, MOST_WEIGHT)
    return found


@dataclass
class Stages:
    """Intermediate results of a layer, each [windows, tokens, width].

    Attributes:
        attention, heads, mlp, channels: inputs of the projections; see `INPUTS`.
        between: states behind attention; `after`: states behind the layer.
    """

    attention: Tensor
    heads: Tensor
    between: Tensor
    mlp: Tensor
    channels: Tensor
    after: Tensor


class Layer:
    """One layer whose weights are changed, with the rotary factors that all layers share.

    Args:
        width: tokens of a window.
    """

    def __init__(self, config: ModelConfig, width: int) -> None:
        one = replace(
            config, num_hidden_layers=1, vocab_size=1, bos_token_id=None, eos_token_ids=(), pad_token_id=None
        )
        made = hf_config(one)
        made._attn_implementation = "sdpa"
        kind = type(made).__name__.removesuffix("Config")
        model = getattr(transformers, f"{kind}ForCausalLM")(made).eval().requires_grad_(False)
        self._module: Any = model.model.layers[0]
        self._rotary = model.model.rotary_emb(torch.zeros(1, width, 1), torch.arange(width)[None])
        for name, parameter in self._module.named_parameters():
            if name == "self_attn.o_proj.bias":  # a field that covers it; the reader accepts zeros alone
                parameter.zero_()

    def load(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Takes tensors by their names within the layer; those that are not given stay."""
        for name, values in weights.items():
            self._module.get_parameter(name).copy_(torch.from_numpy(np.asarray(values, np.float32)))

    def project(self, name: str, inputs: Tensor) -> Tensor:
        """Returns the outputs of a projection."""
        return self._module.get_submodule(name)(inputs)

    def normed(self, states: Tensor, *, behind_attention: bool = False) -> Tensor:
        """Returns the inputs of attention, or of the MLP."""
        name = "post_attention_layernorm" if behind_attention else "input_layernorm"
        return self._module.get_submodule(name)(states)

    def attended(self, inputs: Tensor) -> Tensor:
        """Returns the heads' outputs for normed states, in front of `o_proj`."""
        attention = self._module.self_attn
        kept, attention.o_proj = attention.o_proj, torch.nn.Identity()
        try:
            parts = [
                attention(part, position_embeddings=self._rotary, attention_mask=None)[0]
                for part in inputs.split(_BATCH)
            ]
        finally:
            attention.o_proj = kept
        return torch.cat(parts)

    def gated(self, inputs: Tensor) -> Tensor:
        """Returns the channels of the MLP, in front of `down_proj`."""
        return F.silu(self.project("mlp.gate_proj", inputs)) * self.project("mlp.up_proj", inputs)

    def stages(self, states: Tensor) -> Stages:
        """Runs the layer."""
        attention = self.normed(states)
        heads = self.attended(attention)
        between = states + self.project("self_attn.o_proj", heads)
        mlp = self.normed(between, behind_attention=True)
        channels = self.gated(mlp)
        after = between + self.project("mlp.down_proj", channels)
        return Stages(attention, heads, between, mlp, channels, after)


def moments_of(inputs: Tensor) -> NDArray[np.float64]:
    """Returns the second moments of inputs [windows, tokens, width], a mean over tokens."""
    flat = inputs.reshape(-1, inputs.shape[-1])
    total = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64)
    for part in flat.split(4096):
        total += (part.T @ part).double()
    return (total / len(flat)).numpy()

"""Candidates of a search as they run: a donor's layers whose parts are exchanged for smaller ones, and finished models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from deepwell.tuning.compress.columns import Kept, removal_path, remove_inputs
from deepwell.tuning.compress.cut import Cut, LayerCut, cut_tensors
from deepwell.tuning.compress.search.space import Candidate, Space
from deepwell.tuning.compress.training.layers import cross_entropy, first_states, next_states
from deepwell.tuning.compress.training.run import Donor
from deepwell.tuning.train.bases import hf_config

__all__ = ["Trials", "built"]


class _NoAttention(nn.Module):
    """In place of an attention that went."""

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        return torch.zeros_like(hidden_states), None


class _NoMlp(nn.Module):
    """In place of an MLP that went."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.zeros_like(hidden_states)


class Trials:
    """Runs candidates on text of the search, on a donor's own layers, without building a model for each.

    Args:
        windows: text of the search, int64 [windows, tokens].
    """

    def __init__(self, donor: Donor, space: Space, windows: Tensor) -> None:
        self._donor, self._space, self._windows = donor, space, windows
        self._paths: dict[int, dict[int, Kept]] = {}
        self._heads: dict[tuple[int, int], Kept] = {}
        self._parts: dict[tuple[str, int, int], nn.Module] = {}
        self._begun: dict[int, tuple[list[Tensor], tuple[Tensor, Tensor]]] = {}

    def cut(self, candidate: Candidate) -> Cut:
        """Returns the parts of the donor that stay, with projections solved anew for what went before them."""
        config = self._space.config
        every = np.arange(config.num_key_value_heads)
        layers: dict[int, LayerCut] = {}
        for number in candidate.layers:
            channels, down = np.arange(config.intermediate_size), None
            width = candidate.channels[number]
            if width == 0:
                channels = channels[:0]
            elif width < config.intermediate_size:
                kept = self._channels(number)[width]
                channels, down = kept.groups, kept.weight
            heads, out = every, None
            if not candidate.attention[number]:
                heads = heads[:0]
            elif candidate.kv_heads < len(every):
                kept = self._kv_heads(number, candidate.kv_heads)
                heads, out = kept.groups, kept.weight
            layers[number] = LayerCut(channels, heads, down, out)
        return Cut(candidate.shape(), layers)

    def loss(self, candidate: Candidate, count: int | None = None) -> float:
        """Returns the loss of a candidate on the first windows of the search, in the format of the search.

        Args:
            count: number of windows; None: all.
        """
        model, windows = self._donor.scout, self._windows[:count]
        with torch.inference_mode():
            states, rotary = self._states(windows)
            # What stands in front of the first change is the donor's.
            first = next(
                (n for n in range(self._space.layers) if not self._is_whole(candidate, n)), self._space.layers
            )
            here = states[first]
            for number in range(first, self._space.layers):
                if candidate.attention[number] or candidate.channels[number]:
                    here = next_states(self._layer(candidate, number), here, rotary)
            return cross_entropy(model, model.model.norm(here), windows)

    def _states(self, windows: Tensor) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Returns the donor's states in front of every layer and behind the last, and the rotary factors."""
        if len(windows) not in self._begun:
            here, rotary = first_states(self._donor.scout, windows)
            states = [here]
            for layer in self._donor.scout.model.layers:
                states.append(next_states(layer, states[-1], rotary))
            self._begun[len(windows)] = states, rotary
        return self._begun[len(windows)]

    def _is_whole(self, candidate: Candidate, number: int) -> bool:
        donor = self._space.donor
        return (
            candidate.kv_heads == donor.kv_heads
            and candidate.attention[number]
            and candidate.channels[number] == donor.channels[number]
        )

    def _layer(self, candidate: Candidate, number: int) -> nn.Module:
        layer = self._donor.scout.model.layers[number]
        if self._is_whole(candidate, number):
            return layer
        parts: dict[str, nn.Module] = {}
        if not candidate.attention[number]:
            parts["self_attn"] = _NoAttention()
        elif candidate.kv_heads < self._space.kv_heads[-1]:
            parts["self_attn"] = self._part("self_attn", number, candidate.kv_heads)
        if not candidate.channels[number]:
            parts["mlp"] = _NoMlp()
        elif candidate.channels[number] < self._space.levels[-1]:
            parts["mlp"] = self._part("mlp", number, candidate.channels[number])
        return _with(layer, parts)

    def _part(self, module: str, number: int, size: int) -> nn.Module:
        """Returns a smaller module of a layer, made once."""
        if (module, number, size) not in self._parts:
            candidate = replace(
                self._space.donor,
                **(
                    {"kv_heads": size}
                    if module == "self_attn"
                    else {"channels": tuple(size for _ in self._space.donor.channels)}
                ),
            )
            only = replace(
                candidate,
                attention=tuple(n == number for n in range(self._space.layers)),
                channels=tuple(
                    candidate.channels[n] if n == number else 0 for n in range(self._space.layers)
                ),
            )
            names = tuple(
                name
                for name in self._donor.base.checkpoint.names
                if name.startswith(f"model.layers.{number}.{module}.")
            )
            tensors = cut_tensors(self._space.config, self.cut(only), names, self._donor.tensor)
            parent = getattr(self._donor.scout.model.layers[number], module)
            self._parts[module, number, size] = _with(
                parent,
                {
                    name: _linear(tensors, f"model.layers.0.{module}.{name}", self._donor.dtype)
                    for name, child in parent.named_children()
                    if isinstance(child, nn.Linear)
                },
            )
        return self._parts[module, number, size]

    def _channels(self, number: int) -> Mapping[int, Kept]:
        if number not in self._paths:
            name = f"model.layers.{number}.mlp.down_proj.weight"
            self._paths[number] = removal_path(
                self._donor.tensor(name),
                self._donor.analysis.inverse(number, "down_proj"),
                self._space.levels[1:-1],
            )
        return self._paths[number]

    def _kv_heads(self, number: int, count: int) -> Kept:
        if (number, count) not in self._heads:
            config = self._space.config
            size = config.num_attention_heads // config.num_key_value_heads * config.head_dim
            name = f"model.layers.{number}.self_attn.o_proj.weight"
            self._heads[number, count] = remove_inputs(
                self._donor.tensor(name), self._donor.analysis.inverse(number, "o_proj"), count, size=size
            )
        return self._heads[number, count]


def _with(module: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """Returns a module with some of its children exchanged; the others are shared."""
    made = copy.copy(module)
    made.__dict__["_modules"] = {**dict(module.named_children()), **parts}
    return made


def _linear(tensors: Mapping[str, NDArray[np.float32]], name: str, dtype: torch.dtype) -> nn.Linear:
    weight = torch.from_numpy(np.array(tensors[f"{name}.weight"], np.float32)).to(dtype)
    bias = tensors.get(f"{name}.bias")
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(torch.from_numpy(np.array(bias, np.float32)).to(dtype), requires_grad=False)
    return made


def built(donor: Donor, cut: Cut, tensor: Callable[[str], NDArray[np.float32]]) -> Any:
    """Returns the model of a cut in float32, in evaluation mode; its layers may differ."""
    if not cut.shape.blocks:
        return donor.built(cut)
    config = cut.shape.applied(donor.base.config)
    kind = transformers.LlamaForCausalLM
    model = kind(hf_config(replace(config, blocks=(), intermediate_size=1)))
    for layer, block in zip(model.model.layers, config.blocks, strict=True):
        if not block.attention:
            layer.self_attn, layer.input_layernorm = _NoAttention(), nn.Identity()
        if not block.intermediate_size:
            layer.mlp, layer.post_attention_layernorm = _NoMlp(), nn.Identity()
        else:
            sizes = hf_config(replace(config, blocks=(), intermediate_size=block.intermediate_size))
            layer.mlp = type(layer.mlp)(sizes)
    weights = cut_tensors(donor.base.config, cut, donor.base.checkpoint.names, tensor)
    state = {name: torch.from_numpy(np.array(one, np.float32)) for name, one in weights.items()}
    missing, unknown = model.load_state_dict(state, strict=False)
    left = [name for name in missing if name != "lm_head.weight" and not name.endswith("o_proj.bias")]
    if left or unknown:
        raise RuntimeError(f"the cut has no {left}, and {unknown} too many")
    for name in missing:
        if name.endswith("o_proj.bias"):
            model.get_parameter(name).data.zero_()
    model.tie_weights()
    return model.eval().requires_grad_(False)

"""Converts the MLPs of a model to mixtures of experts, a layer at a time, each on what the converted layers before it give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from deepwell.tuning.compress.convert.experts import (
    Experts,
    Layout,
    activation_experts,
    expert_squares,
    mixture_tensors,
    refitted_down,
)
from deepwell.tuning.compress.convert.router import Router, active_experts, fit_router, load_entropy
from deepwell.tuning.compress.training.layers import first_states, next_states
from deepwell.tuning.train.loop import processor_is_fast_at_bf16

__all__ = ["Grouping", "Mixtures", "by_activation", "chosen_layout", "converted_mlps", "masked", "placed"]

Array = NDArray[np.float32]
Grouping = Callable[[int, Array, Array, Layout], Experts]
"""Divides the channels of a layer by its number, the inputs of its down projection, that projection, and the layout."""

_SMALL: Final = 1e-2
"""Most length of a row of a gate whose factors count as 1."""
_COMPARED: Final = 3  # layers on which layouts are compared
_FITTED: Final = 0.75  # of the windows; the others compare


@dataclass(frozen=True)
class Mixtures:
    """Converted MLPs of a model, and how they do on the calibration text.

    Attributes:
        tensors: by layer and DeepSeek-V3's names; see `mixture_tensors`.
        missed: by layer, the share of the squared length of the MLP's output that its mixture misses.
        entropies: by layer, the entropy of the experts' loads, 1 where all have the same.
    """

    layout: Layout
    tensors: Mapping[int, Mapping[str, Array]]
    missed: Sequence[float]
    entropies: Sequence[float]

    def to_json(self) -> dict[str, Any]:
        """Returns the shape and the figures as plain JSON values."""
        return {
            **asdict(self.layout),
            "channels_computed": round(1 - self.layout.sparsity, 4),
            "missed": round(float(np.mean(self.missed)), 4),
            "load_entropy": round(float(np.mean(self.entropies)), 4),
            "load_entropy_least": round(min(self.entropies), 4),
        }


def by_activation(layer: int, hidden: Array, down: Array, layout: Layout) -> Experts:
    """Groups channels that the same tokens use; see `activation_experts`."""
    return activation_experts(hidden, down, layout)


def converted_mlps(
    model: Any,
    windows: Tensor,
    layout: Layout,
    grouping: Grouping = by_activation,
    *,
    refit: bool = True,
    progress: Callable[[float], None] = lambda share: None,
) -> Mixtures:
    """Converts every MLP of a model, which stays as it is.

    Args:
        model: of transformers, in float32, with `gate_proj`, `up_proj` and `down_proj` in every layer.
        windows: calibration text, int64 [windows, tokens].
        refit: whether down projections are solved anew for what is computed.
        progress: takes the share of the layers that is done.
    """
    tensors: dict[int, Mapping[str, Array]] = {}
    missed: list[float] = []
    entropies: list[float] = []
    walk = _Walk(model, windows)
    for number, (layer, inputs) in enumerate(walk):
        seen = _Seen.of(layer.mlp, inputs)
        experts = grouping(number, seen.hidden, seen.down, layout)
        found, active = _fitted(seen, experts, layout, refit)
        tensors[number] = mixture_tensors(seen.gate, seen.up, found.down, experts, found.router)
        outputs = np.where(experts.computed(active), seen.hidden, 0).astype(np.float32) @ found.down.T
        missed.append(_share_missed(seen.hidden @ seen.down.T, outputs))
        entropies.append(load_entropy(active))
        walk.add(torch.from_numpy(outputs))
        progress((number + 1) / len(model.model.layers))
    return Mixtures(layout, tensors, missed, entropies)


def chosen_layout(model: Any, windows: Tensor, layouts: Sequence[Layout]) -> Layout:
    """Returns the layout whose mixtures miss least on the last quarter of the windows, over some layers of the donor."""
    if len(layouts) == 1:
        return layouts[0]
    count = len(model.model.layers)
    compared = {count * (2 * place + 1) // (2 * _COMPARED) for place in range(_COMPARED)}
    losses = np.zeros(len(layouts))
    walk = _Walk(model, windows)
    for number, (layer, inputs) in enumerate(walk):
        if number > max(compared):
            break
        if number in compared:
            seen = _Seen.of(layer.mlp, inputs)
            losses += [_missed_by(seen, one) for one in layouts]
        walk.add(layer.mlp(inputs))
    return layouts[int(losses.argmin())]


def placed(model: Any, mixtures: Mixtures) -> Any:
    """Returns the model, with its MLPs replaced by the mixtures as transformers computes them."""
    shape, config = mixtures.layout.mixture, model.config
    made = DeepseekV3Config(
        hidden_size=config.hidden_size,
        hidden_act=config.hidden_act,
        moe_intermediate_size=shape.moe_intermediate_size,
        n_routed_experts=shape.n_routed_experts,
        n_shared_experts=shape.n_shared_experts,
        num_experts_per_tok=shape.num_experts_per_tok,
        norm_topk_prob=shape.norm_topk_prob,
        routed_scaling_factor=shape.routed_scaling_factor,
        n_group=shape.n_group,
        topk_group=shape.topk_group,
    )
    made._experts_implementation = "eager"
    for number, tensors in mixtures.tensors.items():
        module = DeepseekV3MoE(made)
        module.load_state_dict(_stacked(tensors, shape.n_routed_experts))
        model.model.layers[number].mlp = module.eval().requires_grad_(False)
    return model


@dataclass(frozen=True, slots=True)
class _Seen:
    """Weights of an MLP, and what it computed on the calibration text."""

    gate: Array
    up: Array
    down: Array
    inputs: Array
    hidden: Array

    @classmethod
    def of(cls, mlp: Any, inputs: Tensor) -> _Seen:
        """Runs the MLP up to its down projection."""
        hidden = mlp.act_fn(mlp.gate_proj(inputs)) * mlp.up_proj(inputs)
        gate, up, down = (one.weight.float().numpy() for one in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        return cls(gate, up, down, inputs.float().numpy(), hidden.float().numpy())

    def part(self, rows: slice) -> _Seen:
        """Returns the same of some of the tokens."""
        return _Seen(self.gate, self.up, self.down, self.inputs[rows], self.hidden[rows])


@dataclass(frozen=True, slots=True)
class _Fit:
    router: Router
    down: Array


def _fitted(seen: _Seen, experts: Experts, layout: Layout, refit: bool) -> tuple[_Fit, NDArray[np.bool_]]:
    """Returns the router and the down projection of a division, and the experts that tokens compute."""
    router = fit_router(seen.inputs, expert_squares(seen.hidden, seen.down, experts))
    active = active_experts(router, seen.inputs, layout.active)
    down = seen.down
    if refit and layout.active < layout.routed:
        down = refitted_down(seen.hidden, down, experts.computed(active))
    return _Fit(router, down), active


def _missed_by(seen: _Seen, layout: Layout) -> float:
    """Returns the share of the output that a layout misses on the tokens that did not fit it."""
    cut = int(_FITTED * len(seen.inputs))
    first, last = seen.part(slice(0, cut)), seen.part(slice(cut, None))
    experts = activation_experts(first.hidden, first.down, layout)
    fit, _ = _fitted(first, experts, layout, True)
    computed = experts.computed(active_experts(fit.router, last.inputs, layout.active))
    return _share_missed(last.hidden @ last.down.T, np.where(computed, last.hidden, 0) @ fit.down.T)


def _share_missed(wanted: Array, found: Array) -> float:
    return float(np.square(wanted - found).sum() / max(float(np.square(wanted).sum()), 1e-30))


class _Walk:
    """Runs a model layer by layer, in bf16 where the processor is fast at it, and stops at each MLP.

    Iterating gives every layer with the inputs of its MLP, [tokens, width]; `add` takes what the MLP gives, before the next.
    """

    def __init__(self, model: Any, windows: Tensor, batch: int = 4) -> None:
        self._model, self._windows, self._batch = model, windows, batch
        self._outputs: Tensor | None = None

    def add(self, outputs: Tensor) -> None:
        """Takes the outputs of the MLP where the walk stands, [tokens, width]."""
        self._outputs = outputs

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        fast = processor_is_fast_at_bf16()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=fast):
            started = [first_states(self._model, part) for part in self._windows.split(self._batch)]
            states, rotary = [one for one, _ in started], [one for _, one in started]
            for layer in self._model.model.layers:
                with _tapped(layer) as tap:
                    states = [
                        next_states(layer, one, angles) for one, angles in zip(states, rotary, strict=True)
                    ]
                yield layer, torch.cat(tap.inputs)
                if self._outputs is None:
                    raise RuntimeError("the MLP's outputs are missing")
                sizes = [one.shape[0] * one.shape[1] for one in states]
                parts, self._outputs = self._outputs.split(sizes), None
                states = [one + part.view_as(one) for one, part in zip(states, parts, strict=True)]


class _Tap(nn.Module):
    """Keeps the inputs of an MLP, and gives zeros: the layer's output is then what goes around the MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, states: Tensor) -> Tensor:
        self.inputs.append(states.reshape(-1, states.shape[-1]))
        return torch.zeros_like(states)


@contextmanager
def _tapped(layer: Any) -> Iterator[_Tap]:
    whole, tap = layer.mlp, _Tap()
    layer.mlp = tap
    try:
        yield tap
    finally:
        layer.mlp = whole


@contextmanager
def masked(model: Any) -> Iterator[None]:
    """Computes mixtures as whole MLPs whose channels of the other experts are masked, and puts them back with their weights.

    On a processor that takes a third of the time for a step of training. All factors count as 1, as in what `mixture_tensors`
    makes; the gates are not trained.
    """
    found = [
        (layer, layer.mlp)
        for layer in model.model.layers
        if hasattr(layer.mlp, "experts") and _plain(layer.mlp)
    ]
    for layer, mixture in found:
        layer.mlp = _Masked(mixture)
    try:
        yield
    finally:
        for layer, mixture in found:
            layer.mlp.restore(mixture)
            layer.mlp = mixture


def _plain(mixture: Any) -> bool:
    """Returns whether a mixture is one whose factors are all 1."""
    gate: Any = getattr(mixture, "gate", None)
    if not hasattr(gate, "e_score_correction_bias") or not gate.norm_topk_prob or gate.num_group != 1:
        return False
    widest = float(gate.weight.detach().norm(dim=1).max()) if gate.weight.numel() else 0.0
    return gate.routed_scaling_factor == gate.top_k and widest < _SMALL


class _Masked(nn.Module):
    """A mixture as a whole MLP: the shared channels, then those of each expert."""

    def __init__(self, mixture: Any) -> None:
        super().__init__()
        shared, experts = mixture.shared_experts, mixture.experts
        gates, ups = experts.gate_up_proj.detach().chunk(2, dim=1)  # [experts, width, inputs]
        downs = experts.down_proj.detach().transpose(0, 1).flatten(1)  # [outputs, experts * width]
        self.gate, self.act_fn, self.width = mixture.gate, shared.act_fn, gates.shape[1]
        self.gate_proj = nn.Parameter(torch.cat([shared.gate_proj.weight.detach(), gates.flatten(0, 1)]))
        self.up_proj = nn.Parameter(torch.cat([shared.up_proj.weight.detach(), ups.flatten(0, 1)]))
        self.down_proj = nn.Parameter(torch.cat([shared.down_proj.weight.detach(), downs], 1))

    def forward(self, states: Tensor) -> Tensor:
        hidden = self.act_fn(F.linear(states, self.gate_proj)) * F.linear(states, self.up_proj)
        with torch.no_grad():
            _, _, chosen = self.gate(states)
            active = torch.zeros(len(chosen), self.gate.num_experts, dtype=hidden.dtype).scatter_(
                1, chosen, 1.0
            )
            count = hidden.shape[-1] - self.width * self.gate.num_experts
            mask = F.pad(active.repeat_interleave(self.width, 1), (count, 0), value=1.0)
        return F.linear(hidden * mask.view_as(hidden), self.down_proj)

    def restore(self, mixture: Any) -> None:
        """Writes the weights into the mixture that this was made of."""
        shared, experts = mixture.shared_experts, mixture.experts
        count = shared.gate_proj.weight.shape[0]
        with torch.no_grad():
            for name in ("gate_proj", "up_proj"):
                getattr(shared, name).weight.copy_(getattr(self, name)[:count])
            shared.down_proj.weight.copy_(self.down_proj[:, :count])
            pairs = [one[count:].unflatten(0, (-1, self.width)) for one in (self.gate_proj, self.up_proj)]
            experts.gate_up_proj.copy_(torch.cat(pairs, 1))
            experts.down_proj.copy_(self.down_proj[:, count:].unflatten(1, (-1, self.width)).transpose(0, 1))


def _stacked(tensors: Mapping[str, Array], count: int) -> dict[str, Tensor]:
    """Returns the state of `DeepseekV3MoE`, which stacks experts."""

    def expert(number: int, part: str) -> Array:
        return tensors[f"mlp.experts.{number}.{part}_proj.weight"]

    state = {name[4:]: values for name, values in tensors.items() if ".experts." not in name}
    state["experts.gate_up_proj"] = np.stack(
        [np.concatenate([expert(number, "gate"), expert(number, "up")]) for number in range(count)]
    )
    state["experts.down_proj"] = np.stack([expert(number, "down") for number in range(count)])
    return {name: torch.from_numpy(np.array(values, np.float32)) for name, values in state.items()}

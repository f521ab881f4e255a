"""AWQ: inputs that are large are given finer steps, by factors that other weights of the model take up for good.

A projection's input channel is multiplied in its weights and divided where the channel comes from: in the norm in front of
it, in the rows of `up_proj` for `down_proj`, and in those of `v_proj` for `o_proj`. The function of the model stays the same,
and nothing is left to do when it runs. The factors are powers of the channels' root mean square; the power is the one with the
least error of the outputs after rounding to nearest.

Source: Lin et al., "AWQ", arXiv:2306.00978 (section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.models.formats.config import ModelConfig
from deepwell.tuning.compress.quantise.formats import Floats, Format
from deepwell.tuning.compress.quantise.gptq import objective, rounded

__all__ = ["PLACES", "Place", "folded", "scaled_moments", "search"]

_POWERS: Final = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)


@dataclass(frozen=True, slots=True)
class Place:
    """A place where factors of input channels can be folded away.

    Attributes:
        readers: projections whose columns are multiplied, by names within a layer.
        source: tensors whose rows or elements are divided.
    """

    readers: tuple[str, ...]
    source: tuple[str, ...]


PLACES: Final = (
    Place(
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        ("input_layernorm.weight",),
    ),
    Place(("self_attn.o_proj.weight",), ("self_attn.v_proj.weight", "self_attn.v_proj.bias")),
    Place(("mlp.gate_proj.weight", "mlp.up_proj.weight"), ("post_attention_layernorm.weight",)),
    Place(("mlp.down_proj.weight",), ("mlp.up_proj.weight",)),
)


def search(
    place: Place, layer: Mapping[str, Floats], hessian: NDArray[np.float64], config: ModelConfig, form: Format
) -> Floats:
    """Returns the factors of a place's channels, float32 [channels]; ones where none lower the error.

    Args:
        layer: float32 weights by names within the layer.
        hessian: second moments of the readers' inputs, [channels, channels].
    """
    sizes = np.sqrt(np.maximum(np.diag(hessian), 1e-20))
    if place.readers[0].startswith("self_attn.o_proj"):  # query heads share the values of their key head
        shared = sizes.reshape(config.num_key_value_heads, -1, config.head_dim)
        sizes = np.broadcast_to(np.sqrt(np.square(shared).mean(1, keepdims=True)), shared.shape).reshape(-1)
    best, least = np.ones(len(sizes), np.float32), np.inf
    for power in _POWERS:
        factors = sizes**power
        factors = (factors / np.sqrt(factors.max() * factors.min())).clip(1e-3, 1e3).astype(np.float32)
        error = 0.0
        for name in place.readers:
            weight = layer[name]
            error += float(objective(weight, rounded(weight * factors, form).values / factors, hessian).sum())
        if error < least:
            best, least = factors, error
    return best


def folded(
    place: Place, layer: Mapping[str, Floats], factors: Floats, config: ModelConfig
) -> dict[str, Floats]:
    """Returns a layer's weights with the factors of a place in its readers and out of its source."""
    changed = dict(layer)
    for name in place.readers:
        changed[name] = layer[name] * factors
    rows = factors
    if place.readers[0].startswith("self_attn.o_proj"):
        rows = factors.reshape(config.num_key_value_heads, -1, config.head_dim)[:, 0].reshape(-1)
    for name in place.source:
        if name in changed:
            tensor = changed[name]
            changed[name] = tensor / (rows[:, None] if tensor.ndim > 1 else rows)
    return changed


def scaled_moments(hessian: NDArray[np.float64], factors: Floats) -> NDArray[np.float64]:
    """Returns the moments of inputs that are divided by factors."""
    return hessian / np.outer(factors, factors).astype(np.float64)


def fold_all(
    layer: Mapping[str, Floats],
    moments: Callable[[Place], NDArray[np.float64]],
    config: ModelConfig,
    form: Callable[[int], Format],
    places: Sequence[Place] = PLACES,
) -> dict[str, Floats]:
    """Folds the best factors of every place of a layer, one after the other.

    Args:
        moments: gives those of the inputs of a place, before any factor.
        form: gives the format of rows of a width.
    """
    found = dict(layer)
    for place in places:
        hessian = moments(place)
        found = folded(place, found, search(place, found, hessian, config, form(len(hessian))), config)
    return found

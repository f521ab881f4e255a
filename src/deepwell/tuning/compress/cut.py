"""`Cut`: the parts of a model that stay, and the folder of weights that it makes. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.models.formats.config import ModelConfig
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.columns import remove_inputs
from deepwell.tuning.compress.folder import model_card, write_folder
from deepwell.tuning.compress.shapes import Shape
from deepwell.tuning.compress.sound import in_markdown

__all__ = ["Cut", "LayerCut", "chosen_cut", "cut_tensors", "random_cut", "write_cut"]

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class LayerCut:
    """Parts of a layer that stay.

    Attributes:
        channels: numbers of the MLP's channels; none: the layer loses its MLP.
        kv_heads: numbers of the key heads; none: it loses its attention.
        down: down projection on the channels; None: its columns as they are.
        out: output projection on the heads; None: its columns as they are.
    """

    channels: NDArray[np.intp]
    kv_heads: NDArray[np.intp]
    down: NDArray[np.float32] | None = None
    out: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Cut:
    """A model's layers that stay, by their numbers in the donor, and what of each."""

    shape: Shape
    layers: Mapping[int, LayerCut]


def chosen_cut(
    config: ModelConfig,
    shape: Shape,
    layers: list[int],
    tensor: Callable[[str], NDArray[np.float32]],
    inverses: Callable[[int, str], NDArray[np.float64]],
) -> Cut:
    """Returns the cut of a shape that changes the outputs of its projections least.

    Args:
        layers: numbers of the layers that stay.
        tensor: returns a weight of the donor.
        inverses: returns the inverse moments of the inputs of a layer's `down_proj` or `o_proj`.
    """
    queries = config.num_attention_heads // config.num_key_value_heads
    found: dict[int, LayerCut] = {}
    for number in layers:
        channels, down = np.arange(config.intermediate_size), None
        heads, out = np.arange(config.num_key_value_heads), None
        if shape.channels < config.intermediate_size:
            name = f"model.layers.{number}.mlp.down_proj.weight"
            kept = remove_inputs(tensor(name), inverses(number, "down_proj"), shape.channels)
            channels, down = kept.groups, kept.weight
        if shape.kv_heads < config.num_key_value_heads:
            name = f"model.layers.{number}.self_attn.o_proj.weight"
            size = queries * config.head_dim
            kept = remove_inputs(tensor(name), inverses(number, "o_proj"), shape.kv_heads, size=size)
            heads, out = kept.groups, kept.weight
        found[number] = LayerCut(channels, heads, down, out)
    return Cut(shape, found)


def random_cut(config: ModelConfig, shape: Shape, seed: int) -> Cut:
    """Returns a cut of a shape by chance, with the weights that stay as they are: what any choice has to beat."""
    rng = np.random.default_rng(seed)

    def drawn(of: int, count: int) -> NDArray[np.intp]:
        return np.sort(rng.choice(of, count, replace=False))

    return Cut(
        shape,
        {
            int(number): LayerCut(
                drawn(config.intermediate_size, shape.channels),
                drawn(config.num_key_value_heads, shape.kv_heads),
            )
            for number in drawn(config.num_hidden_layers, shape.layers)
        },
    )


def cut_tensors(
    config: ModelConfig, cut: Cut, names: tuple[str, ...], tensor: Callable[[str], NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Returns the weights of the smaller model, by its names, from those of the donor."""
    found: dict[str, NDArray[np.float32]] = {}
    numbers = {number: place for place, number in enumerate(cut.layers)}
    for name in names:
        parts = name.split(".")
        if parts[:2] != ["model", "layers"]:
            found[name] = tensor(name)
            continue
        number = int(parts[2])
        if number not in numbers or _lost(cut.layers[number], parts[3]):
            continue
        parts[2] = str(numbers[number])
        values = tensor(name)
        found[".".join(parts)] = _cut_tensor(config, cut.layers[number], ".".join(parts[3:]), values)
    return found


def _lost(layer: LayerCut, module: str) -> bool:
    """Returns whether a module of a layer goes with the part that it belongs to."""
    if module in ("self_attn", "input_layernorm"):
        return not len(layer.kv_heads)
    return not len(layer.channels)


def _cut_tensor(
    config: ModelConfig, layer: LayerCut, name: str, values: NDArray[np.float32]
) -> NDArray[np.float32]:
    queries = config.num_attention_heads // config.num_key_value_heads
    module = name.split(".")[1]
    if module in ("gate_proj", "up_proj"):
        return values[layer.channels]
    if module == "down_proj" and name.endswith("weight"):
        return values[:, layer.channels] if layer.down is None else layer.down
    if module in ("k_proj", "v_proj"):
        return values[_spread(layer.kv_heads, config.head_dim)]
    if module == "q_proj":
        return values[_spread(layer.kv_heads, queries * config.head_dim)]
    if module == "o_proj" and name.endswith("weight"):
        if layer.out is not None:
            return layer.out
        return values[:, _spread(layer.kv_heads, queries * config.head_dim)]
    return values


def _spread(groups: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    return (groups[:, None] * size + np.arange(size)).reshape(-1)


def write_cut(
    target: Path,
    config: ModelConfig,
    weights: Weights,
    tokenizer: Tokenizer,
    card: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes weights of a configuration as a folder that transformers and Deepwell load, with its card.

    Raises:
        InvalidRequest: the folder is not empty, or its disk has no room.
    """
    write_folder(target, config, weights, tokenizer, card, _read_me(card), progress=progress)


def _differences(card: Mapping[str, Any]) -> str:
    """Returns a sentence on layers that differ; nothing where all are alike."""
    if not card.get("blocks"):
        return ""
    widths = ", ".join(
        f"{'attention' if attention else 'no attention'} and {f'{width} channels' if width else 'no MLP'}"
        for attention, width in card["blocks"]
    )
    return f"\nLayers differ: {widths}."


def _read_me(card: Mapping[str, Any]) -> str:
    name, shape, searched = in_markdown(card["base"]), card["shape"], card.get("method") == "searched"
    loads_in = card.get("loads_in") or ("deepwell", "transformers")
    return model_card(
        card,
        f"{name}, {card['cut']:.1%} smaller",
        f"{'Found by a search and cut' if searched else 'Pruned'} from {name} by Deepwell:"
        f" {card['parameters']:,} of {card['base_parameters']:,} weights are left,\n"
        f"{shape['layers']} layers of {shape['channels']} MLP channels and {shape['kv_heads']} key heads.\n"
        f"Layers of the donor that stay: {', '.join(map(str, card['layers']))}.{_differences(card)}",
        judged_on="text that the search kept apart" if searched else "text that chose among the candidates",
        loads=f"The folder loads in {', '.join(loads_in)}.",
    )

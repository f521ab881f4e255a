"""`Shape`: the numbers of layers, channels and key heads that a plain configuration expresses, and those that reach a share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.models.formats.config import Block, ModelConfig

__all__ = [
    "MULTIPLE",
    "WAYS",
    "Shape",
    "Way",
    "check_prunable",
    "head_counts",
    "parameters_of",
    "shape_of",
    "shapes_for",
]

Way = Literal["depth", "width", "heads"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)
MULTIPLE: Final = 32
"""Channels come in multiples of a block of quantised weights."""
_PRUNABLE: Final = ("llama", "qwen2", "qwen3")
_MOST_SHARE: Final = 0.7
_DEPTHS: Final = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """A size of a model; every layer has the same, unless `blocks` says otherwise.

    Attributes:
        layers: number of layers.
        channels: width of every MLP, or of the widest.
        kv_heads: key heads of every layer that has attention; each keeps its query heads.
        blocks: parts of each layer where they differ.
    """

    layers: int
    channels: int
    kv_heads: int
    blocks: tuple[Block, ...] = ()

    def applied(self, config: ModelConfig) -> ModelConfig:
        """Returns the configuration of a model of this shape."""
        queries = config.num_attention_heads // config.num_key_value_heads
        return replace(
            config,
            num_hidden_layers=self.layers,
            intermediate_size=self.channels,
            num_key_value_heads=self.kv_heads,
            num_attention_heads=self.kv_heads * queries,
            # Qwen2 is a Llama with biases, and layers that differ have a form for Llama alone.
            architecture="llama" if self.blocks else config.architecture,
            blocks=self.blocks,
        )


def check_prunable(config: ModelConfig) -> None:
    """Checks that a model is dense and has Llama's shape.

    Raises:
        UnsupportedModel: it has another.
    """
    if config.architecture not in _PRUNABLE:
        raise UnsupportedModel.of(
            "compress_architecture", architecture=config.architecture, known=", ".join(_PRUNABLE)
        )


def shape_of(config: ModelConfig) -> Shape:
    """Returns the shape that a model has."""
    return Shape(config.num_hidden_layers, config.intermediate_size, config.num_key_value_heads)


def parameters_of(config: ModelConfig, shape: Shape | None = None) -> int:
    """Returns the number of weights of the embedding, the layers and the head, in a shape or in the model's own."""
    shape = shape or shape_of(config)
    queries = config.num_attention_heads // config.num_key_value_heads
    width, head = config.hidden_size, config.head_dim
    attention = width * head * shape.kv_heads * (2 * queries + 2)
    if config.attention_bias:
        attention += head * shape.kv_heads * (queries + 2)
    attention += width
    if config.architecture == "qwen3":
        attention += 2 * head
    blocks = shape.blocks or (Block(True, shape.channels),) * shape.layers
    layers = sum(
        attention * one.attention
        # A layer of a plain shape has the norm of its MLP at any width.
        + (3 * one.intermediate_size + (not shape.blocks or one.intermediate_size > 0)) * width
        for one in blocks
    )
    heads = 1 if config.tie_word_embeddings else 2
    return heads * config.vocab_size * width + layers + width


def shapes_for(config: ModelConfig, share: float, ways: Collection[Way]) -> list[Shape]:
    """Returns shapes that leave out at least a share of all weights, each as little more as its ways allow.

    Args:
        share: part of the weights, 0 for the model as it is.
        ways: what may be cut.

    Raises:
        InvalidRequest: the share is no part that can be cut, or the ways given do not reach it.
    """
    if not 0 <= share <= _MOST_SHARE:
        raise InvalidRequest.of(
            "compress_share_range", param="share", share=f"{share:g}", most=f"{_MOST_SHARE:g}"
        )
    if not ways or not set(ways) <= set(WAYS):
        raise InvalidRequest.of("compress_ways", param="ways", given=",".join(ways), known=", ".join(WAYS))
    whole = shape_of(config)
    if share == 0:
        return [whole]
    most = (1 - share) * parameters_of(config)
    heads = head_counts(config) if "heads" in ways else [whole.kv_heads]
    found = {
        shape
        for kv_heads in heads
        for layers in _depths(config, most, kv_heads, ways)
        # Of both, heads cost more than layers and channels, so they are tried at the full depth alone.
        if "width" not in ways or kv_heads == whole.kv_heads or layers == whole.layers
        if (shape := _filled(config, most, layers, kv_heads, "width" in ways))
    }
    if not found:
        raise InvalidRequest.of(
            "compress_share",
            param="share",
            ways=",".join(one for one in WAYS if one in ways),
            share=f"{share:.0%}",
        )
    if "width" not in ways:  # steps of whole layers and heads: the nearest size is the one that was asked for
        size = max(parameters_of(config, shape) for shape in found)
        found = {shape for shape in found if parameters_of(config, shape) >= 0.97 * size}
    return sorted(found, key=lambda one: (-one.layers, -one.kv_heads))


def head_counts(config: ModelConfig) -> list[int]:
    """Returns numbers of key heads to try, down to half; those of Llama that transformers refuses to load are left out."""
    whole = config.num_key_value_heads
    queries = config.num_attention_heads // whole
    fewer = range(whole - 1, (whole + 1) // 2 - 1, -1)
    return [
        whole,
        *(
            one
            for one in fewer
            if config.architecture != "llama" or config.hidden_size % (one * queries) == 0
        ),
    ]


def _depths(config: ModelConfig, most: float, kv_heads: int, ways: Collection[Way]) -> list[int]:
    """Returns numbers of layers to try: those that reach the size; where MLPs narrow too, all, or some fewer."""
    if "depth" not in ways:
        return [config.num_hidden_layers]
    shape = Shape(config.num_hidden_layers, config.intermediate_size, kv_heads)
    layers = config.num_hidden_layers
    while layers > 1 and parameters_of(config, replace(shape, layers=layers)) > most:
        layers -= 1
    if "width" not in ways:
        return [layers]
    gone = config.num_hidden_layers - layers
    return sorted({config.num_hidden_layers - gone * step // 4 for step in range(_DEPTHS + 1)})


def _filled(config: ModelConfig, most: float, layers: int, kv_heads: int, width: bool) -> Shape | None:
    """Returns the widest shape of at most a size, or None where none is; without `width`, the MLPs stay whole."""
    whole = Shape(layers, config.intermediate_size, kv_heads)
    if parameters_of(config, whole) <= most:
        return whole
    if not width:
        return None
    none = parameters_of(config, replace(whole, channels=0))
    room = (most - none) / (layers * 3 * config.hidden_size)
    channels = int(room) // MULTIPLE * MULTIPLE if config.intermediate_size >= 4 * MULTIPLE else int(room)
    return replace(whole, channels=channels) if channels >= max(1, config.intermediate_size // 4) else None

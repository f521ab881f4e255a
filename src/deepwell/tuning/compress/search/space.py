"""`Candidate`: parts of a donor that stay, layer by layer; and `Space`, in which candidates lie, with their sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import UnsupportedModel
from deepwell.models.formats.config import Block, ModelConfig
from deepwell.tuning.compress.shapes import MULTIPLE, Shape, head_counts, parameters_of, shape_of

__all__ = ["Candidate", "Population", "Space"]

_STEPS: Final = 6  # levels of the width of an MLP, 0 not counted


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to be, by the layers of its donor.

    Attributes:
        kv_heads: key heads of every attention that stays.
        attention: layers that keep their attention.
        channels: width of each layer's MLP; 0: it goes. A layer without either part goes wholly.
    """

    kv_heads: int
    attention: tuple[bool, ...]
    channels: tuple[int, ...]

    @property
    def layers(self) -> list[int]:
        """Numbers of the donor's layers of which something stays."""
        parts = zip(self.attention, self.channels, strict=True)
        return [number for number, (attention, channels) in enumerate(parts) if attention or channels]

    @property
    def is_plain(self) -> bool:
        """True if every layer that stays has the same parts, so that a plain configuration expresses it."""
        return len({(self.attention[one], self.channels[one]) for one in self.layers}) == 1

    def shape(self) -> Shape:
        """Returns the shape of the model."""
        stays = self.layers
        blocks = tuple(Block(self.attention[one], self.channels[one]) for one in stays)
        widest = max(one.intermediate_size for one in blocks)
        return Shape(len(stays), widest, self.kv_heads, () if self.is_plain else blocks)

    def to_json(self) -> dict[str, Any]:
        """Returns the candidate as plain JSON values."""
        return {
            "kv_heads": self.kv_heads,
            "attention": [int(one) for one in self.attention],
            "channels": list(self.channels),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads what `to_json` returned."""
        return cls(values["kv_heads"], tuple(map(bool, values["attention"])), tuple(values["channels"]))

    @property
    def key(self) -> str:
        """Name that no other candidate of the donor has."""
        return json.dumps(self.to_json(), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Population:
    """Candidates as arrays: levels of width, attention and level of heads of each.

    Attributes:
        width: level of each MLP, int64 [candidates, layers].
        attention: bool [candidates, layers].
        heads: level of the key heads, int64 [candidates].
    """

    width: NDArray[np.int64]
    attention: NDArray[np.bool_]
    heads: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.heads)

    def take(self, rows: NDArray[Any]) -> Population:
        """Returns some of the candidates."""
        return Population(self.width[rows], self.attention[rows], self.heads[rows])

    def joined(self, other: Population) -> Population:
        """Returns both after each other."""
        return Population(
            np.concatenate([self.width, other.width]),
            np.concatenate([self.attention, other.attention]),
            np.concatenate([self.heads, other.heads]),
        )


class Space:
    """All candidates of a donor.

    Attributes:
        levels: widths that an MLP may have, rising from 0 to the donor's.
        kv_heads: numbers of key heads, rising to the donor's.
        uniform: candidates keep whole layers of one width, as any engine loads them.

    Raises:
        UnsupportedModel: layers may differ, and the donor's architecture has no form for that.
    """

    def __init__(self, config: ModelConfig, *, uniform: bool) -> None:
        if not uniform and config.architecture not in ("llama", "qwen2"):
            raise UnsupportedModel(
                f"layers of a model of the architecture {config.architecture} cannot differ",
                fix="add --uniform, which searches whole layers of one width",
            )
        whole = config.intermediate_size
        unit = MULTIPLE if whole >= _STEPS * MULTIPLE else 1
        inner = sorted({whole * step // _STEPS // unit * unit for step in range(1, _STEPS)} - {0, whole})
        self.levels = (0, *inner, whole)
        # Layers that differ make it a Llama, whatever it was.
        counted = config if uniform else replace(config, architecture="llama")
        self.kv_heads = tuple(sorted(head_counts(counted)))
        self.config, self.uniform = config, uniform
        self._widths = np.array(self.levels)

    @property
    def layers(self) -> int:
        """Number of the donor's layers."""
        return self.config.num_hidden_layers

    @cached_property
    def donor(self) -> Candidate:
        """The donor itself."""
        return Candidate(self.kv_heads[-1], (True,) * self.layers, (self.levels[-1],) * self.layers)

    def candidate(self, population: Population, row: int) -> Candidate:
        """Returns one of a population."""
        return Candidate(
            self.kv_heads[population.heads[row]],
            tuple(bool(one) for one in population.attention[row]),
            tuple(self.levels[one] for one in population.width[row]),
        )

    def population(self, candidates: list[Candidate]) -> Population:
        """Returns candidates as arrays."""
        return Population(
            np.array([[self.levels.index(one) for one in each.channels] for each in candidates], np.int64),
            np.array([each.attention for each in candidates], bool),
            np.array([self.kv_heads.index(each.kv_heads) for each in candidates], np.int64),
        )

    def sizes(self, population: Population) -> NDArray[np.float64]:
        """Returns the numbers of weights, as `parameters_of` counts them: [candidates]."""
        config, hidden = self.config, self.config.hidden_size
        fixed = parameters_of(config, Shape(0, 0, 1))
        alone = (Block(True, 0),)
        attention = np.array(
            [parameters_of(config, Shape(1, 0, count, alone)) - fixed for count in self.kv_heads], np.int64
        )
        mlps = (3 * self._widths[population.width] + (population.width > 0)) * hidden
        return np.float64(fixed) + population.attention.sum(1) * attention[population.heads] + mlps.sum(1)

    def holds(self, values: Any) -> bool:
        """Returns whether values of JSON are a candidate of the space, as `Candidate.to_json` writes it."""
        try:
            one = Candidate.from_json(values)
        except (KeyError, TypeError):
            return False
        return (
            one.kv_heads in self.kv_heads
            and len(one.attention) == len(one.channels) == self.layers
            and any(one.attention)
            and any(one.channels)
            and all(width in self.levels for width in one.channels)
        )

    @property
    def size(self) -> int:
        """Number of weights of the donor."""
        return parameters_of(self.config, shape_of(self.config))

    def widths(self, population: Population) -> NDArray[np.int64]:
        """Returns the widths of the MLPs: [candidates, layers]."""
        return self._widths[population.width]

    def repaired(self, population: Population) -> Population:
        """Returns candidates that the space has: some MLP and some attention stay; of a uniform one, layers are alike."""
        width, attention = population.width.copy(), population.attention.copy()
        if self.uniform:
            stays = attention & (width > 0)
            # The width of the first layer that stays is the width of all.
            first = width[np.arange(len(width)), stays.argmax(1)]
            width = np.where(stays, np.maximum(first, 1)[:, None], 0)
            attention = stays
        empty = ~attention.any(1)
        attention[empty, 0] = True
        if self.uniform:
            width[empty, 0] = 1
        width[~(width > 0).any(1), 0] = 1
        return Population(width, attention, population.heads)

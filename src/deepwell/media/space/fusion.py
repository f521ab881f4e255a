"""`Fusion`: one vector of several modalities, weighted by gates that see how far each can be trusted. numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from deepwell.media.space.heads import Array, Parameters, gelu, linear, normed, softmax, unit

__all__ = ["MODALITIES", "SIGNS", "Fused", "Fusion", "Modality", "Sensed"]

Modality = Literal["text", "image", "sound"]
MODALITIES: Final[tuple[Modality, ...]] = ("text", "image", "sound")
SIGNS: Final = 4
"""Numbers beside a vector that tell how sure its head is."""


@dataclass(frozen=True, slots=True)
class Sensed:
    """Result of a head.

    Attributes:
        vector: unit vector [384].
        signs: [4]; zeros for text, which has no noise.
    """

    vector: Array
    signs: Array


@dataclass(frozen=True, slots=True)
class Fused:
    """One vector of several.

    Attributes:
        vector: unit vector [384].
        gates: the weight of each modality that was present; they sum to 1.
    """

    vector: Array
    gates: Mapping[Modality, float]


class Fusion:
    """A layer of attention across the modalities that are present, and a gate for each.

    It sees how sure each head is, and not what the vectors say: gates that saw them learnt their few training things by heart.

    Args:
        parameters: by the names of `training.fusing.FusionNet`, with `signs_mean` and `signs_scale` of each modality.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def __call__(self, present: Mapping[Modality, Sensed]) -> Fused:
        """Returns the vector of what is present, at least one modality. One alone stays as it is."""
        own = self._parameters
        names: list[Modality] = [name for name in MODALITIES if name in present]
        vectors = np.stack([present[name].vector for name in names])
        places = [MODALITIES.index(name) for name in names]
        signs = np.stack([present[name].signs for name in names])
        signs = (signs - own["signs_mean"][places]) / own["signs_scale"][places]
        values = linear(signs, own, "signs") + own["kinds"][places]
        queries, keys, given = np.split(linear(normed(values, own, "norm"), own, "attention_in"), 3, axis=1)
        shares = softmax(queries @ keys.T / np.float32(keys.shape[1] ** 0.5))
        values = values + linear(shares @ given, own, "attention_out")
        values = values + gelu(linear(normed(values, own, "wide_norm"), own, "wide"))
        gates = softmax(linear(values, own, "gate")[:, 0])
        weights: dict[Modality, float] = dict(zip(names, gates.tolist(), strict=True))
        return Fused(unit(gates @ vectors), weights)

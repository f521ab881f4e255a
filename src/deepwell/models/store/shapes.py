"""`shipped_shapes`: what the models of the shipped catalog are like, known before they are fetched."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from deepwell.models.formats.config import ModelConfig
from deepwell.models.store.layout import expected_tensors

__all__ = ["ModelShape", "parameters_of", "shipped_shapes"]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """One model.

    Attributes:
        config: its sizes; how it computes beyond them is known from its files alone.
        download_bytes: of all of its files, to within some megabytes.
        precision: the one that `--precision auto` chooses for its files.
    """

    config: ModelConfig
    download_bytes: int
    precision: str


def parameters_of(config: ModelConfig) -> int:
    """Returns the number of the model's parameters."""
    return sum(math.prod(shape) for _, shape in expected_tensors(config))


@cache
def shipped_shapes() -> Mapping[str, ModelShape]:
    """Returns the shapes of the shipped catalog's models, by name."""
    text = files("deepwell.models.store").joinpath("shapes.toml").read_text(encoding="utf-8")
    found: dict[str, ModelShape] = {}
    for name, fields in tomllib.loads(text).items():
        download_bytes, precision = fields.pop("bytes"), fields.pop("precision", "int8")
        found[name] = ModelShape(ModelConfig(**fields), download_bytes, precision)
    return found

"""One readable file a model family; each says which tensors it loads and composes the backend's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepwell.engine.architectures import llama
from deepwell.engine.architectures.plan import TensorPlan
from deepwell.engine.backend import Backend, Model
from deepwell.errors import UnsupportedModel
from deepwell.models.config import ModelConfig

if TYPE_CHECKING:
    from deepwell.engine.weights import Weights

__all__ = ["build_model", "tensor_plan"]

_FAMILIES = {"llama": llama, "qwen2": llama}


def tensor_plan(config: ModelConfig) -> TensorPlan:
    """The packed tensors that `config.architecture` needs.

    Raises:
        UnsupportedModel: no file here runs this architecture.
    """
    return _family(config).tensors(config)


def build_model(backend: Backend, weights: Weights, config: ModelConfig, max_positions: int) -> Model:
    """Compose the model of `config.architecture` on `backend`, for sequences of up to `max_positions` tokens.

    Raises:
        UnsupportedModel: no file here runs this architecture.
    """
    return _family(config).build(backend, weights, config, max_positions)


def _family(config: ModelConfig):  # noqa: ANN202 - modules have no nominal type
    if config.architecture not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise UnsupportedModel(f"architecture {config.architecture!r} is not supported", fix=f"use one of {known}")
    return _FAMILIES[config.architecture]

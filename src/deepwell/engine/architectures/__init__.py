"""Model families, one readable file each. A file lists the tensors it loads and composes the backend's layers."""

from __future__ import annotations

from types import ModuleType

from deepwell.engine.architectures import deepseek, deepseek_v4, encoder, llama
from deepwell.engine.architectures.tensors import TensorPlan
from deepwell.engine.backends.backend import Backend, Model
from deepwell.engine.backends.encoder_backend import Encoder
from deepwell.engine.weights.packed import Weights
from deepwell.models.formats.config import ModelConfig

__all__ = ["build_encoder", "build_model", "build_prediction", "tensor_plan"]


def tensor_plan(config: ModelConfig) -> TensorPlan:
    """Returns the packed tensors that `config.architecture` needs."""
    if config.is_encoder:
        return encoder.tensors(config)
    return _family(config).tensors(config)


def build_model(backend: Backend, weights: Weights, config: ModelConfig, max_positions: int) -> Model:
    """Composes the model of `config.architecture` on `backend`, for sequences of up to `max_positions` tokens."""
    return _family(config).build(backend, weights, config, max_positions)


def _family(config: ModelConfig) -> ModuleType:
    if config.compression is not None:
        return deepseek_v4
    return deepseek if config.is_latent else llama


def build_prediction(
    backend: Backend, weights: Weights, config: ModelConfig, max_positions: int
) -> Model | None:
    """Composes the multi-token prediction layer that follows the last layer, or returns None if the model has none."""
    if config.prediction_layer is None:
        return None
    return _family(config).build_prediction(backend, weights, config, max_positions)


def build_encoder(backend: Backend, weights: Weights, config: ModelConfig) -> Encoder:
    """Composes the encoder of `config.architecture` on `backend`."""
    return encoder.build(backend, weights, config)

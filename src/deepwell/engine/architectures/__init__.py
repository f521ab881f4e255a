"""Model families, one readable file each. A file lists the tensors it loads and composes the backend's layers."""

from __future__ import annotations

from deepwell.engine.architectures import deepseek, encoder, llama
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
    return deepseek.tensors(config) if config.is_latent else llama.tensors(config)


def build_model(backend: Backend, weights: Weights, config: ModelConfig, max_positions: int) -> Model:
    """Composes the model of `config.architecture` on `backend`, for sequences of up to `max_positions` tokens."""
    family = deepseek if config.is_latent else llama
    return family.build(backend, weights, config, max_positions)


def build_prediction(
    backend: Backend, weights: Weights, config: ModelConfig, max_positions: int
) -> Model | None:
    """Composes the multi-token prediction layer that follows the last layer, or returns None if the model has none."""
    if config.prediction_layer is None:
        return None
    return deepseek.build_prediction(backend, weights, config, max_positions)


def build_encoder(backend: Backend, weights: Weights, config: ModelConfig) -> Encoder:
    """Composes the encoder of `config.architecture` on `backend`."""
    return encoder.build(backend, weights, config)

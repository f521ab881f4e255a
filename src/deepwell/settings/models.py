"""Settings of models: which are served, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from deepwell.settings.sources import cache_root

__all__ = ["ModelSettings"]


class ModelSettings(BaseSettings):
    """The section of models: which are served, and where they come from."""

    model: str = Field("smollm2", description="Model that is served: a name in the store, or a path.")
    embedding_model: str | None = Field(
        None, description="A second model, for /v1/embeddings alone: a name in the store, or a path."
    )
    models_dir: Path = Field(
        default_factory=lambda: cache_root() / "models", description="Directory of the model store."
    )
    sampling_defaults: Literal["model", "off"] = Field(
        "model",
        description="Source of sampling parameters that a request leaves out: model (its publisher), or off (OpenAI's).",
    )
    offline: bool = Field(False, description="Whether the network is never used to fetch models.")

    @property
    def packed_dir(self) -> Path:
        """The folder of packed weights, which are made again from the model when they are missing."""
        return self.models_dir.parent / "packed"

"""Settings of models: which are served, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from deepwell.settings.section import Section
from deepwell.settings.sources import cache_root

__all__ = ["ModelSettings"]


class ModelSettings(Section):
    """The section of models: which are served, and where they come from."""

    model: str = Field("smollm2", description="Model that is served: a name in the store, or a path.")
    additional_models: Annotated[list[str], NoDecode] = Field(
        default_factory=list[str],
        description="Models that are served besides model, for the same tasks: names in the store, or paths.",
    )
    embedding_model: str | None = Field(
        None, description="A second model, for /v1/embeddings alone: a name in the store, or a path."
    )
    models_on_demand: bool = Field(
        False,
        description="Whether models of the store are loaded when a request names them, and unloaded again.",
    )
    allowed_models: Annotated[list[str], NoDecode] = Field(
        default_factory=list[str],
        description="Names of the models that may be loaded on demand; empty: all of the store.",
    )
    model_keep_alive_s: float = Field(
        300.0,
        ge=-1,
        description="Seconds that a model loaded on demand stays after its last request; -1: until its room is needed.",
    )
    models_memory_mb: int | None = Field(
        None,
        ge=1,
        description="MB of memory for models that are loaded on demand; unset: what is available at the start.",
    )
    model_loads_per_minute: int = Field(
        20,
        ge=0,
        description="Loads of models on demand that a tenant's requests may cause in a minute; 0: no limit.",
    )
    models_dir: Path = Field(
        default_factory=lambda: cache_root() / "models", description="Directory of the model store."
    )
    packed_dir: Path | None = Field(
        None,
        description="Directory of packed weights, which the first start of a model writes for the later ones; "
        "unset: packed, beside models_dir.",
    )
    sampling_defaults: Literal["model", "off"] = Field(
        "model",
        description="Source of sampling parameters that a request leaves out: model (its publisher), or off (OpenAI's).",
    )
    offline: bool = Field(False, description="Whether the network is never used to fetch models.")
    model_updates: Literal["off", "daily", "weekly"] = Field(
        "off",
        description="Time between a server's looks for new revisions of stored models on their sources: "
        "off (only when asked), daily or weekly.",
    )

    @field_validator("additional_models", "allowed_models", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return [one for one in value.replace(",", " ").split() if one] if isinstance(value, str) else value

    @property
    def packed_folder(self) -> Path:
        """The folder of packed weights, which are made again from the model when they are missing."""
        return self.packed_dir or self.models_dir.parent / "packed"

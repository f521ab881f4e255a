"""The bodies of the models API."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "DefaultSampling",
    "DeletedModel",
    "ModelCard",
    "ModelList",
]


class DefaultSampling(Struct):
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    source: str  # who declared them: OpenAI, generation_config.json, GGUF metadata or catalog


class ModelCard(Struct, tag_field="object", tag="model"):
    id: str
    created: int
    owned_by: str
    max_model_len: int
    parent: str | UnsetType = UNSET  # an adapter's base model, as in vLLM; the model that an alias means
    # What a request that leaves a parameter out is drawn with; unset for a model that generates no text
    default_sampling: DefaultSampling | UnsetType = UNSET
    # A model on demand: not_loaded, loading, loaded or unloading; unset for a model that stays
    state: str | UnsetType = UNSET
    size_bytes: int | UnsetType = UNSET  # its planned memory


class DeletedModel(Struct, tag_field="object", tag="model"):
    id: str
    deleted: bool


class ModelList(Struct, tag_field="object", tag="list"):
    data: list[ModelCard]

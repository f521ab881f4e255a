"""The bodies of the models API."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "DefaultSampling",
    "DeletedModel",
    "MediaKind",
    "ModelCard",
    "ModelList",
]


MediaKind = Literal["speech", "recognition", "image"]
"""Purpose of a model that is not for text: text to speech, recordings to text, or images."""


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
    max_model_len: int | UnsetType = UNSET  # tokens; unset for a model that is not for text
    parent: str | UnsetType = UNSET  # an adapter's base model, as in vLLM; the model that an alias means
    # What a request that leaves a parameter out is drawn with; unset for a model that generates no text
    default_sampling: DefaultSampling | UnsetType = UNSET
    # A model on demand: not_loaded, loading, loaded or unloading; unset for a model that stays
    state: str | UnsetType = UNSET
    size_bytes: int | UnsetType = UNSET  # its planned memory
    kind: MediaKind | UnsetType = UNSET  # unset for a model for text
    # True: the recognition model of the setting, which whisper-1 stands for; unset for all others
    default: bool | UnsetType = UNSET


class DeletedModel(Struct, tag_field="object", tag="model"):
    id: str
    deleted: bool


class ModelList(Struct, tag_field="object", tag="list"):
    data: list[ModelCard]

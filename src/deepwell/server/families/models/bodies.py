"""The bodies of the models API."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "ModelCard",
    "ModelList",
]


class ModelCard(Struct, tag_field="object", tag="model"):
    id: str
    created: int
    owned_by: str
    max_model_len: int
    parent: str | UnsetType = UNSET  # an adapter's base model, as in vLLM


class ModelList(Struct, tag_field="object", tag="list"):
    data: list[ModelCard]

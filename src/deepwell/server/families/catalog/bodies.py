"""The bodies of `/v1/catalog`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["CatalogKind", "CatalogList", "CatalogModel", "MemoryPlan", "PlanLine"]


CatalogKind = Literal["chat", "embedding", "recognition", "speech", "image", "image-safety"]


class CatalogModel(Struct, tag_field="object", tag="catalog.model"):
    """A model that can be fetched by its name.

    Attributes:
        kind: what it is for; a recognition model reads recordings, a speech model reads text aloud, and a model of
            image safety judges images.
        languages: ISO 639-1 codes of the languages that it answers in, best first.
        download_bytes: of its files; of those that are here, if it is downloaded.
        memory_bytes: planned for it beside what a server takes anyway, as the server would load it.
        served: whether a request may name it now.
    """

    id: str
    kind: CatalogKind
    description: str
    languages: list[str]
    license: str
    parameters: int | None
    download_bytes: int | None
    memory_bytes: int | None
    downloaded: bool
    served: bool


class CatalogList(Struct, tag_field="object", tag="list"):
    """A page of the catalog."""

    data: list[CatalogModel]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PlanLine(Struct):
    """One part of the memory: `weights`, `kv_cache`, `workspace` or `server`."""

    name: str
    bytes: int


class MemoryPlan(Struct, tag_field="object", tag="memory_plan"):
    """The memory that a model will need here. `advice` says which flags would make it fit."""

    model: str
    fits: bool
    precision: str
    context: int
    total_bytes: int
    available_bytes: int
    lines: list[PlanLine]
    advice: str | None

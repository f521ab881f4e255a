"""The bodies of `/v1/catalog`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = [
    "CatalogKind",
    "CatalogList",
    "CatalogModel",
    "FileUpdate",
    "MemoryPlan",
    "ModelUpdate",
    "PlanLine",
    "SourceUpdate",
    "UpdateReport",
    "ValueUpdate",
]


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


class FileUpdate(Struct):
    """A file of a model that differs on its source. A hash is `ALGORITHM:HEX`."""

    name: str
    kind: Literal["changed", "added", "removed"]
    size_before: int | None
    size_now: int | None
    hash_before: str | None
    hash_now: str | None


class ValueUpdate(Struct):
    """A licence, or the SHA-256 of a chat template, that differs on a source; empty where there is none."""

    before: str
    now: str


UpdateState = Literal["new", "moved", "current", "unasked"]


class SourceUpdate(Struct):
    """The findings about one source of a model.

    Attributes:
        source: as `deepwell pull` takes it.
        changed_at: time of the newest revision, as the source says it.
        not_told: facts that the source does not tell: of `date`, `files`, `hashes`, `licence` and `template`.
        reason: why there is no answer.
        fetch: source of the new revision, as `deepwell pull` takes it.
    """

    source: str
    state: UpdateState
    revision_before: str
    revision_now: str
    changed_at: int | None
    files: list[FileUpdate]
    license: ValueUpdate | None
    template: ValueUpdate | None
    not_told: list[str]
    reason: str | None
    fix: str | None
    fetch: str | None


class ModelUpdate(Struct, tag_field="object", tag="catalog.update"):
    """The findings about one model of the store.

    Attributes:
        state: `new`: a source has other files, licence, template or version; `moved`: a new revision has the same;
            `current`: nothing is new; `unasked`: no source answered.
    """

    id: str
    state: UpdateState
    sources: list[SourceUpdate]


class UpdateReport(Struct, tag_field="object", tag="catalog.updates"):
    """The newest report on new revisions. `checked_at` is null if nobody has looked yet."""

    checked_at: int | None
    data: list[ModelUpdate]

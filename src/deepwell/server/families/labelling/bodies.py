"""The bodies of `/v1/labelling/projects`."""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "ClassCount",
    "LabellingItem",
    "LabellingItems",
    "LabellingProject",
    "LabellingProjectDeleted",
    "LabellingProjectList",
    "LabellingUndone",
]


class ClassCount(Struct):
    """Number of texts that have a class."""

    name: str
    count: int


class LabellingProject(Struct, tag_field="object", tag="labelling.project"):
    """A project. `unreadable` records of its file are no items; `stable` says that further labels change little."""

    id: str
    name: str
    file_id: str
    classes: list[ClassCount]
    strategy: str
    items: int
    labelled: int
    skipped: int
    unreadable: int
    stable: bool
    created_at: int


class LabellingProjectList(Struct, tag_field="object", tag="list"):
    """A page of projects."""

    data: list[LabellingProject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class LabellingProjectDeleted(Struct, tag_field="object", tag="labelling.project.deleted"):
    """A project that is gone."""

    id: str
    deleted: bool = True


class LabellingItem(Struct, tag_field="object", tag="labelling.item"):
    """A text to label. `suggestion` is the class that the learner finds most likely, with its probability."""

    index: int
    text: str
    suggestion: str | None
    probability: float | None


class LabellingItems(Struct, tag_field="object", tag="list"):
    """The texts to label next, and how far the project is."""

    data: list[LabellingItem]
    project: LabellingProject


class LabellingUndone(Struct, tag_field="object", tag="labelling.undone"):
    """The text whose label was taken back; null: there was nothing to take back."""

    item: LabellingItem | None
    project: LabellingProject

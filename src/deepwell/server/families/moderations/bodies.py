"""The body of `POST /v1/moderations`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, defstruct

from deepwell.safety.moderation.scorer import CATEGORIES, THRESHOLD, Moderation

__all__ = ["Moderated", "ModerationList", "moderated"]

_FIELDS = [name.replace("/", "_").replace("-", "_") for name in CATEGORIES]
_NAMES = dict(zip(_FIELDS, CATEGORIES, strict=True))

Categories = defstruct("Categories", [(name, bool) for name in _FIELDS], rename=_NAMES, module=__name__)
CategoryScores = defstruct(
    "CategoryScores", [(name, float) for name in _FIELDS], rename=_NAMES, module=__name__
)
AppliedTypes = defstruct(
    "AppliedTypes", [(name, list[Literal["text"]]) for name in _FIELDS], rename=_NAMES, module=__name__
)


class Moderated(Struct):
    """The moderation of one input."""

    flagged: bool
    categories: Categories  # pyright: ignore[reportInvalidTypeForm]
    category_scores: CategoryScores  # pyright: ignore[reportInvalidTypeForm]
    category_applied_input_types: AppliedTypes  # pyright: ignore[reportInvalidTypeForm]


class ModerationList(Struct):
    """The moderations of all inputs, in order."""

    id: str
    model: str
    results: list[Moderated]


def moderated(found: Moderation) -> Moderated:
    """Returns the body of one moderation."""
    scores = [found.scores[name] for name in CATEGORIES]
    return Moderated(
        found.flagged,
        Categories(*(score >= THRESHOLD for score in scores)),
        CategoryScores(*scores),
        AppliedTypes(*(["text"] for _ in scores)),
    )

"""The bodies of `/v1/ratings/studies`."""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "RatedInterval",
    "RaterAgreement",
    "RaterVotes",
    "RatingPair",
    "RatingPairs",
    "RatingProgress",
    "RatingResults",
    "RatingStudy",
    "RatingStudyDeleted",
    "RatingStudyList",
    "RatingUndone",
]


class RatingStudy(Struct, tag_field="object", tag="ratings.study"):
    """A study. It does not name its models: raters are blind until they ask for the results."""

    id: str
    name: str
    file_id: str
    pairs: int
    raters: int
    votes: int
    created_at: int


class RatingStudyList(Struct, tag_field="object", tag="list"):
    """A page of studies."""

    data: list[RatingStudy]
    first_id: str | None
    last_id: str | None
    has_more: bool


class RatingStudyDeleted(Struct, tag_field="object", tag="ratings.study.deleted"):
    """A study that is gone."""

    id: str
    deleted: bool = True


class RatingPair(Struct, tag_field="object", tag="ratings.pair"):
    """A pair to rate. Which model is left differs from pair to pair and from rater to rater."""

    index: int
    prompt: str
    left: str
    right: str


class RatingProgress(Struct):
    """The progress of a rater."""

    rater: str
    rated: int
    pairs: int


class RatingPairs(Struct, tag_field="object", tag="list"):
    """The pairs that a rater has not rated, in the rater's own order, and how far the rater is."""

    data: list[RatingPair]
    progress: RatingProgress


class RatingUndone(Struct, tag_field="object", tag="ratings.undone"):
    """The pair whose vote was taken back; null: there was nothing to take back."""

    pair: RatingPair | None
    progress: RatingProgress


class RatedInterval(Struct):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class RaterVotes(Struct):
    """The votes of one rater."""

    rater: str
    first: int
    second: int
    tie: int


class RaterAgreement(Struct):
    """The agreement of two raters. `kappa` is null where chance alone would always agree."""

    raters: list[str]
    pairs: int
    agreement: RatedInterval
    kappa: RatedInterval | None


class RatingResults(Struct, tag_field="object", tag="ratings.results"):
    """The results of a study. `win_rate` is that of the second model: a tie counts half, and each pair once."""

    first: str
    second: str
    pairs: int
    rated: int
    win_rate: RatedInterval | None
    raters: list[RaterVotes]
    agreements: list[RaterAgreement]

"""The requests of `/v1/ratings/studies`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from deepwell.server.families.pages import PageQuery
from deepwell.server.http.schema import Strict

__all__ = [
    "MAX_BYTES",
    "MAX_PAIRS",
    "NextPairsQuery",
    "RaterRequest",
    "RatingStudyRequest",
    "StudiesQuery",
    "VoteRequest",
]

MAX_PAIRS: Final = 5000
MAX_BYTES: Final = 32 << 20

Rater = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Name of the rater, whose votes are kept apart from those of others.",
    ),
]
_Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]


class RatingStudyRequest(Strict):
    """Makes a study of a file of pairs."""

    file_id: str = Field(
        description="A file that was uploaded: JSON lines as `deepwell evaluate pairs` writes them."
    )
    name: _Name | None = Field(None, description="Name for people; unset: that of the file.")


class RaterRequest(Strict):
    """Names a rater."""

    rater: Rater


class VoteRequest(RaterRequest):
    """Says which answer of a pair is better. A second vote on the pair replaces the first."""

    index: int = Field(ge=0, lt=MAX_PAIRS, description="Place of the pair, as the list of next pairs has it.")
    choice: Literal["left", "right", "tie"]


class NextPairsQuery(BaseModel):
    """The rater who asks, and how many pairs to show."""

    model_config = ConfigDict(extra="forbid")

    rater: Rater = "anonymous"
    limit: int = Field(5, ge=1, le=50)


class StudiesQuery(PageQuery):
    """A page of studies."""

"""The requests of `/v1/feedback`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from deepwell.server.families.pages import PageQuery
from deepwell.server.http.schema import MAX_ENTRIES, Strict

__all__ = ["MAX_MESSAGES_BYTES", "FeedbackQuery", "FeedbackRequest"]

MAX_MESSAGES_BYTES = 256 << 10
_Text = Annotated[str, Field(max_length=8192, pattern=r"^[^\x00]*$")]  # PostgreSQL keeps no NUL
_Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]+$")]


class FeedbackRequest(Strict):
    """Rates an answer by its id. It need not be kept: ratings of answers that are not are kept all the same.

    A user has one rating of an answer: a later one replaces it. The user is the `safety_identifier`, else the one that the
    request of a kept answer named, else the API key.
    """

    target_id: _Name = Field(description="Id of a response, a completion or a message.")
    rating: Literal["up", "down"]
    reason: _Text | None = None
    correction: Annotated[str, Field(min_length=1, max_length=32_768, pattern=r"^[^\x00]*$")] | None = Field(
        None, description="The answer that the user would have liked."
    )
    consent: bool = Field(
        False, description="Whether the rating and the conversation may be used to improve models."
    )
    model: Annotated[str, Field(max_length=256, pattern=r"^[^\x00]*$")] | None = Field(
        None, description="The model that answered. Of a kept answer it is known, and this is ignored."
    )
    messages: list[dict[str, Any]] | None = Field(
        None,
        max_length=MAX_ENTRIES,
        description="The conversation, the answer last. It is kept only if it is sent. Of a kept answer, the kept conversation "
        "is taken instead, if this is sent or consent is given.",
    )
    safety_identifier: _Text | None = Field(
        None, description="The person who rates, so that the rating can be found and erased."
    )


class FeedbackQuery(PageQuery):
    """A page of ratings."""

    rating: Literal["up", "down"] | None = None
    consent: bool | None = None
    target_id: _Name | None = None

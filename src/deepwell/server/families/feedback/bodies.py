"""The bodies of `/v1/feedback`."""

from __future__ import annotations

from msgspec import UNSET, Raw, Struct, UnsetType

__all__ = ["Feedback", "FeedbackDeleted", "FeedbackList"]


class Feedback(Struct, tag_field="object", tag="feedback"):
    """A rating of an answer."""

    id: str
    target_id: str
    rating: str
    reason: str | None
    model: str | None
    created_at: int
    correction: str | None
    consent: bool
    verified: bool  # model and messages are those of the kept answer
    messages: Raw | UnsetType = UNSET  # where the client sent them, or consented to the use of the kept ones


class FeedbackDeleted(Struct, tag_field="object", tag="feedback"):
    """A rating that is gone."""

    id: str
    deleted: bool = True


class FeedbackList(Struct, tag_field="object", tag="list"):
    """A page of ratings."""

    data: list[Feedback]
    first_id: str | None
    last_id: str | None
    has_more: bool

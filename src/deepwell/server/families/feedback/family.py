"""The family of feedback."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.feedback.bodies import Feedback, FeedbackDeleted, FeedbackList
from deepwell.server.families.feedback.routes import router
from deepwell.server.families.feedback.schema import FeedbackRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("post", "/v1/feedback", Feedback, request=FeedbackRequest),
            Operation("get", "/v1/feedback", FeedbackList),
            Operation("delete", "/v1/feedback/{feedback_id}", FeedbackDeleted),
        ),
        api="deepwell",
    ),
    router,
)

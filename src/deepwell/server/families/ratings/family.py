"""The family of ratings."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.ratings.bodies import (
    RatingPairs,
    RatingProgress,
    RatingResults,
    RatingStudy,
    RatingStudyDeleted,
    RatingStudyList,
    RatingUndone,
)
from deepwell.server.families.ratings.routes import router
from deepwell.server.families.ratings.schema import RaterRequest, RatingStudyRequest, VoteRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_STUDIES = "/v1/ratings/studies"
_STUDY = "/v1/ratings/studies/{rating_study_id}"

FAMILY = Family(
    Declaration(
        (
            Operation("post", _STUDIES, RatingStudy, request=RatingStudyRequest),
            Operation("get", _STUDIES, RatingStudyList),
            Operation("get", _STUDY, RatingStudy),
            Operation("delete", _STUDY, RatingStudyDeleted),
            Operation("get", f"{_STUDY}/next", RatingPairs),
            Operation("post", f"{_STUDY}/votes", RatingProgress, request=VoteRequest),
            Operation("post", f"{_STUDY}/undo", RatingUndone, request=RaterRequest),
            Operation("get", f"{_STUDY}/results", RatingResults),
            Operation("get", f"{_STUDY}/export", "jsonl"),
        ),
        api="deepwell",
        scope="files",
    ),
    router,
)

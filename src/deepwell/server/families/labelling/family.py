"""The family of labelling."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.labelling.bodies import (
    LabellingItems,
    LabellingProject,
    LabellingProjectDeleted,
    LabellingProjectList,
    LabellingUndone,
)
from deepwell.server.families.labelling.routes import router
from deepwell.server.families.labelling.schema import LabellingProjectRequest, LabelRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_PROJECTS = "/v1/labelling/projects"
_PROJECT = "/v1/labelling/projects/{labelling_project_id}"

FAMILY = Family(
    Declaration(
        (
            Operation("post", _PROJECTS, LabellingProject, request=LabellingProjectRequest),
            Operation("get", _PROJECTS, LabellingProjectList),
            Operation("get", _PROJECT, LabellingProject),
            Operation("delete", _PROJECT, LabellingProjectDeleted),
            Operation("get", f"{_PROJECT}/next", LabellingItems),
            Operation("post", f"{_PROJECT}/labels", LabellingProject, request=LabelRequest),
            Operation("post", f"{_PROJECT}/undo", LabellingUndone),
            Operation("get", f"{_PROJECT}/export", "jsonl"),
        ),
        api="deepwell",
        scope="files",
    ),
    router,
)

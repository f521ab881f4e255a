"""The family of stored prompts."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.prompts.bodies import Prompt, PromptDeleted, PromptList
from deepwell.server.families.prompts.routes import PROMPT, PROMPTS, VERSION, VERSIONS, router
from deepwell.server.families.prompts.schema import CurrentRequest, PromptRequest, VersionRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("post", PROMPTS, Prompt, request=PromptRequest),
            Operation("get", PROMPTS, PromptList),
            Operation("get", PROMPT, Prompt),
            Operation("post", PROMPT, Prompt, request=CurrentRequest),
            Operation("delete", PROMPT, PromptDeleted),
            Operation("post", VERSIONS, Prompt, request=VersionRequest),
            Operation("get", VERSIONS, PromptList),
            Operation("get", VERSION, Prompt),
        ),
        api="deepwell",
        scope="files",
    ),
    router,
)

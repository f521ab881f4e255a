"""The family of moderations."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.moderations.bodies import ModerationList
from deepwell.server.families.moderations.routes import router
from deepwell.server.families.moderations.schema import ModerationRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                "/v1/moderations",
                ModerationList,
                request=ModerationRequest,
                name="moderation",
                example='{"input": "$text"}',
            ),
        )
    ),
    router,
)

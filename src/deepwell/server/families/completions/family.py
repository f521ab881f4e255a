"""The family of plain completions."""

from __future__ import annotations

from deepwell.server.families.completions.bodies import Completion
from deepwell.server.families.completions.routes import router
from deepwell.server.families.completions.schema import CompletionRequest
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                "/v1/completions",
                Completion,
                streams=True,
                request=CompletionRequest,
                name="text_completion",
                batches=True,
                replays=True,
                example='{"model": "$model", "prompt": "$text", "max_tokens": 40, "temperature": 0}',
            ),
        )
    ),
    router,
)

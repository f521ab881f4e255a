"""The family of embeddings."""

from __future__ import annotations

from deepwell.server.families.embeddings.bodies import EmbeddingList
from deepwell.server.families.embeddings.routes import router
from deepwell.server.families.embeddings.schema import EmbeddingRequest
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                "/v1/embeddings",
                EmbeddingList,
                request=EmbeddingRequest,
                name="embeddings",
                batches=True,
                example='{"model": "$model", "input": "$text"}',
            ),
        )
    ),
    router,
)

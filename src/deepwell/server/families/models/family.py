"""The family of models."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.models.bodies import DeletedModel, ModelCard, ModelList
from deepwell.server.families.models.routes import router
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("get", "/v1/models", ModelList),
            Operation("get", "/v1/models/{id}", ModelCard),
            Operation("delete", "/v1/models/{model}", DeletedModel),
        ),
    ),
    router,
)

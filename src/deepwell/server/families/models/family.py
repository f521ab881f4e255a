"""The family of models."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.models.bodies import ModelCard, ModelList
from deepwell.server.families.models.routes import router
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (Operation("get", "/v1/models", ModelList), Operation("get", "/v1/models/{id}", ModelCard)),
        not_served={
            "DELETE /v1/models/{model}": (
                "fine-tuned models of OpenAI's; adapters are unloaded with /v1/unload_lora_adapter"
            )
        },
    ),
    router,
)

"""The family of searches for prompts."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.optimisations.bodies import Optimisation, OptimisationList
from deepwell.server.families.optimisations.routes import OPTIMISATION, OPTIMISATIONS, router
from deepwell.server.families.optimisations.schema import OptimisationRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("post", OPTIMISATIONS, Optimisation, request=OptimisationRequest),
            Operation("get", OPTIMISATIONS, OptimisationList),
            Operation("get", OPTIMISATION, Optimisation),
            Operation("post", f"{OPTIMISATION}/cancel", Optimisation),
        ),
        api="deepwell",
        scope="tuning",
    ),
    router,
)

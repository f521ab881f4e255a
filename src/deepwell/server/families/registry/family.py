"""The family of the registry of models."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.registry.bodies import (
    DeploymentList,
    ImprovementList,
    LedgerEntryList,
    LedgerVerification,
    RegistryAlias,
    RegistryAliasList,
    RegistryVersionList,
    RolloutBody,
    RolloutList,
)
from deepwell.server.families.registry.routes import router
from deepwell.server.families.registry.schema import DecisionRequest, RevertRequest, RolloutStart
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_ROLLOUT = "/v1/rollouts/{rollout_id}"

FAMILY = Family(
    Declaration(
        (
            Operation("get", "/v1/registry/aliases", RegistryAliasList),
            Operation("get", "/v1/registry/versions", RegistryVersionList),
            Operation("get", "/v1/registry/log", LedgerEntryList),
            Operation("post", "/v1/registry/verify", LedgerVerification),
            Operation("post", "/v1/registry/revert", RegistryAlias, request=RevertRequest),
            Operation("get", "/v1/rollouts", RolloutList),
            Operation("post", "/v1/rollouts", RolloutBody, request=RolloutStart),
            Operation("get", _ROLLOUT, RolloutBody),
            Operation("post", f"{_ROLLOUT}/promote", RolloutBody, request=DecisionRequest),
            Operation("post", f"{_ROLLOUT}/abort", RolloutBody, request=DecisionRequest),
            Operation("get", "/v1/improvements", ImprovementList),
            Operation("get", "/v1/deployments", DeploymentList),
        ),
        api="deepwell",
        scope="admin",
    ),
    router,
)

"""`/v1/guard`: the policy in force."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.safety.findings import Action, Layer
from deepwell.safety.policy import Policy, strictest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.guard.bodies import GuardRule, GuardState, LabelState
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.database import Tenant

__all__ = ["router"]

_LAYERS: tuple[Layer, ...] = ("input", "context", "output")


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    @routes.get("/v1/guard", summary="Show the policy of the guard", response_model=None)
    async def guard(request: Request) -> Response:
        if context.guard is None:
            return json_response(_without_guard())
        return json_response(_state(context.guard.policy, context.guard.missing, tenant_of(request)))

    return routes


def _without_guard() -> GuardState:
    return GuardState(False, None, None, None, [], [], [], None, LabelState(False, ""), [])


def _state(policy: Policy, missing: list[str], tenant: Tenant) -> GuardState:
    rules = {layer: _rules(policy, layer, tenant) for layer in _LAYERS}
    on_failure: list[Action] = [policy.on_failure(layer, tenant) for layer in _LAYERS]
    return GuardState(
        enabled=True,
        name=policy.name,
        version=policy.version,
        hash=policy.hash,
        input=rules["input"],
        context=rules["context"],
        output=rules["output"],
        on_failure=strictest(*on_failure),
        labels=LabelState(policy.label, policy.producer),
        missing=missing,
    )


def _rules(policy: Policy, layer: Layer, tenant: Tenant) -> list[GuardRule]:
    """Returns the server's rules of a layer, and then the tenant's. Of both the stricter decides."""
    return [
        GuardRule(name, rule.action, rule.min_score)
        for one in policy.layers(layer, tenant)
        for name, rule in one.rules.items()
    ]

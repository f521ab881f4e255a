"""`/v1/catalog`: the models that can be fetched by name, the memory that each needs, and jobs that fetch them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deepwell.errors import DownloadError, InvalidRequest, ModelNotFound
from deepwell.models.store.catalog import CatalogEntry
from deepwell.models.store.store import ModelStore
from deepwell.server.access.admin import require_admin
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.catalog.bodies import (
    CatalogKind,
    CatalogList,
    CatalogModel,
    MemoryPlan,
    PlanLine,
)
from deepwell.server.families.catalog.plans import Facts, ModelPlans
from deepwell.server.families.catalog.schema import CatalogQuery, LookRequest, PlanQuery, PullRequest
from deepwell.server.families.catalog.updates import enqueue_updates, update_report
from deepwell.server.families.catalog.worker import PULL_JOB, payload_of
from deepwell.server.families.jobs.described import job_body
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    options = context.options.catalog
    if options is None:
        return routes
    plans, settings = ModelPlans(options), options.settings

    @routes.get("/v1/catalog", summary="List the models that can be fetched", response_model=None)
    async def listed(query: Annotated[CatalogQuery, Query()]) -> Response:
        names, has_more = _page(list(plans.entries), query)
        served = await _served(context)
        data = await asyncio.to_thread(_described, plans, names, served)
        first, last = (names[0], names[-1]) if names else (None, None)
        return json_response(CatalogList(data, first, last, has_more))

    @routes.get("/v1/catalog/{id}/plan", summary="Plan the memory of a model", response_model=None)
    async def planned(id: str, query: Annotated[PlanQuery, Query()]) -> Response:
        given = query.model_dump(exclude_none=True)
        asked = settings.model_copy(update=given) if given else settings
        body = await asyncio.to_thread(_planned, plans, id, asked, await _room(context, id))
        return json_response(body)

    @routes.post(
        "/v1/catalog/pull",
        summary="Fetch a model",
        response_model=None,
        dependencies=[Depends(require_admin)],
    )
    async def pull(request: Request, body: PullRequest) -> Response:
        name = body.model
        if name not in plans.entries:
            raise ModelNotFound(
                f"the catalog has no model {name!r}",
                fix="GET /v1/catalog lists them; `deepwell pull` on the server's machine fetches others",
                param="model",
            )
        if settings.offline and name not in await asyncio.to_thread(plans.downloaded):
            raise DownloadError.of("offline_set", name=name)
        job = await context.state.jobs.enqueue_once(tenant_of(request), PULL_JOB, payload_of(name))
        return json_response(job_body(job))

    @routes.get(
        "/v1/catalog/updates",
        summary="Read what is new on the sources of stored models",
        response_model=None,
        dependencies=[Depends(require_admin)],
    )
    async def updates() -> Response:
        return json_response(await asyncio.to_thread(update_report, ModelStore(settings.models_dir)))

    @routes.post(
        "/v1/catalog/updates",
        summary="Look for new revisions of stored models",
        response_model=None,
        dependencies=[Depends(require_admin)],
    )
    async def look(request: Request, body: LookRequest) -> Response:
        return json_response(job_body(await enqueue_updates(context, tenant_of(request))))

    return routes


def _page(names: list[str], query: CatalogQuery) -> tuple[list[str], bool]:
    """Returns the names of one page, and whether more follow."""
    if query.order == "desc":
        names.reverse()
    if query.after is not None:
        if query.after not in names:
            raise InvalidRequest(
                f"'after' names {query.after!r}, which is not in this list",
                fix="use the last id of the page before",
                param="after",
            )
        names = names[names.index(query.after) + 1 :]
    return names[: query.limit], len(names) > query.limit


async def _served(context: ServerContext) -> set[str]:
    names = {answering.model.name for answering in context.served}
    if context.on_demand is not None:
        names |= {offer.name for offer in await context.on_demand.offers()}
    return names


def _described(plans: ModelPlans, names: list[str], served: set[str]) -> list[CatalogModel]:
    downloaded, found = plans.downloaded(), list[CatalogModel]()
    for name in names:
        entry, facts = plans.entries[name], plans.facts(name)
        found.append(
            CatalogModel(
                id=name,
                kind=_kind(entry, facts),
                description=entry.summary,
                languages=[*entry.languages],
                license=entry.licence,
                parameters=facts.parameters,
                download_bytes=facts.download_bytes,
                memory_bytes=facts.memory_bytes,
                downloaded=name in downloaded,
                served=name in served,
            )
        )
    return found


def _kind(entry: CatalogEntry, facts: Facts) -> CatalogKind:
    if entry.kind != "text":
        return entry.kind
    return "embedding" if facts.embeds else "chat"


async def _room(context: ServerContext, name: str) -> int:
    """Returns the bytes that a model may take: all that models on demand may have, or what this machine has left.

    A model that is loaded may keep what it has.
    """
    from deepwell.engine.machine import available_memory_bytes

    if context.on_demand is not None and not any(one.model.name == name for one in context.served):
        return context.on_demand.state.budget_bytes
    left = available_memory_bytes()
    for answering in context.served:
        if answering.model.name == name:
            runs = answering.model.capabilities
            left += runs.weights_bytes + runs.kv_cache_bytes
    return left


def _planned(plans: ModelPlans, name: str, settings: Any, available_bytes: int) -> MemoryPlan:
    made, error = plans.plan(name, settings, available_bytes)
    parts = (
        ("weights", made.weights_bytes),
        ("kv_cache", made.kv_cache_bytes),
        ("workspace", made.workspace_bytes),
        ("server", made.server_bytes),
    )
    return MemoryPlan(
        model=name,
        fits=error is None,
        precision=made.precision,
        context=made.context,
        total_bytes=made.total_bytes,
        available_bytes=available_bytes,
        lines=[PlanLine(part, count) for part, count in parts],
        advice=None if error is None else error.fix,
    )

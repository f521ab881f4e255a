"""`/v1/registry`, `/v1/rollouts` and `/v1/improvements`: the models behind aliases, for an administrator."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.errors import NotFound
from deepwell.server.access.principal import principal_of
from deepwell.server.context import ServerContext
from deepwell.server.families.pages import PageQuery, ends_of
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
from deepwell.server.families.registry.deployed import deployment_body
from deepwell.server.families.registry.schema import (
    DecisionRequest,
    RegistryQuery,
    RevertRequest,
    RolloutsQuery,
    RolloutStart,
)
from deepwell.server.families.registry.told import (
    entry_body,
    improvement_body,
    page_in_memory,
    rollout_body,
    version_body,
)
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.server.rollouts import RolloutDesk, StartTerms
from deepwell.storage.aliases import MOST_ALIASES, Alias, AliasStore
from deepwell.storage.registry.ledger import Entry, Ledger
from deepwell.storage.registry.store import newest_promotion
from deepwell.storage.registry.story import Rollout, Story, told

__all__ = ["router"]

_ROLLOUT = "/v1/rollouts/{rollout_id}"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)
    registry = _Registry(context)

    @routes.get("/v1/registry/aliases", summary="List aliases with their versions", response_model=None)
    async def aliases(query: Annotated[PageQuery, Query()]) -> Response:
        data, more = page_in_memory(await registry.aliases(), query)
        return json_response(RegistryAliasList(data, *ends_of(data), more))

    @routes.get("/v1/registry/versions", summary="List versions of models", response_model=None)
    async def versions(query: Annotated[RegistryQuery, Query()]) -> Response:
        story = told(await registry.entries(query.alias))
        found, more = page_in_memory(list(story.versions.values()), query)
        data = [version_body(one, story) for one in found]
        return json_response(RegistryVersionList(data, *ends_of(data), more))

    @routes.get("/v1/registry/log", summary="List what happened to models", response_model=None)
    async def log(query: Annotated[RegistryQuery, Query()]) -> Response:
        in_words = registry.desk.in_words
        found = [entry_body(one, in_words(one)) for one in await registry.ledger.readable(query.alias)]
        data, more = page_in_memory(found, query)
        return json_response(LedgerEntryList(data, *ends_of(data), more))

    @routes.post("/v1/registry/verify", summary="Verify the ledger of models", response_model=None)
    async def verify() -> Response:
        found = await registry.desk.check()
        head = f"{found.entries}:{found.head}"
        return json_response(
            LedgerVerification(not found.problems, found.entries, head, list(found.problems))
        )

    @routes.post("/v1/registry/revert", summary="Undo the newest promotion", response_model=None)
    async def revert(request: Request, body: RevertRequest) -> Response:
        await registry.desk.revert(body.alias, _author(request), body.reason)
        await context.aliases.refresh()
        return json_response(next(one for one in await registry.aliases() if one.id == body.alias))

    _rollouts(routes, context, registry)

    @routes.get("/v1/improvements", summary="List improvements of models", response_model=None)
    async def improvements(query: Annotated[PageQuery, Query()]) -> Response:
        loops = await registry.desk.loops()
        story: Story = told(await registry.entries())
        data, more = page_in_memory([improvement_body(one, story) for one in loops], query)
        return json_response(ImprovementList(data, *ends_of(data), more))

    return routes


def _rollouts(routes: APIRouter, context: ServerContext, registry: _Registry) -> None:
    """Adds the routes of roll-outs and deployments."""

    @routes.get("/v1/rollouts", summary="List roll-outs", response_model=None)
    async def rollouts(query: Annotated[RolloutsQuery, Query()]) -> Response:
        story = told(await registry.entries(query.alias))
        found = [one for one in story.rollouts.values() if query.state in (None, one.state)]
        page, more = page_in_memory(found, query)
        data = [await registry.described(one) for one in page]
        return json_response(RolloutList(data, *ends_of(data), more))

    @routes.post("/v1/rollouts", summary="Start a roll-out", response_model=None)
    async def start(request: Request, body: RolloutStart) -> Response:
        steps = None if body.steps is None else tuple(body.steps)
        terms = StartTerms(body.share, steps, body.hold_seconds, body.kind, body.ungated)
        made = await registry.desk.start(f"{body.alias}#{body.version}", _author(request), terms)
        await context.aliases.refresh()
        return json_response(await registry.described(made))

    @routes.get("/v1/deployments", summary="List deployments of this machine", response_model=None)
    async def deployments(query: Annotated[PageQuery, Query()]) -> Response:
        # A server without a desk starts no deployments; the console asks for them with its first page of roll-outs.
        told_of = () if context.rollouts is None else await context.rollouts.deployments()
        found = [deployment_body(one) for one in told_of]
        data, more = page_in_memory(found, query)
        return json_response(DeploymentList(data, *ends_of(data), more))

    @routes.get(_ROLLOUT, summary="Get a roll-out", response_model=None)
    async def rollout(rollout_id: str) -> Response:
        return json_response(await registry.described(await registry.rollout(rollout_id)))

    @routes.post(f"{_ROLLOUT}/promote", summary="Give the candidate to all users", response_model=None)
    async def promote(request: Request, rollout_id: str, body: DecisionRequest) -> Response:
        found = await registry.rollout(rollout_id)
        ended = await registry.desk.promote(found, _author(request), body.reason)
        await context.aliases.refresh()
        return json_response(await registry.described(ended))

    @routes.post(f"{_ROLLOUT}/abort", summary="Give all users the model of before", response_model=None)
    async def abort(request: Request, rollout_id: str, body: DecisionRequest) -> Response:
        found = await registry.rollout(rollout_id)
        ended = await registry.desk.abort(found, _author(request), body.reason)
        await context.aliases.refresh()
        return json_response(await registry.described(ended))


class _Registry:
    """The registry of a server, and the desk that decides."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    @property
    def desk(self) -> RolloutDesk:
        """Returns the desk.

        Raises:
            NotFound: the server was started without one.
        """
        if self._context.rollouts is None:
            raise NotFound("this server was started without roll-outs", fix="start it with `deepwell serve`")
        return self._context.rollouts

    @property
    def ledger(self) -> Ledger:
        """Returns the ledger of the server's database."""
        return Ledger(self._context.state.database)

    async def entries(self, alias: str | None = None) -> list[Entry]:
        """Returns all entries, or those of an alias.

        Raises:
            LedgerChanged: one cannot be read.
        """
        return list(await self.ledger.entries(alias))

    async def aliases(self) -> list[RegistryAlias]:
        """Returns all aliases, the oldest first."""
        page = await AliasStore(self._context.state.database).list(limit=MOST_ALIASES)
        entries = await self.entries()
        story = told(entries)
        return [
            _alias(one, [entry for entry in entries if entry.alias == one.name], story) for one in page.data
        ]

    async def rollout(self, id: str) -> Rollout:
        """Returns a roll-out.

        Raises:
            NotFound: there is none of this id.
            LedgerChanged: there is none because the ledger was changed.
        """
        if (found := told(await self.entries()).rollouts.get(id)) is None:
            await self._context.state.aliases.names()  # verifies it
            raise NotFound.of("rollout_unknown", id=id[:64])
        return found

    async def described(self, rollout: Rollout) -> RolloutBody:
        """Returns a roll-out with its votes, as the API describes it."""
        return rollout_body(rollout, await self.desk.votes(rollout))


def _alias(alias: Alias, entries: list[Entry], story: Story) -> RegistryAlias:
    promoted = newest_promotion(entries)
    undoes = promoted is not None and alias.candidate is None and promoted.fields["model"] == alias.model
    return RegistryAlias(
        alias.name,
        alias.model,
        alias.changed_at,
        alias.changed_by,
        alias.candidate,
        alias.share,
        alias.rollout,
        len(story.versions_of(alias.name)),
        str(promoted.fields["before"]) if promoted is not None and undoes else None,
    )


def _author(request: Request) -> str:
    return principal_of(request).key_id or "local"

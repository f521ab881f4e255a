"""`/v1/ratings/studies`: people compare answers of two models."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.pages import ends_of
from deepwell.server.families.ratings.bodies import (
    RatedInterval,
    RaterAgreement,
    RaterVotes,
    RatingPair,
    RatingPairs,
    RatingProgress,
    RatingResults,
    RatingStudy,
    RatingStudyDeleted,
    RatingStudyList,
    RatingUndone,
)
from deepwell.server.families.ratings.schema import (
    MAX_BYTES,
    NextPairsQuery,
    RaterRequest,
    RatingStudyRequest,
    StudiesQuery,
    VoteRequest,
)
from deepwell.server.families.ratings.source import read_pairs
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.database import Tenant
from deepwell.storage.tuning.ratings import Choice, RatingStore, StoredPair, StoredStudy, StoredVote
from deepwell.tuning.evaluate.agreement import preference_of
from deepwell.tuning.evaluate.statistics import Estimate

__all__ = ["router"]

_STUDIES = "/v1/ratings/studies"
_STUDY = "/v1/ratings/studies/{rating_study_id}"
_encode = msgspec.json.encode


class _Work:
    """The work of the routes."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        # Intervals of many raters take seconds: one at a time, so that they hold up nobody but each other
        self._computing = asyncio.Lock()

    @property
    def store(self) -> RatingStore:
        return RatingStore(self._context.state.database)

    async def create(self, tenant: Tenant, body: RatingStudyRequest) -> RatingStudy:
        """Makes a study of a file.

        Raises:
            NotFound: the tenant has no such file.
            InvalidRequest: it is too large, or holds no pairs.
        """
        files = self._context.state.files
        file = await files.get(tenant, body.file_id)
        if file.bytes > MAX_BYTES:
            raise InvalidRequest(
                f"the file {file.id!r} has {file.bytes} bytes",
                fix=f"split it into files of at most {MAX_BYTES}",
                param="file_id",
            )
        read = await self._context.readers.call(tenant, read_pairs, await files.path(tenant, file.id))
        study = await self.store.create(
            tenant, name=body.name or file.filename, file_id=file.id, models=read.models, rows=read.pairs
        )
        return await self.described(tenant, study)

    async def described(self, tenant: Tenant, study: StoredStudy) -> RatingStudy:
        """Returns a study as the API describes it."""
        raters, votes = await self.store.counts(tenant, study.id)
        return RatingStudy(study.id, study.name, study.file_id, study.pairs, raters, votes, study.created_at)

    async def next(self, tenant: Tenant, id: str, rater: str, limit: int) -> RatingPairs:
        """Returns the pairs that a rater has not rated, in an order of the rater's own."""
        study = await self.store.get(tenant, id)
        rated = {vote.position for vote in await self.store.votes(tenant, id, rater)}
        left = [position for position in range(study.pairs) if position not in rated]
        left.sort(key=lambda position: _hash(id, rater, position))
        found = await self.store.pairs(tenant, id, left[:limit])
        return RatingPairs(
            [_shown(id, rater, pair) for pair in found], RatingProgress(rater, len(rated), study.pairs)
        )

    async def vote(self, tenant: Tenant, id: str, body: VoteRequest) -> RatingProgress:
        """Keeps a vote."""
        choice: Choice = "tie"
        if body.choice != "tie":
            is_first = (body.choice == "left") != _swapped(id, body.rater, body.index)
            choice = "first" if is_first else "second"
        await self.store.vote(tenant, id, StoredVote(body.index, body.rater, choice))
        return await self.progress(tenant, id, body.rater)

    async def undo(self, tenant: Tenant, id: str, rater: str) -> RatingUndone:
        """Takes back the last vote of a rater."""
        position = await self.store.undo(tenant, id, rater)
        found = [] if position is None else await self.store.pairs(tenant, id, [position])
        pair = _shown(id, rater, found[0]) if found else None
        return RatingUndone(pair, await self.progress(tenant, id, rater))

    async def progress(self, tenant: Tenant, id: str, rater: str) -> RatingProgress:
        """Returns how far a rater is."""
        study = await self.store.get(tenant, id)
        return RatingProgress(rater, len(await self.store.votes(tenant, id, rater)), study.pairs)

    async def results(self, tenant: Tenant, id: str) -> RatingResults:
        """Returns the win rate and the agreement of the raters."""
        study = await self.store.get(tenant, id)
        votes: dict[str, dict[int, Choice]] = {}
        for vote in await self.store.votes(tenant, id):
            votes.setdefault(vote.rater, {})[vote.position] = vote.choice
        async with self._computing:
            found = await asyncio.to_thread(preference_of, votes)
        return RatingResults(
            first=study.first,
            second=study.second,
            pairs=study.pairs,
            rated=found.rated,
            win_rate=_interval(found.win_rate),
            raters=[RaterVotes(one.rater, one.first, one.second, one.tie) for one in found.raters],
            agreements=[
                RaterAgreement(
                    list(one.raters),
                    one.pairs,
                    RatedInterval(one.share.value, one.share.low, one.share.high),
                    _interval(one.kappa),
                )
                for one in found.agreements
            ],
        )

    async def lines(self, tenant: Tenant, study: StoredStudy) -> AsyncGenerator[bytes]:
        """Yields the votes as JSON lines."""
        pairs = {pair.position: pair for pair in await self.store.pairs(tenant, study.id)}
        models = {"first": study.first, "second": study.second, "tie": None}
        for vote in await self.store.votes(tenant, study.id):
            line = {
                "index": vote.position,
                "rater": vote.rater,
                "choice": vote.choice,
                "preferred": models[vote.choice],
                "first": study.first,
                "second": study.second,
                "prompt": pairs[vote.position].prompt,
            }
            yield _encode(line) + b"\n"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    work = _Work(context)

    @routes.post(_STUDIES, summary="Make a study of a file of pairs", response_model=None)
    async def create(request: Request, body: RatingStudyRequest) -> Response:
        return json_response(await work.create(tenant_of(request), body))

    @routes.get(_STUDIES, summary="List studies", response_model=None)
    async def listed(request: Request, query: Annotated[StudiesQuery, Query()]) -> Response:
        tenant = tenant_of(request)
        page = await work.store.list(tenant, after=query.after, limit=query.limit, order=query.order)
        data = [await work.described(tenant, one) for one in page.data]
        return json_response(RatingStudyList(data, *ends_of(data), page.has_more))

    @routes.get(_STUDY, summary="Fetch a study", response_model=None)
    async def retrieve(request: Request, rating_study_id: str) -> Response:
        tenant = tenant_of(request)
        return json_response(await work.described(tenant, await work.store.get(tenant, rating_study_id)))

    @routes.delete(_STUDY, summary="Delete a study with its votes", response_model=None)
    async def delete(request: Request, rating_study_id: str) -> Response:
        await work.store.delete(tenant_of(request), rating_study_id)
        return json_response(RatingStudyDeleted(rating_study_id))

    @routes.get(f"{_STUDY}/next", summary="Choose the pairs to rate next", response_model=None)
    async def following(
        request: Request, rating_study_id: str, query: Annotated[NextPairsQuery, Query()]
    ) -> Response:
        found = await work.next(tenant_of(request), rating_study_id, query.rater, query.limit)
        return json_response(found)

    @routes.post(f"{_STUDY}/votes", summary="Say which answer is better", response_model=None)
    async def vote(request: Request, rating_study_id: str, body: VoteRequest) -> Response:
        return json_response(await work.vote(tenant_of(request), rating_study_id, body))

    @routes.post(f"{_STUDY}/undo", summary="Take back the last vote of a rater", response_model=None)
    async def undo(request: Request, rating_study_id: str, body: RaterRequest) -> Response:
        return json_response(await work.undo(tenant_of(request), rating_study_id, body.rater))

    @routes.get(f"{_STUDY}/results", summary="Read win rate and agreement", response_model=None)
    async def results(request: Request, rating_study_id: str) -> Response:
        return json_response(await work.results(tenant_of(request), rating_study_id))

    @routes.get(f"{_STUDY}/export", summary="Read the votes", response_model=None)
    async def export(request: Request, rating_study_id: str) -> Response:
        tenant = tenant_of(request)
        study = await work.store.get(tenant, rating_study_id)
        # A browser must never show it as a page of this host, whatever is in it.
        headers = {"x-content-type-options": "nosniff"}
        lines = work.lines(tenant, study)
        return StreamingResponse(lines, headers=headers, media_type="application/x-jsonl")

    return routes


def _hash(id: str, rater: str, position: int) -> bytes:
    return hashlib.sha256(f"{id}\0{position}\0{rater}".encode()).digest()


def _swapped(id: str, rater: str, position: int) -> bool:
    """Returns whether a rater sees the second model's answer on the left. The id is random, so nobody can guess it."""
    return _hash(id, rater, position)[-1] % 2 == 1


def _shown(id: str, rater: str, pair: StoredPair) -> RatingPair:
    sides = (pair.second, pair.first) if _swapped(id, rater, pair.position) else (pair.first, pair.second)
    return RatingPair(pair.position, pair.prompt, *sides)


def _interval(found: Estimate | None) -> RatedInterval | None:
    return None if found is None else RatedInterval(found.value, found.low, found.high)

"""`POST /v1/moderations`: scores of texts for OpenAI's thirteen categories."""

from __future__ import annotations

import asyncio
import uuid
from functools import cache

from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.safety.moderation.scorer import Moderator
from deepwell.safety.moderation.weights import read_weights
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import starter_list
from deepwell.server.context import ServerContext
from deepwell.server.families.moderations.bodies import ModerationList, moderated
from deepwell.server.families.moderations.schema import MODEL, ModerationRequest
from deepwell.server.http.json_route import JsonRoute, json_response

__all__ = ["router"]

_INLINE_CHARACTERS = 4096
"""Characters that are read on the event loop, in about 5 ms; more are read in a thread."""


def router(context: ServerContext) -> APIRouter:
    """Returns the route."""
    del context
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/moderations", summary="Score texts for categories of harm", response_model=None)
    async def moderations(request: Request, body: ModerationRequest) -> Response:
        texts = body.texts
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return json_response(_moderations(texts))
        return json_response(await asyncio.to_thread(_moderations, texts))

    return routes


@cache
def _moderator() -> Moderator:
    return Moderator(read_weights(), Terms([starter_list()]))


def _moderations(texts: list[str]) -> ModerationList:
    moderator = _moderator()
    results = [moderated(moderator.moderate(text)) for text in texts]
    return ModerationList(f"modr-{uuid.uuid4().hex}", MODEL, results)

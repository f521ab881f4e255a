"""`POST /v1/moderations`: scores of texts for OpenAI's thirteen categories."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.safety.moderation.scorer import Moderator
from deepwell.safety.moderation.weights import read_weights
from deepwell.safety.policy import MAX_CHARACTERS
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import starter_list
from deepwell.server.context import ServerContext
from deepwell.server.families.moderations.bodies import ModerationList, moderated
from deepwell.server.families.moderations.schema import MODEL, ModerationRequest
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.server.options import GUARD_TIMEOUT_S

__all__ = ["ModerationLate", "router"]

_INLINE_CHARACTERS: Final = 4096
"""Characters that are read on the event loop, in about 5 ms; more are read in a thread."""

_THREADS: Final = 2


class ModerationLate(DeepwellError):
    """Raised where the time for a request is over before all its texts were read."""

    status = 503
    code = "moderation_late"
    retry_after = 1


def router(context: ServerContext) -> APIRouter:
    """Returns the route. A request has the time that the guard has for one text, and no more characters than it reads."""
    routes = APIRouter(route_class=JsonRoute)
    threads = ThreadPoolExecutor(_THREADS, "moderation")

    async def close() -> None:
        threads.shutdown(wait=False, cancel_futures=True)

    context.on_close(close)
    guard = context.options.guard
    timeout_s = GUARD_TIMEOUT_S if guard is None else guard.timeout_s

    def most_characters() -> int:
        mine = context.served[0].guard if context.served else None
        return MAX_CHARACTERS if mine is None else mine.policy.max_characters

    @routes.post("/v1/moderations", summary="Score texts for categories of harm", response_model=None)
    async def moderations(request: Request, body: ModerationRequest) -> Response:
        texts = body.texts
        count, most = sum(map(len, texts)), most_characters()
        if count > most:
            raise InvalidRequest.of("moderation_text_long", count=count, most=most, param="input")
        moderate = partial(_moderations, texts, time.monotonic() + timeout_s)
        try:
            if count <= _INLINE_CHARACTERS:
                return json_response(moderate())
            reading = asyncio.get_running_loop().run_in_executor(threads, moderate)
            return json_response(await asyncio.wait_for(reading, timeout_s))
        except TimeoutError:
            raise ModerationLate.of("moderation_late", seconds=timeout_s) from None

    return routes


@cache
def _moderator() -> Moderator:
    return Moderator(read_weights(), Terms([starter_list()]))


def _moderations(texts: Sequence[str], until: float) -> ModerationList:
    moderator = _moderator()
    results = [moderated(moderator.moderate(text, until)) for text in texts]
    return ModerationList(f"modr-{uuid.uuid4().hex}", MODEL, results)

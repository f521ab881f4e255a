"""`routed`: what the last user turn asks for, as the media router decides it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Final

from deepwell.errors import DeepwellError
from deepwell.messages import Language, render
from deepwell.server.context import ServerContext
from deepwell.server.guarding.requests import language_of
from deepwell.server.observe.record import Phase, current

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepwell.media.router.classifier import Intent
    from deepwell.media.router.route import Route, Router

__all__ = ["Routed", "asks_for_picture", "routed", "shared_router"]

_log = logging.getLogger("deepwell.server")
_SURE: Final = 0.9
"""Score of a picture, and distance of all others from it, at which the classifier may do without the text model."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A choice between an answer in text, a picture, speech and a transcription.

    Attributes:
        intents: what is asked for, in the order in which it is answered.
        reasons: sentences that explain the choice, in the language of the request.
        by: "rules", "classifier" or "classifier without encoder".
        language: language of the request.
    """

    intents: tuple[Intent, ...]
    reasons: tuple[str, ...]
    by: str
    language: Language


@cache
def shared_router() -> Router:
    """Returns the router with the weights of the package."""
    from deepwell.media.router.route import Router

    return Router()


def asks_for_picture(text: str) -> bool:
    """Returns whether a request surely asks for a picture and nothing else. It reads no vector."""
    found = shared_router().route(text)
    others = [score for intent, score in found.scores.items() if intent != "image"]
    return found.intents == ("image",) and found.scores["image"] >= _SURE and max(others) <= 1 - _SURE


async def routed(context: ServerContext, text: str, attached: Collection[str] = ()) -> Routed:
    """Decides what a request asks for. The choice is counted, and stands in the record of the HTTP request.

    Args:
        attached: kinds of what is attached to the turn: `audio`, `image`.
    """
    begin = perf_counter()
    language = language_of(text)
    router = await asyncio.to_thread(shared_router)
    found: Route | None = await asyncio.to_thread(router.decided, text, attached)
    if found is None:
        vector = await _vector(context, text)
        found = await asyncio.to_thread(router.route, text, attached, vector)
    reasons = tuple(render(one.key, language, one.values)[0] for one in found.reasons)
    choice = Routed(found.intents, reasons, found.by, language)
    context.metrics.routing.routed(choice.intents, choice.by)
    if (record := current()) is not None:
        record.intents = "+".join(choice.intents)
        attributes = {"route.intents": list(choice.intents), "route.by": choice.by}
        record.phases.append(Phase("choose", begin, perf_counter(), attributes))
    return choice


async def _vector(context: ServerContext, text: str) -> NDArray[np.float32] | None:
    """Returns e5-small's vector of a request; None where the model is not in the store, or fails."""
    from deepwell.media.router.features import encoded_text
    from deepwell.media.router.route import ENCODER

    try:
        encoder = await context.knowledge.embedders.named(ENCODER)
        return (await encoder.embed([encoded_text(text)], "plain"))[0]
    except DeepwellError as error:
        _log.debug("the router does without its encoder: %s", error)
        return None

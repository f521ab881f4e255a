"""The choice of the model `auto` as answers show it."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from deepwell.server.routing.answer import Production

__all__ = ["RouteBody", "route_of"]


class RouteBody(Struct):
    """The choice: what was asked for, why, what decided, and the models that answered, by what they do."""

    intents: list[str]
    reasons: list[str]
    by: str
    models: dict[str, str]


def route_of(production: Production, model: str) -> RouteBody | UnsetType:
    """Returns the choice; unset if the request named its model. The model that draws joins it when it has drawn.

    Args:
        model: name of the model that answers in text.
    """
    routed = production.routed
    if routed is None:
        return UNSET
    if production.asks_model:
        production.models["chat"] = model
    return RouteBody(list(routed.intents), list(routed.reasons), routed.by, production.models)

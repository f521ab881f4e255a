"""`Family`: one API family, as `app.FAMILIES` lists it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from deepwell.server.context import ServerContext
from deepwell.server.http.declaration import Declaration, DeclarationError
from deepwell.server.http.middleware import BodyAllowance

__all__ = ["BackgroundWorker", "Family"]


class BackgroundWorker(Protocol):
    """Work that a family does beside requests, on the server's event loop."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...


def _always(_context: ServerContext) -> bool:
    return True


def _no_allowance(_context: ServerContext) -> Mapping[str, BodyAllowance]:
    return {}


@dataclass(frozen=True, slots=True)
class Family:
    """A declaration, and the code that serves it.

    Attributes:
        router: makes the routes, which are exactly those that the declaration lists.
        enabled: tells whether a server offers the family at all.
        body_allowances: limits, by path, of POST bodies that go to disk instead of memory.
        worker: makes the family's background worker. Its second argument is an application with the routes of all
            families that batches may call, without authentication and limits.
    """

    declaration: Declaration
    router: Callable[[ServerContext], APIRouter]
    enabled: Callable[[ServerContext], bool] = _always
    body_allowances: Callable[[ServerContext], Mapping[str, BodyAllowance]] = _no_allowance
    worker: Callable[[ServerContext, FastAPI], BackgroundWorker] | None = None

    @property
    def batches(self) -> bool:
        """True if one of its operations may be called by the requests of a batch."""
        return any(operation.batches for operation in self.declaration.operations)

    def routes(self, context: ServerContext) -> list[APIRoute]:
        """Returns the family's routes.

        Raises:
            DeclarationError: they are not those that the family declares.
        """
        routes = [route for route in self.router(context).routes if isinstance(route, APIRoute)]
        served = {(method.lower(), route.path_format) for route in routes for method in route.methods or ()}
        declared = {operation.key for operation in self.declaration.operations}
        for what, keys in (("is not declared", served - declared), ("has no route", declared - served)):
            if keys:
                method, path = min(keys)
                raise DeclarationError(f"{method.upper()} {path} {what}")
        return routes

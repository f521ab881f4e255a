"""Routes that read the signature of their endpoint at the first request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from fastapi.routing import APIRoute
from starlette.routing import compile_path, get_name
from starlette.types import Receive, Scope, Send

from deepwell.server.observe.record import current

__all__ = ["LazyRoute"]

_READING: Final = threading.RLock()


class LazyRoute(APIRoute):
    """A FastAPI route that knows its path and methods at once, and all else when something asks for it.

    To read 200 signatures took most of the time in which an application was made; few servers are asked for every route.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.path, self.endpoint = path, endpoint
        self.name = options.get("name") or get_name(endpoint)
        self.methods = {method.upper() for method in options.get("methods") or ("GET",)}
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self._unread: dict[str, Any] = options

    def read_signature(self, options: dict[str, Any]) -> None:
        """Does what FastAPI's own route does when it is made."""
        super().__init__(self.path, self.endpoint, **options)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Notes the template of the path, for what is told of the request while it is answered."""
        if (record := current()) is not None:
            record.route = self.path
        await super().handle(scope, receive, send)

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there yet. Another thread waits until all is there."""
        with _READING:
            options = self.__dict__.pop("_unread", None)
            if options is not None:
                self.read_signature(options)
        return object.__getattribute__(self, name)

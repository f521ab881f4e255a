"""Routes whose JSON body is parsed straight from its bytes into its model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic.warnings import UnsupportedFieldAttributeWarning
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepwell.safety.privacy.places import end_user_of
from deepwell.server.access.principal import principal_in
from deepwell.server.http.body_room import SMALL_BODY_BYTES, free_body_in
from deepwell.server.http.json_size import check_entries
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.observe.record import current

__all__ = ["AnyTypeJsonRoute", "JsonRoute", "json_response"]

_encode = msgspec.json.Encoder().encode
_JSON = (b"application/json", b"application/json; charset=utf-8")  # as nearly all clients have it
_JSON_KIND = re.compile(rb"\s*application/([^/;\s]+\+)?json\s*(;|$)", re.IGNORECASE)
_POSITION = re.compile(r" at line (\d+) column (\d+)$")

# FastAPI mutes this where it makes a field, but a deferred model is built later.
warnings.filterwarnings("ignore", category=UnsupportedFieldAttributeWarning)


def json_response(body: object) -> Response:
    """Returns a response with `body` as JSON. Bytes are JSON already."""
    data = body if isinstance(body, bytes) else _encode(body)
    return Response(data, media_type="application/json")


class JsonRoute(LazyRoute):
    """A FastAPI route `(request, body)` for a JSON model. It saves half a millisecond on a processor with cold caches.

    FastAPI enters exit stacks, solves dependencies and parses the body in two steps. Here pydantic reads the bytes. Small
    bodies that it refuses, other content types and routes of another signature take FastAPI's path, which words the errors.
    A large body is not parsed a second time, because the event loop would wait.
    """

    def read_signature(self, options: dict[str, Any]) -> None:
        super().read_signature(options)
        needs = self.dependant
        others = (
            needs.path_params,
            needs.query_params,
            needs.header_params,
            needs.cookie_params,
            needs.dependencies,
        )
        if len(needs.body_params) != 1 or not needs.request_param_name or any(others):
            return
        model: Any = needs.body_params[0].field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            self.app = _straight(
                self.app, self.endpoint, needs.request_param_name, needs.body_params[0].name, model
            )


class AnyTypeJsonRoute(JsonRoute):
    """A `JsonRoute` that reads every body as JSON, whatever its content type says: `curl -d` says that it is a form.

    What keeps web pages out is `CrossOriginGuard`, which does not look at content types.
    """

    def read_signature(self, options: dict[str, Any]) -> None:
        super().read_signature(options)
        self.app = _as_json(self.app)


def _as_json(app: ASGIApp) -> ASGIApp:
    async def read_as_json(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        await app({**scope, "headers": [*headers, (b"content-type", _JSON[0])]}, receive, send)

    return read_as_json


def _straight(
    otherwise: ASGIApp,
    endpoint: Callable[..., Coroutine[Any, Any, Response]],
    request_name: str,
    body_name: str,
    model: type[BaseModel],
) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if kind not in _JSON and not _JSON_KIND.match(kind):
            await otherwise(scope, receive, send)
            return
        data = await _read(receive)
        if len(data) > SMALL_BODY_BYTES:
            check_entries(data)
        try:
            if not model.__pydantic_complete__:  # the first request builds the validator
                model.model_rebuild()
            body = model.__pydantic_validator__.validate_json(data)
        except ValidationError as error:
            if len(data) > SMALL_BODY_BYTES:
                raise RequestValidationError(_told(error, data)) from None
            await otherwise(scope, _again(data, receive), send)
            return
        del data  # the answer may take long, and nobody reads the bytes again
        free_body_in(scope)
        if (record := current()) is not None:
            record.end_user = end_user_of(_naming(body))
            record.key_id = principal_in(scope).key_id  # now, for what the audit trail tells of the request
        response = await endpoint(**{request_name: Request(scope, receive, send), body_name: body})
        await response(scope, receive, send)

    return app


def _naming(body: BaseModel) -> dict[str, Any]:
    """Returns the fields of a body that may name an end user."""
    fields = {name: getattr(body, name, None) for name in ("safety_identifier", "user", "metadata")}
    if isinstance(labels := fields["metadata"], BaseModel):  # Anthropic's
        fields["metadata"] = vars(labels)
    return fields


async def _read(receive: Receive) -> bytes:
    """Returns the whole body.

    Raises:
        ClientDisconnect: the client left within it.
    """
    message = await receive()
    parts: list[bytes] = []
    while message["type"] == "http.request":
        if data := message.get("body", b""):
            parts.append(data)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
        message = await receive()
    raise ClientDisconnect


def _told(error: ValidationError, data: bytes) -> list[dict[str, Any]]:
    """Returns the problems of a body as FastAPI has them."""
    found: list[dict[str, Any]] = []
    for problem in error.errors(include_url=False, include_input=False):
        loc: tuple[int | str, ...] = ("body", *problem["loc"])
        if problem["type"] == "json_invalid":
            at = _POSITION.search(problem.get("ctx", {}).get("error", ""))
            loc = ("body", _offset(data, int(at[1]), int(at[2])) if at else 0)
        found.append({**problem, "loc": loc})
    return found


def _offset(data: bytes, line: int, column: int) -> int:
    """Returns the place of a line and a column, both from 1, in bytes."""
    start = 0
    for _ in range(line - 1):
        start = data.find(b"\n", start) + 1
    return start + column - 1


def _again(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that first gives the body that was read already."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay

"""Error answers with OpenAI's error body: `{"error": {"message", "type", "param", "code"}}`, with the fix in the message."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.messages import Language, nearest, preferred_language
from deepwell.server.http.declaration import RouteTable
from deepwell.server.http.schema import TAG_MARK

__all__ = [
    "BodiesFull",
    "BodyRefused",
    "BodyTooLarge",
    "ClientLeft",
    "ErrorResponse",
    "InvalidApiKey",
    "NotServed",
    "RequestTimeout",
    "ShuttingDown",
    "SlowBody",
    "anthropic_error",
    "error_body",
    "error_response",
    "install",
    "ollama_error",
    "unexpected",
]

_log = logging.getLogger("deepwell.server")
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_UNION_MEMBER = re.compile(r"(?:literal|dict|list|tuple|set)\[.*\]")  # in places of values of several types
_MOST_PROBLEMS = 5  # shown for one request
_NEAR_PATH = 0.75  # how alike a path must be to one that is served, to be taken for it


class _Busy(DeepwellError):
    status = 503
    code = "overloaded"


class BodyRefused(HTTPException):
    """Raised when a request's body is not read to its end. The connection ends with the answer.

    It is an `HTTPException` because FastAPI lets only those through while it reads a body.
    """

    def __init__(self, status: int, error: DeepwellError) -> None:
        super().__init__(status)
        self.error = error


class BodyTooLarge(BodyRefused):
    """Raised when a request body is over the limit."""

    def __init__(self, limit: int, fix: str = "", what: str = "the request body") -> None:
        error = InvalidRequest(
            f"{what} is larger than {limit} bytes",
            fix=fix or "send less, or start the server with a higher DEEPWELL_MAX_BODY_BYTES",
        )
        super().__init__(413, error)


class BodiesFull(BodyRefused):
    """Raised when the bodies of all requests, or of one tenant, together take as much memory as they may."""

    def __init__(self, message: str = "too many large requests come in at once") -> None:
        error = _Busy(message, fix="send this one again in a while")
        super().__init__(503, error)


class SlowBody(BodyRefused):
    """Raised when a request's body does not arrive in time."""

    def __init__(self, seconds: float, what: str = "the request's body") -> None:
        error = InvalidRequest(
            f"{what} did not come within {seconds:g} s", fix="send it faster, or send less"
        )
        super().__init__(408, error)


class InvalidApiKey(DeepwellError):
    """Raised when a request has no key, or one that the server does not know."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ClientLeft(Exception):
    """Raised when the client has left, so that nobody reads the answer."""


class _NoAnswer(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends nothing."""


class NotServed(InvalidRequest):
    """Raised for an operation of OpenAI's or ollama's API that this server does not have."""

    status = 404
    code = "operation_not_served"


class RequestTimeout(DeepwellError):
    """Raised when a request takes longer than the server allows."""

    status = 504
    code = "request_timeout"


class ShuttingDown(DeepwellError):
    """Raised while the server stops: answers in flight end with it."""

    status = 503
    code = "shutting_down"


def error_body(message: str, type: str, param: str | None = None, code: str | None = None) -> bytes:
    """Returns OpenAI's error object as JSON."""
    return msgspec.json.encode({"error": {"message": message, "type": type, "param": param, "code": code}})


def encode_error(error: DeepwellError) -> bytes:
    """Returns the body of a domain error."""
    return error_body(str(error), error.type, error.param, error.code)


def anthropic_error(message: str, status: int, details: Mapping[str, str] | None = None) -> bytes:
    """Returns Anthropic's error object as JSON."""
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    error: dict[str, Any] = {"type": kind, "message": message}
    if details:
        error["details"] = details
    return msgspec.json.encode({"type": "error", "error": error})


def ollama_error(message: str) -> bytes:
    """Returns ollama's error object as JSON."""
    return msgspec.json.encode({"error": message})


class ErrorResponse(Response):
    """An error in the shape of the API that the path belongs to."""

    def __init__(
        self,
        message: str,
        type: str,
        param: str | None = None,
        code: str | None = None,
        *,
        status: int,
        headers: Mapping[str, str] | None = None,
        chinese: str = "",
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error_body(message, type, param, code), status, headers, "application/json")
        self._message = message
        self._chinese = chinese
        self._details = details
        self._fields = type, param, code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["error_code"] = self._fields[2]  # for a caller in this process
        routes = _routes(scope)
        is_chinese = self._chinese not in ("", self._message) and _language_of(scope) == "zh"
        message = self._chinese if is_chinese else self._message
        if routes is not None and routes.is_anthropic(scope["path"]):
            body = anthropic_error(message, self.status_code, self._details)
        elif routes is not None and routes.is_ollama(scope["path"]):
            param = self._fields[1]
            named = param is None or param in message
            body = ollama_error(message if named else f"{param!r}: {message}")
        elif is_chinese:
            body = error_body(message, *self._fields)
        else:
            await super().__call__(scope, receive, send)
            return
        headers = {name: value for name, value in self.headers.items() if name != "content-length"}
        await Response(body, self.status_code, headers)(scope, receive, send)


def error_response(
    error: DeepwellError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns a response with the error's own status, unless another is given. A 429 or 503 has a `retry-after` header."""
    status = status or error.status
    if status in (429, 503):
        headers = {"retry-after": str(error.retry_after or 1), **(headers or {})}
    return ErrorResponse(
        str(error),
        error.type,
        error.param,
        error.code,
        status=status,
        headers=headers,
        chinese=error.in_chinese(),
    )


def install(app: FastAPI) -> None:
    """Makes `app` answer every error with an `ErrorResponse`."""
    app.add_exception_handler(DeepwellError, _domain)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientLeft, _nobody)
    app.add_exception_handler(Exception, _unexpected)


async def _domain(request: Request, error: Exception) -> Response:
    assert isinstance(error, DeepwellError)
    return error_response(error)


async def _nobody(request: Request, error: Exception) -> Response:
    return _NoAnswer()


async def _unexpected(request: Request, error: Exception) -> Response:
    return unexpected()


def unexpected() -> Response:
    """Returns the answer to a failure that nobody expected."""
    return ErrorResponse("the server failed: its log has the traceback", "server_error", status=500)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, BodyRefused):
        return error_response(error.error, error.status_code, {"connection": "close"})
    path = request.url.path
    routes = _routes(request.scope)
    if routes is not None and error.status_code in (404, 405):
        reason = routes.why_not(request.method, path)
        if reason is not None:
            return error_response(NotServed(f"{request.method} {path} is not served here", fix=reason))
    if error.status_code == 404:
        return error_response(_no_route(request.method, path, _paths(request.app)), 404)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "") or (error.headers or {}).get("allow", "")
        refused = InvalidRequest.of("method_wrong", method=request.method, path=path, allowed=allowed)
        return error_response(refused, 405, error.headers)
    if error.status_code == 400 and error.__cause__ is not None:
        return error_response(_unreadable(error.__cause__))
    return error_response(InvalidRequest(str(error.detail)), error.status_code, error.headers)


def _no_route(method: str, path: str, known: Sequence[str]) -> InvalidRequest:
    """Returns the error for a path that is not served. It names the path that was meant, if one is near."""
    rest = re.sub(r"^(/v1|/api|/openai)*/*", "/", path).rstrip("/")
    right = next((one for one in known if one == f"/v1{rest}"), "") or nearest(path, known, _NEAR_PATH)
    if right and right != path:
        return InvalidRequest.of("route_near", method=method, path=path, right=right)
    return InvalidRequest.of("route_unknown", method=method, path=path, known=", ".join(known))


def _language_of(scope: Scope) -> Language:
    """Returns the language that the client prefers."""
    headers: Sequence[tuple[bytes, bytes]] = scope.get("headers", ())
    found = next((value for name, value in headers if name == b"accept-language"), b"")
    return preferred_language(found.decode("latin-1"))


def _unreadable(cause: BaseException) -> InvalidRequest:
    if isinstance(cause, RecursionError):
        return InvalidRequest("the body is not JSON that can be read", fix="it is nested too deeply")
    if isinstance(cause, UnicodeDecodeError):
        return InvalidRequest("the body is not JSON that can be read", fix="encode it as UTF-8")
    return InvalidRequest(
        f"the body is not JSON that can be read: {str(cause)[:200]}", fix="send a JSON object"
    )


def _paths(app: FastAPI) -> list[str]:
    return sorted({route.path_format for route in app.routes if isinstance(route, APIRoute)})


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = cast("Sequence[dict[str, Any]]", error.errors())
    routes = _routes(request.scope)
    known = [] if routes is None else routes.parameters_of(request.url.path)
    found: list[InvalidRequest] = []
    for problem in problems[:_MOST_PROBLEMS]:
        one = _explain(problem, known)
        if str(one) not in map(str, found):
            found.append(one)
    param = next((one.param for one in found if one.param), None)
    if len(problems) > _MOST_PROBLEMS:
        found.append(InvalidRequest(f"and {len(problems) - _MOST_PROBLEMS} more"))
    unknown = any(problem["type"] == "extra_forbidden" for problem in problems)
    code = "unknown_parameter" if unknown else None
    details = next((known for one in problems if (known := one.get("ctx", {}).get("details"))), None)
    message = "; ".join(map(str, found))
    has_chinese = any(one.in_chinese() != str(one) for one in found)
    chinese = "；".join(one.in_chinese() for one in found) if has_chinese else message
    return ErrorResponse(
        message, "invalid_request_error", param, code, status=400, chinese=chinese, details=details
    )


def _explain(problem: Mapping[str, Any], known: Sequence[str]) -> InvalidRequest:
    kind = problem["type"]
    loc = tuple(
        part
        for part in problem["loc"][1:]
        if not str(part).startswith(TAG_MARK) and not _UNION_MEMBER.fullmatch(str(part))
    )
    if kind == "json_invalid":
        return InvalidRequest.of("body_not_json", reason=problem["ctx"]["error"], position=loc[0])
    if kind == "missing" and not loc:
        return InvalidRequest.of("body_empty")
    if kind in ("model_attributes_type", "model_type", "dict_type") and not loc:
        return InvalidRequest.of("body_not_object")
    name = _name(loc)
    if kind == "extra_forbidden":
        if len(loc) == 1 and (right := nearest(str(loc[0]), known)):
            return InvalidRequest.of("parameter_near", name=name, right=right, param=name)
        return InvalidRequest.of("parameter_unknown", name=name, param=name)
    if kind == "missing":
        return InvalidRequest.of("parameter_missing", name=name, param=name)
    message = str(problem["msg"]).removeprefix("Input ").removeprefix("String ")
    if kind == "too_long" and "max_length" in problem.get("ctx", {}):
        most = problem["ctx"]["max_length"]
        return InvalidRequest(f"{name!r}: {message}", fix=f"send at most {most}", param=name or None)
    if kind == "crossed":
        return InvalidRequest(message, param=_name((*loc, problem["ctx"]["param"])))
    return InvalidRequest(f"{name!r}: {message}" if name else message, param=name or None)


def _name(loc: Sequence[str | int]) -> str:
    name = ""
    for part in loc:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def _routes(scope: Scope) -> RouteTable | None:
    """Returns the route table of the application that answers, or None outside of one, where no route is reached."""
    app = scope.get("app")
    return None if app is None else getattr(app.state, "routes", None)

"""The OpenAPI document: FastAPI describes the requests, and the structs describe the answers."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

from deepwell.server.http.declaration import RouteTable

__all__ = ["describe"]


class ErrorDetail(msgspec.Struct):
    """An error: the failure, and the step that mends it."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(msgspec.Struct):
    """OpenAI's error body."""

    error: ErrorDetail


class AnthropicDetail(msgspec.Struct):
    """An error: the failure, and the step that mends it."""

    type: str
    message: str
    details: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class AnthropicError(msgspec.Struct, tag_field="type", tag="error"):
    """Anthropic's error body."""

    error: AnthropicDetail


class OllamaError(msgspec.Struct):
    """Ollama's error body."""

    error: str


_JSON, _EVENTS, _TEXT, _HTML = "application/json", "text/event-stream", "text/plain", "text/html"
_BYTES, _LINES, _STREAMED_LINES = "application/octet-stream", "application/x-jsonl", "application/x-ndjson"

_STATUSES = {
    "400": "A parameter is unknown, unsupported or out of range: the message names it and the fix",
    "401": "No key, or one that is not known here",
    "404": "There is no such object, or no such model",
    "413": "The body is longer than the server takes",
    "429": "The server has too much to do",
    "500": "The server failed",
    "507": "The disk is full",
    "503": "Generation failed, or the server is shutting down",
}


def describe(app: FastAPI, routes: RouteTable) -> None:
    """Makes `app.openapi()` describe answers and errors as the families declare them."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate(), routes)
        return app.openapi_schema

    app.openapi = openapi


def _renamed(schemas: Any, components: dict[str, Any], taken: set[str]) -> tuple[Any, dict[str, Any]]:
    """Returns the schemas and components of the answers. A component is renamed if a request has one of the same name."""
    text = msgspec.json.encode([schemas, components]).decode()
    for name in sorted(components.keys() & taken):
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/{name}Answer"')
        text = text.replace(f'"{name}":{{', f'"{name}Answer":{{')
    renamed, found = msgspec.json.decode(text)
    return renamed, found


def _completed(document: dict[str, Any], routes: RouteTable) -> dict[str, Any]:
    declared = {one.answer for one in routes.operations.values() if not isinstance(one.answer, str)}
    ordered = sorted({*declared, Error, AnthropicError, OllamaError}, key=str)
    known: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        known.pop(name, None)
    schemas, components = _renamed(
        *msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}"), set(known)
    )
    of = dict(zip(ordered, schemas, strict=True))
    known.update(components)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            declaration = routes.operations[method, path]
            content: dict[str, Any] = {}
            match declaration.answer:
                case "text":
                    content[_TEXT] = {"schema": {"type": "string"}}
                case "html":
                    content[_HTML] = {"schema": {"type": "string"}}
                case "jsonl":
                    content[_LINES] = {"schema": {"type": "string"}}
                case "bytes":
                    content[_BYTES] = {"schema": {"type": "string", "format": "binary"}}
                case answer:
                    content[_JSON] = {"schema": of[answer]}
            if declaration.streams and routes.is_ollama(path):
                content[_STREAMED_LINES] = {"schema": of[declaration.answer]}
            elif declaration.streams:
                content[_EVENTS] = {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}}
            error: type[msgspec.Struct] = Error
            if routes.is_anthropic(path):
                error = AnthropicError
            elif routes.is_ollama(path):
                error = OllamaError
            failure = {_JSON: {"schema": of[error]}}
            operation["responses"] = {
                "200": {"description": "What was asked for", "content": content},
                **{status: {"description": why, "content": failure} for status, why in _STATUSES.items()},
            }
    return document

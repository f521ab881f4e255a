"""The OpenAPI document: what FastAPI knows of the requests, and what the structs say of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI

from deepwell.server.file_schema import (
    Batch,
    BatchList,
    File,
    FileDeleted,
    FileList,
    Upload,
    UploadPart,
)
from deepwell.server.messages_schema import AnthropicMessage, TokenCount
from deepwell.server.response_bodies import (
    Conversation,
    ConversationDeleted,
    InputTokenCount,
    Item,
    ItemList,
    Response,
    ResponseDeleted,
)
from deepwell.server.responses import (
    ChatCompletion,
    Completion,
    CompletionDeleted,
    EmbeddingList,
    ModelCard,
    ModelList,
    StoredMessage,
)

__all__ = ["describe"]


class ErrorDetail(msgspec.Struct):
    """What went wrong, and what to do about it."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(msgspec.Struct):
    """OpenAI's error body."""

    error: ErrorDetail


class AnthropicDetail(msgspec.Struct):
    """What went wrong, and what to do about it."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, tag_field="type", tag="error"):
    """Anthropic's error body."""

    error: AnthropicDetail


class StoredCompletion(ChatCompletion, tag="chat.completion"):
    """A chat completion, and its labels."""

    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class CompletionList(msgspec.Struct, tag_field="object", tag="list"):
    """A page of stored completions."""

    data: list[StoredCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StoredMessageList(msgspec.Struct, tag_field="object", tag="list"):
    """A page of messages."""

    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class LoadedAdapter(msgspec.Struct):
    """A loaded adapter."""

    name: str
    rank: int
    digest: str
    parent: str


class UnloadedAdapter(msgspec.Struct):
    """An adapter that is gone."""

    name: str
    unloaded: bool


class Health(msgspec.Struct):
    """How the server is."""

    status: str
    model: str | msgspec.UnsetType = msgspec.UNSET


_JSON, _EVENTS, _TEXT = "application/json", "text/event-stream", "text/plain"
_BYTES = "application/octet-stream"

# What every route answers with 200. `None`: plain text, or bytes.
_ANSWERS: Mapping[tuple[str, str], Any] = {
    ("post", "/v1/chat/completions"): ChatCompletion,
    ("get", "/v1/chat/completions"): CompletionList,
    ("get", "/v1/chat/completions/{completion_id}"): StoredCompletion,
    ("post", "/v1/chat/completions/{completion_id}"): StoredCompletion,
    ("delete", "/v1/chat/completions/{completion_id}"): CompletionDeleted,
    ("get", "/v1/chat/completions/{completion_id}/messages"): StoredMessageList,
    ("post", "/v1/completions"): Completion,
    ("post", "/v1/responses"): Response,
    ("post", "/v1/responses/input_tokens"): InputTokenCount,
    ("get", "/v1/responses/{response_id}"): Response,
    ("delete", "/v1/responses/{response_id}"): ResponseDeleted,
    ("post", "/v1/responses/{response_id}/cancel"): Response,
    ("get", "/v1/responses/{response_id}/input_items"): ItemList,
    ("post", "/v1/conversations"): Conversation,
    ("get", "/v1/conversations/{conversation_id}"): Conversation,
    ("post", "/v1/conversations/{conversation_id}"): Conversation,
    ("delete", "/v1/conversations/{conversation_id}"): ConversationDeleted,
    ("post", "/v1/conversations/{conversation_id}/items"): ItemList,
    ("get", "/v1/conversations/{conversation_id}/items"): ItemList,
    ("get", "/v1/conversations/{conversation_id}/items/{item_id}"): Item,
    ("delete", "/v1/conversations/{conversation_id}/items/{item_id}"): Conversation,
    ("post", "/v1/files"): File,
    ("get", "/v1/files"): FileList,
    ("get", "/v1/files/{file_id}"): File,
    ("delete", "/v1/files/{file_id}"): FileDeleted,
    ("get", "/v1/files/{file_id}/content"): None,
    ("post", "/v1/uploads"): Upload,
    ("post", "/v1/uploads/{upload_id}/parts"): UploadPart,
    ("post", "/v1/uploads/{upload_id}/complete"): Upload,
    ("post", "/v1/uploads/{upload_id}/cancel"): Upload,
    ("post", "/v1/batches"): Batch,
    ("get", "/v1/batches"): BatchList,
    ("get", "/v1/batches/{batch_id}"): Batch,
    ("post", "/v1/batches/{batch_id}/cancel"): Batch,
    ("post", "/v1/messages"): AnthropicMessage,
    ("post", "/v1/messages/count_tokens"): TokenCount,
    ("post", "/v1/embeddings"): EmbeddingList,
    ("get", "/v1/models"): ModelList,
    ("get", "/v1/models/{id}"): ModelCard,
    ("post", "/v1/load_lora_adapter"): LoadedAdapter,
    ("post", "/v1/unload_lora_adapter"): UnloadedAdapter,
    ("get", "/healthz"): Health,
    ("get", "/readyz"): Health,
    ("get", "/metrics"): None,
}
_STREAMING = {
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
    ("post", "/v1/responses"),
    ("get", "/v1/responses/{response_id}"),
    ("post", "/v1/messages"),
}
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


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` tell of answers and errors as they are."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate())
        return app.openapi_schema

    app.openapi = openapi


def _renamed(schemas: Any, components: dict[str, Any], taken: set[str]) -> tuple[Any, dict[str, Any]]:
    """The schemas of the answers, renamed where a request has one of the same name."""
    text = msgspec.json.encode([schemas, components]).decode()
    for name in sorted(components.keys() & taken):
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/{name}Answer"')
        text = text.replace(f'"{name}":{{', f'"{name}Answer":{{')
    renamed, found = msgspec.json.decode(text)
    return renamed, found


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    answers = [answer for answer in {*_ANSWERS.values(), Error, AnthropicError} if answer is not None]
    ordered = sorted(answers, key=str)
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
            answer = _ANSWERS[method, path]
            content: dict[str, Any] = {_TEXT: {"schema": {"type": "string"}}}
            if path.endswith("/content"):
                content = {_BYTES: {"schema": {"type": "string", "format": "binary"}}}
            elif answer is not None:
                content = {_JSON: {"schema": of[answer]}}
            if (method, path) in _STREAMING:
                content[_EVENTS] = {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}}
            error = AnthropicError if path.startswith("/v1/messages") else Error
            failure = {_JSON: {"schema": of[error]}}
            operation["responses"] = {
                "200": {"description": "What was asked for", "content": content},
                **{status: {"description": why, "content": failure} for status, why in _STATUSES.items()},
            }
    return document

"""Chat completions whose request set `store`: list, fetch, relabel, delete, and list the messages that each answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.chat.bodies import ChatCompletion, CompletionDeleted, StoredMessage
from deepwell.server.families.chat.schema import ChatRequest
from deepwell.server.fitting import CHAT_ORIGIN
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.server.http.schema import MetadataRequest
from deepwell.storage.completions import StoredCompletion
from deepwell.storage.database import Tenant

__all__ = ["keep_completion", "stored_router"]

_encode = msgspec.json.Encoder().encode
_MOST_LABELS = 16


class _PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "asc"


class _CompletionsQuery(_PageQuery):
    model_config = ConfigDict(extra="allow")  # metadata[KEY]=VALUE

    model: str | None = None


def stored_router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    @routes.get("/v1/chat/completions", summary="List stored completions", response_model=None)
    async def completions(request: Request, query: Annotated[_CompletionsQuery, Query()]) -> Response:
        page = await context.state.completions.list(
            tenant_of(request),
            after=query.after,
            limit=query.limit,
            order=query.order,
            model=query.model,
            metadata=_labels(query.model_extra or {}),
        )
        return _list([_body(one) for one in page.data], has_more=page.has_more)

    @routes.get(
        "/v1/chat/completions/{completion_id}", summary="Fetch a stored completion", response_model=None
    )
    async def retrieve(request: Request, completion_id: str) -> Response:
        return json_response(_body(await context.state.completions.get(tenant_of(request), completion_id)))

    @routes.post(
        "/v1/chat/completions/{completion_id}",
        summary="Replace a stored completion's metadata",
        response_model=None,
    )
    async def update(request: Request, completion_id: str, body: MetadataRequest) -> Response:
        store = context.state.completions
        return json_response(
            _body(await store.update(tenant_of(request), completion_id, body.metadata or {}))
        )

    @routes.delete(
        "/v1/chat/completions/{completion_id}", summary="Delete a stored completion", response_model=None
    )
    async def delete(request: Request, completion_id: str) -> Response:
        await context.state.completions.delete(tenant_of(request), completion_id)
        await context.conversation_ended(tenant_of(request), CHAT_ORIGIN)
        return json_response(CompletionDeleted(completion_id))

    @routes.get(
        "/v1/chat/completions/{completion_id}/messages",
        summary="List what a stored completion answered",
        response_model=None,
    )
    async def messages(
        request: Request, completion_id: str, query: Annotated[_PageQuery, Query()]
    ) -> Response:
        stored = await context.state.completions.get(tenant_of(request), completion_id)
        rows = [_message(row) for row in msgspec.json.decode(stored.messages, type=list[dict[str, Any]])]
        if query.order == "desc":
            rows = rows[::-1]
        if query.after is not None:
            ids = [row["id"] for row in rows]
            if query.after not in ids:
                raise InvalidRequest(
                    f"'after' names {query.after!r}, which is not in this list",
                    fix="use the last id of the page before",
                    param="after",
                )
            rows = rows[ids.index(query.after) + 1 :]
        return _list(rows[: query.limit], has_more=len(rows) > query.limit)

    return routes


async def keep_completion(
    context: ServerContext, tenant: Tenant, request: ChatRequest, completion: ChatCompletion
) -> None:
    """Stores an answer with the conversation that it ends."""
    messages = [
        StoredMessage(
            id=f"{completion.id}-{number}",
            role=message.role,
            content=message.text,
            tool_calls=[call.model_dump() for call in message.tool_calls or ()] or msgspec.UNSET,
            tool_call_id=msgspec.UNSET if message.tool_call_id is None else message.tool_call_id,
        )
        for number, message in enumerate(request.messages)
    ]
    stored = StoredCompletion(
        id=completion.id,
        created_at=completion.created,
        model=completion.model,
        messages=_encode(messages).decode(),
        body=_encode(completion).decode(),
        metadata=request.metadata or {},
        end_user=request.safety_identifier or request.user,
    )
    await context.state.completions.create(tenant, stored)


def _labels(extra: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name, value in extra.items():
        if not (name.startswith("metadata[") and name.endswith("]")):
            raise InvalidRequest(f"unknown parameter {name!r}", fix="leave it out", param=name)
        labels[name[len("metadata[") : -1]] = str(value)
    if len(labels) > _MOST_LABELS:
        raise InvalidRequest(
            f"{len(labels)} pieces of metadata are asked for",
            fix=f"ask for at most {_MOST_LABELS}",
            param="metadata",
        )
    return labels


def _body(stored: StoredCompletion) -> dict[str, Any]:
    return msgspec.json.decode(stored.body, type=dict[str, Any]) | {"metadata": dict(stored.metadata)}


def _message(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a stored message without nulls but that of its content: older servers stored those too."""
    return {key: value for key, value in row.items() if value is not None or key == "content"}


def _list(rows: list[dict[str, Any]], *, has_more: bool) -> Response:
    first, last = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    return json_response(
        {"object": "list", "data": rows, "first_id": first, "last_id": last, "has_more": has_more}
    )

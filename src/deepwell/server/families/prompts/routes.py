"""`/v1/prompts`: stored prompts and their versions. OpenAI offers them on its web site alone."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.dialogue.prompts.content import PromptContent, PromptExample, decode_content, encode_content
from deepwell.dialogue.prompts.text import PromptMessage, PromptText
from deepwell.errors import NotFound
from deepwell.safety.audit.trail import now_ms
from deepwell.server.access.principal import Principal, principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.pages import PageQuery, ends_of
from deepwell.server.families.prompts.bodies import Prompt, PromptDeleted, PromptList
from deepwell.server.families.prompts.schema import (
    CurrentRequest,
    PromptRequest,
    VersionPageQuery,
    VersionRequest,
)
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.storage.registry.prompts import StoredPrompt
from deepwell.storage.safety.chain import AuditRecord

__all__ = ["PROMPT", "PROMPTS", "VERSION", "VERSIONS", "router"]

PROMPTS = "/v1/prompts"
PROMPT = f"{PROMPTS}/{{prompt_id}}"
VERSIONS = f"{PROMPT}/versions"
VERSION = f"{VERSIONS}/{{version}}"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(PROMPTS, summary="Store a prompt", response_model=None)
    async def create(request: Request, body: PromptRequest) -> Response:
        content = _content(body)
        id = body.id or f"pmpt_{uuid.uuid4().hex}"
        made = await context.state.prompts.create(
            tenant_of(request), id, encode_content(content), number=body.version or 1
        )
        await _audited(context, principal_of(request), "create", made)
        return json_response(_body(made))

    @routes.get(PROMPTS, summary="List prompts", response_model=None)
    async def listed(request: Request, query: Annotated[PageQuery, Query()]) -> Response:
        page = await context.state.prompts.list(
            tenant_of(request), after=query.after, limit=query.limit, order=query.order
        )
        data = [_body(one) for one in page.data]
        return json_response(PromptList(data, *ends_of(data), page.has_more))

    @routes.get(PROMPT, summary="Fetch the current version of a prompt", response_model=None)
    async def retrieve(request: Request, prompt_id: str) -> Response:
        return json_response(_body(await context.state.prompts.get(tenant_of(request), prompt_id)))

    @routes.post(PROMPT, summary="Make a version of a prompt the current one", response_model=None)
    async def choose(request: Request, prompt_id: str, body: CurrentRequest) -> Response:
        chosen = await context.state.prompts.choose(tenant_of(request), prompt_id, int(body.version))
        await _audited(context, principal_of(request), "choose", chosen)
        return json_response(_body(chosen))

    @routes.delete(PROMPT, summary="Delete a prompt and its versions", response_model=None)
    async def delete(request: Request, prompt_id: str) -> Response:
        gone = await context.state.prompts.get(tenant_of(request), prompt_id)
        await context.state.prompts.delete(tenant_of(request), prompt_id)
        await _audited(context, principal_of(request), "delete", gone)
        return json_response(PromptDeleted(prompt_id))

    @routes.post(VERSIONS, summary="Add a version to a prompt", response_model=None)
    async def add(request: Request, prompt_id: str, body: VersionRequest) -> Response:
        content = encode_content(_content(body))
        added = await context.state.prompts.add(
            tenant_of(request), prompt_id, content, number=body.version, current=body.current
        )
        await _audited(context, principal_of(request), "add", added)
        return json_response(_body(added))

    @routes.get(VERSIONS, summary="List the versions of a prompt", response_model=None)
    async def versions(
        request: Request, prompt_id: str, query: Annotated[VersionPageQuery, Query()]
    ) -> Response:
        before = None if query.after is None else int(query.after)
        page = await context.state.prompts.versions(
            tenant_of(request), prompt_id, before=before, limit=query.limit
        )
        data = [_body(one) for one in page.data]
        return json_response(PromptList(data, *ends_of(data), page.has_more))

    @routes.get(VERSION, summary="Fetch a version of a prompt", response_model=None)
    async def version(request: Request, prompt_id: str, version: str) -> Response:
        if not (version.isascii() and version.isdigit() and len(version) < 10):
            raise NotFound(
                f"Prompt with id {prompt_id!r} and version {version!r} not found",
                fix="versions are numbers from 1 on",
            )
        return json_response(
            _body(await context.state.prompts.get(tenant_of(request), prompt_id, int(version)))
        )

    return routes


async def _audited(context: ServerContext, principal: Principal, action: str, prompt: StoredPrompt) -> None:
    """Adds a change of a prompt to the tenant's audit trail: its hash, and neither its text nor its name."""
    fields = {
        "action": action,
        "version": prompt.number,
        "sha256": prompt.sha256,
        "key_id": principal.key_id,
    }
    record = AuditRecord("prompt", now_ms(), fields, named={"prompt": prompt.id})
    await context.audit.record(principal.tenant, record, durable=True)


def _content(body: VersionRequest) -> PromptContent:
    """Returns the content of a request.

    Raises:
        InvalidRequest: its text cannot be filled.
    """
    messages = tuple(PromptMessage(one.role, one.content) for one in body.messages)
    text = PromptText(body.instructions, messages, dict(body.variables))
    text.check()
    example = None
    if body.example is not None:
        example = PromptExample(body.example.input, body.example.answer, dict(body.example.variables))
        text.filled(example.variables)
    return PromptContent(text, body.purpose, body.language, body.industry, body.license, example)


def _body(stored: StoredPrompt) -> Prompt:
    content = decode_content(stored.body)
    return Prompt(
        id=stored.id,
        version=str(stored.number),
        current=stored.is_current,
        created_at=stored.created_at,
        sha256=stored.sha256,
        instructions=content.text.instructions,
        messages=list(content.text.messages),
        variables=dict(content.text.variables),
        purpose=content.purpose,
        language=content.language,
        industry=content.industry,
        license=content.license,
        example=content.example,
        report=content.report,
    )

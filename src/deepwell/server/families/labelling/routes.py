"""`/v1/labelling/projects`: people label the texts of a file."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.labelling.bodies import (
    ClassCount,
    LabellingItem,
    LabellingItems,
    LabellingProject,
    LabellingProjectDeleted,
    LabellingProjectList,
    LabellingUndone,
)
from deepwell.server.families.labelling.chooser import Chooser
from deepwell.server.families.labelling.schema import (
    MAX_BYTES,
    LabellingProjectRequest,
    LabelRequest,
    NextQuery,
    ProjectsQuery,
)
from deepwell.server.families.labelling.source import read_items
from deepwell.server.families.pages import ends_of
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.database import Tenant
from deepwell.storage.tuning.labelling import LabellingStore, StoredItem, StoredProject

__all__ = ["router"]

_PROJECTS = "/v1/labelling/projects"
_PROJECT = "/v1/labelling/projects/{labelling_project_id}"
_encode = msgspec.json.encode


class _Work:
    """The work of the routes, over stores that are opened with the first request."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._chooser: Chooser | None = None

    @property
    def store(self) -> LabellingStore:
        return LabellingStore(self._context.state.database)

    @property
    def chooser(self) -> Chooser:
        if self._chooser is None:
            self._chooser = Chooser(self.store)
            self._context.on_erasure(self._chooser.clear)
        return self._chooser

    async def create(self, tenant: Tenant, body: LabellingProjectRequest) -> StoredProject:
        """Makes a project of a file.

        Raises:
            NotFound: the tenant has no such file.
            InvalidRequest: it is too large, or holds no texts.
        """
        files = self._context.state.files
        file = await files.get(tenant, body.file_id)
        if file.bytes > MAX_BYTES:
            raise InvalidRequest(
                f"the file {file.id!r} has {file.bytes} bytes",
                fix=f"split it into files of at most {MAX_BYTES}",
                param="file_id",
            )
        read = await self._context.readers.call(
            tenant, read_items, await files.path(tenant, file.id), body.classes
        )
        return await self.store.create(
            tenant,
            name=body.name or file.filename,
            file_id=file.id,
            classes=body.classes,
            strategy=body.strategy,
            texts=read.items,
            unreadable=read.unreadable,
        )

    async def described(self, tenant: Tenant, project: StoredProject) -> LabellingProject:
        """Returns a project as the API describes it."""
        progress = await self.store.progress(tenant, project.id)
        return LabellingProject(
            id=project.id,
            name=project.name,
            file_id=project.file_id,
            classes=[ClassCount(name, progress.labels.get(name, 0)) for name in project.classes],
            strategy=project.strategy,
            items=project.items,
            labelled=sum(progress.labels.values()),
            skipped=progress.skipped,
            unreadable=project.unreadable,
            stable=self.chooser.stable(tenant, project.id),
            created_at=project.created_at,
        )

    async def next(self, tenant: Tenant, id: str, limit: int) -> LabellingItems:
        """Returns the texts to ask about next."""
        project = await self.store.get(tenant, id)
        chosen = {one.position: one for one in await self.chooser.next(tenant, project, limit)}
        items = await self.store.items(tenant, id, list(chosen))
        data = [
            LabellingItem(
                one.position,
                one.text,
                chosen[one.position].suggestion,
                chosen[one.position].probability,
            )
            for one in items
        ]
        return LabellingItems(data, await self.described(tenant, project))

    async def lines(self, tenant: Tenant, id: str) -> AsyncGenerator[bytes]:
        """Yields the labelled records as JSON lines."""
        last = -1
        while items := await self.store.labelled(tenant, id, after=last):
            last = items[-1].position
            yield b"".join(_encode(_line(one)) + b"\n" for one in items)


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    work = _Work(context)

    @routes.post(_PROJECTS, summary="Make a labelling project of a file", response_model=None)
    async def create(request: Request, body: LabellingProjectRequest) -> Response:
        tenant = tenant_of(request)
        return json_response(await work.described(tenant, await work.create(tenant, body)))

    @routes.get(_PROJECTS, summary="List labelling projects", response_model=None)
    async def listed(request: Request, query: Annotated[ProjectsQuery, Query()]) -> Response:
        tenant = tenant_of(request)
        page = await work.store.list(tenant, after=query.after, limit=query.limit, order=query.order)
        data = [await work.described(tenant, one) for one in page.data]
        return json_response(LabellingProjectList(data, *ends_of(data), page.has_more))

    @routes.get(_PROJECT, summary="Fetch a labelling project", response_model=None)
    async def retrieve(request: Request, labelling_project_id: str) -> Response:
        tenant = tenant_of(request)
        project = await work.store.get(tenant, labelling_project_id)
        return json_response(await work.described(tenant, project))

    @routes.delete(_PROJECT, summary="Delete a labelling project with its labels", response_model=None)
    async def delete(request: Request, labelling_project_id: str) -> Response:
        tenant = tenant_of(request)
        await work.store.delete(tenant, labelling_project_id)
        work.chooser.forget(tenant, labelling_project_id)
        return json_response(LabellingProjectDeleted(labelling_project_id))

    @routes.get(f"{_PROJECT}/next", summary="Choose the texts to label next", response_model=None)
    async def following(
        request: Request, labelling_project_id: str, query: Annotated[NextQuery, Query()]
    ) -> Response:
        return json_response(await work.next(tenant_of(request), labelling_project_id, query.limit))

    @routes.post(f"{_PROJECT}/labels", summary="Label a text, or skip it", response_model=None)
    async def label(request: Request, labelling_project_id: str, body: LabelRequest) -> Response:
        tenant = tenant_of(request)
        await work.store.say(tenant, labelling_project_id, body.index, body.label)
        project = await work.store.get(tenant, labelling_project_id)
        return json_response(await work.described(tenant, project))

    @routes.post(f"{_PROJECT}/undo", summary="Take back the last label", response_model=None)
    async def undo(request: Request, labelling_project_id: str) -> Response:
        tenant = tenant_of(request)
        item = await work.store.undo(tenant, labelling_project_id)
        project = await work.store.get(tenant, labelling_project_id)
        shown = None if item is None else LabellingItem(item.position, item.text, None, None)
        return json_response(LabellingUndone(shown, await work.described(tenant, project)))

    @routes.get(f"{_PROJECT}/export", summary="Read the labelled records", response_model=None)
    async def export(request: Request, labelling_project_id: str) -> Response:
        tenant = tenant_of(request)
        await work.store.get(tenant, labelling_project_id)
        # A browser must never show it as a page of this host, whatever is in it.
        headers = {"x-content-type-options": "nosniff"}
        return StreamingResponse(
            work.lines(tenant, labelling_project_id), headers=headers, media_type="application/x-jsonl"
        )

    return routes


def _line(item: StoredItem) -> dict[str, Any]:
    record = {"text": item.text} if item.record is None else msgspec.json.decode(item.record)
    return record | {"label": item.label}

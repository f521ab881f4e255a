"""`/v1/images`: images from text, and from images."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from time import perf_counter
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.media.images.decode import MOST_BYTES, Picture
from deepwell.media.images.labels import LABEL
from deepwell.media.images.options import (
    AUTO_SIZE,
    MAX_SEED,
    QUALITY_STEPS,
    ImageRequest,
    opacity_of,
    size_of,
)
from deepwell.media.images.process import ImageRefused, Painter
from deepwell.media.images.protocol import DrawMode
from deepwell.media.images.reader import ImageReader
from deepwell.server.access.principal import principal_in, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.images.drawing import Asker, Drawing
from deepwell.server.families.images.prompts import encoded_prompt, read_prompt
from deepwell.server.families.images.schema import (
    FORM_OF_EDIT,
    FORM_OF_VARIATION,
    DrawingFields,
    ImageEditFields,
    ImageGenerationBody,
    ImageVariationFields,
    SharedFields,
    fields_of,
)
from deepwell.server.http.json_route import JsonRoute
from deepwell.server.http.multipart import Form, read_form
from deepwell.server.http.sse import Answer, EventStream
from deepwell.server.observe.record import Phase, current

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["IMAGE_FIX", "router"]

IMAGE_FIX: Final = "save it smaller: a side of 1024 pixels is as much as an edit uses"
_STRENGTH: Final = 0.7
"""Share of an image that is given up where a request does not say."""


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)
    studio = _Studio(context)

    @routes.post("/v1/images/generations", summary="Draw images from a text", response_model=None)
    async def generations(request: Request, body: ImageGenerationBody) -> Response:
        return await studio.draw(request, body, "image_generation", None)

    @routes.post(
        "/v1/images/edits",
        summary="Paint a part of an image anew, or all of it",
        response_model=None,
        openapi_extra=FORM_OF_EDIT,
    )
    async def edits(request: Request) -> Response:
        return await studio.form(request, ImageEditFields, "image_edit", "mask")

    @routes.post(
        "/v1/images/variations",
        summary="Draw images like an image",
        response_model=None,
        openapi_extra=FORM_OF_VARIATION,
    )
    async def variations(request: Request) -> Response:
        return await studio.form(request, ImageVariationFields, "image_variation")

    return routes


class _Studio:
    """The parts that the three operations share."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._painters = context.media.painters
        self._reader = ImageReader()
        context.on_close(self._reader.close)

    async def form(
        self, request: Request, kind: type[SharedFields], operation: str, *further: str
    ) -> Response:
        """Answers a request that sends images."""
        draft = self._context.state.files.draft
        try:
            form = await read_form(request, "image", draft, MOST_BYTES, IMAGE_FIX, further=further)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        try:
            asked = fields_of(form, kind)
            if (record := current()) is not None:
                record.end_user = asked.safety_identifier or asked.user or ""
                record.key_id = principal_in(request.scope).key_id
            return await self.draw(request, asked, operation, form)
        finally:
            form.discard()

    async def draw(
        self, request: Request, asked: SharedFields, operation: str, form: Form | None
    ) -> Response:
        """Answers a request whose fields are checked."""
        context, drawing = self._context, asked if isinstance(asked, DrawingFields) else None
        size_of(asked.size or AUTO_SIZE)  # is refused before a model is loaded
        painter = await self._painters.find(asked.model)
        if (record := current()) is not None:
            record.model = painter.model.name  # now, because the guard may refuse the prompt
        tenant = tenant_of(request)
        prompt = "" if drawing is None else await read_prompt(context, drawing.prompt, tenant)
        unwanted = (drawing and drawing.negative_prompt) or ""
        negative = await read_prompt(context, unwanted, tenant, "negative_prompt")
        canvas = await painter.start(tenant)
        size = canvas.file_size(asked.size or AUTO_SIZE)
        picture = opacity = None
        if form is not None:
            picture = await self._picture(painter, form, (canvas.size, min(size)), tenant)
            if isinstance(asked, ImageEditFields):
                opacity = await self._opacity(form, picture, canvas.size, min(size), tenant)
            if opacity is not None and asked.strength is not None:
                raise InvalidRequest(
                    "strength is about an image that is drawn anew as a whole, and a part of this one stays",
                    fix="leave out strength, or the mask",
                    param="strength",
                )
        mode: DrawMode = "text" if picture is None else "image" if opacity is None else "mask"
        canvas.check(painter.model.name, mode, negative)
        condition, tokens = (
            await encoded_prompt(context, painter, canvas, prompt, tenant)
            if drawing is not None
            else (None, 0)
        )
        if negative:
            await painter.count(tenant, negative)  # is refused where it is too long
        label = "" if context.guard is None else context.guard.file_label(f"image-{uuid.uuid4().hex}")
        planned = ImageRequest(
            condition,
            secrets.randbelow(MAX_SEED) if asked.seed is None else asked.seed,
            count=asked.count,
            steps=asked.steps or QUALITY_STEPS["auto"] if drawing is None else drawing.step_count,
            guidance=drawing and drawing.guidance,
            picture=picture,
            strength=asked.strength or _STRENGTH,
            opacity=opacity,
            size=size,
            format=(drawing and drawing.output_format) or "png",
            compression=100
            if drawing is None or drawing.output_compression is None
            else drawing.output_compression,
            label=label,
            mark=context.options.images.mark,
            partials=(drawing and drawing.partial_images) or 0,
            prompt=prompt,
            negative=negative,
            drawn=canvas.drawn_size(size, square=picture is not None),
        )
        asker = Asker(operation, tenant, prompt, tokens, (drawing and drawing.quality) or "")
        work = Drawing(context, painter, planned, asker)
        headers = {"x-seed": str(planned.seed), **({f"x-{LABEL.lower()}": label} if label else {})}
        if drawing is None or not drawing.stream:
            return Answer(work.whole(), context.stopped, headers=headers)
        stream = EventStream(work.events(), context.stopped, end=b"")
        stream.headers.update(headers)
        return stream

    async def _picture(self, painter: Painter, form: Form, side: tuple[int, int], tenant: str) -> Picture:
        """Returns the image of a form. `side`: sides of the squares that the model draws and that are asked for.

        Raises:
            InvalidFile, UnsupportedFile: as `ImageReader.read`.
            ImageRefused: the safety model takes the image for unsafe.
        """
        begin = perf_counter()
        await asyncio.to_thread(form.file.close)
        picture = await self._reader.read(tenant, form.file.path, *side)
        try:
            await painter.check(tenant, picture.look)
        except ImageRefused as error:
            self._context.metrics.images.refused.labels(painter.model.name, "sent").inc()
            if (guard := self._context.guard) is not None:
                await guard.refused_image("input", error.score, "", tenant)
            raise
        if (record := current()) is not None:
            attributes = {"image.width": picture.width, "image.height": picture.height}
            record.phases.append(Phase("read_image", begin, perf_counter(), attributes))
        return picture

    async def _opacity(
        self, form: Form, picture: Picture, draw: int, out: int, tenant: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """Returns how much of an image stays, at both sizes; None: it is drawn anew as a whole.

        Raises:
            InvalidRequest: the mask is no image, of another size, or nothing of it is transparent.
        """
        if (sent := form.further.get("mask")) is None:
            return opacity_of(picture, None)
        await asyncio.to_thread(sent.close)
        try:
            mask = await self._reader.read(tenant, sent.path, draw, out)
        except InvalidRequest as error:
            error.param = "mask"
            raise
        return opacity_of(picture, mask)

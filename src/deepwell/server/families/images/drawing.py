"""`Drawing`: one request on its way to images, measured."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Final, cast

import msgspec

from deepwell.media.images.options import ImageRequest
from deepwell.media.images.process import ImageRefused, Painter, Step
from deepwell.server.access.media_use import MediaUse
from deepwell.server.context import ServerContext
from deepwell.server.families.images.bodies import (
    EditCompleted,
    EditPartial,
    GenerationCompleted,
    GenerationPartial,
    ImageBody,
    ImageFormatName,
    ImagesBody,
    ImagesUsage,
    InputDetails,
    Quality,
)
from deepwell.server.http.sse import event
from deepwell.server.observe.generation import error_type
from deepwell.server.observe.record import Phase, current
from deepwell.storage.clock import shared_time
from deepwell.storage.usage import MediaSource

__all__ = ["Asker", "Drawing"]

_encode = msgspec.json.Encoder().encode
_SOURCES: Final[dict[str, MediaSource]] = {
    "image_generation": "image.generation",
    "image_edit": "image.edit",
    "image_variation": "image.variation",
}
_QUALITIES: Final = {"auto": "medium", "standard": "medium", "hd": "high"}


@dataclass(frozen=True, slots=True)
class Asker:
    """A request as its client made it.

    Attributes:
        operation: name of the operation in metrics and traces.
        prompt: as the guard let it pass; empty: there is none.
        tokens: of the prompt.
        quality: empty: the request has none.
    """

    operation: str
    tenant: str
    prompt: str
    tokens: int
    quality: str


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """One request."""

    context: ServerContext
    painter: Painter
    request: ImageRequest
    asker: Asker

    async def whole(self) -> bytes:
        """Returns the body of the answer."""
        created, data = int(shared_time()), list[ImageBody]()
        async with aclosing(self.steps()) as steps:
            async for step in steps:
                if step.last:
                    data.append(ImageBody(_text(step.data), step.seed))
        return _encode(
            ImagesBody(
                created=created,
                data=data,
                size=self._size,
                quality=self._quality,
                output_format=self.request.format,
                usage=self._usage(self.request.count),
                drawn_size=self._drawn_size,
                padded=self._padded,
            )
        )

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yields the events of the stream. The usage of the first finished image is that of the request."""
        edits = self.request.picture is not None
        shown = 0
        async with aclosing(self.steps()) as steps:
            async for step in steps:
                if not step.data:
                    continue
                plain = {
                    "b64_json": _text(step.data),
                    "created_at": int(shared_time()),
                    "size": self._size,
                    "quality": self._quality,
                    "output_format": cast("ImageFormatName", self.request.format),
                    "seed": step.seed,
                    "drawn_size": self._drawn_size,
                    "padded": self._padded,
                }
                if step.last:
                    completed = EditCompleted if edits else GenerationCompleted
                    yield event(_encode(completed(**plain, usage=self._usage(step.image == 0))))
                    shown = 0
                else:
                    partial = EditPartial if edits else GenerationPartial
                    yield event(_encode(partial(**plain, partial_image_index=shown)))
                    shown += 1

    @property
    def _size(self) -> str:
        return f"{self.request.size[0]}x{self.request.size[1]}"

    @property
    def _drawn_size(self) -> str:
        assert self.request.drawn is not None
        return f"{self.request.drawn[0]}x{self.request.drawn[1]}"

    @property
    def _padded(self) -> bool:
        return self.request.size[0] != self.request.size[1] and len({*(self.request.drawn or ())}) == 1

    @property
    def _quality(self) -> Quality:
        return cast("Quality", _QUALITIES.get(self.asker.quality or "auto", self.asker.quality))

    def _usage(self, told: int) -> ImagesUsage:
        tokens = self.asker.tokens if told else 0
        return ImagesUsage(tokens, InputDetails(tokens), tokens)

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Yields the steps of all images, which are charged in advance. Those that are not drawn are given back.

        Raises:
            RateLimited: more images are asked for than are left.
        """
        source = _SOURCES[self.asker.operation]
        async with MediaUse(self.context.usage, self.painter.model.name, source, self._size) as use:
            await use.reserve(self.request.count)
            async with aclosing(self._measured()) as steps:
                async for step in steps:
                    use.images += step.last
                    yield step

    async def _measured(self) -> AsyncGenerator[Step, None]:
        """Yields the steps, and measures the images."""
        metrics, model, record = self.context.metrics, self.painter.model.name, current()
        begin = perf_counter()
        first, count = 0.0, 0
        failure: BaseException | None = None
        metrics.waiting.begin(self, begin)
        try:
            async with aclosing(self.painter.draw(self.asker.tenant, self.request)) as steps:
                async for step in steps:
                    metrics.waiting.end(self)
                    if step.data and not first:
                        first = perf_counter()
                        metrics.images.first_image.labels(model).observe(first - begin)
                    count += step.last
                    yield step
        except BaseException as error:
            failure = error
            if isinstance(error, ImageRefused):
                metrics.images.refused.labels(model, "drawn").inc()
                if (guard := self.context.guard) is not None:
                    await guard.refused_image("output", error.score, self.asker.prompt, self.asker.tenant)
            raise
        finally:
            now = perf_counter()
            metrics.waiting.end(self)
            error = "" if isinstance(failure, GeneratorExit) else error_type(failure)
            began = begin if record is None else record.started
            metrics.generation(self.asker.operation, model).duration(error).observe(now - began)
            metrics.images.busy_seconds.labels(model).inc(now - begin)
            metrics.images.drawn.labels(model).inc(count)
            if record is not None:
                record.error = record.error or error
                attributes = {"image.count": count, "image.steps": self.request.steps}
                record.phases.append(Phase("draw", begin, now, attributes))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

"""Pictures that a conversation asks for: from a prompt through the guard and the model that draws, to a file."""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from deepwell.errors import InvalidRequest
from deepwell.media.images.encode import ImageFormat
from deepwell.media.images.options import MAX_CHARACTERS, MAX_SEED, QUALITY_STEPS, ImageRequest, size_of
from deepwell.server.context import ServerContext
from deepwell.server.families.images.drawing import Asker, Drawing
from deepwell.server.families.images.prompts import encoded_prompt, read_prompt

__all__ = ["OPERATION", "Picture", "PictureWish", "pictures"]

OPERATION = "image_generation"


@dataclass(frozen=True, slots=True)
class PictureWish:
    """The way in which a picture is to be drawn.

    Attributes:
        model: name of the model; None: that of the setting.
        compression: quality of JPEG and WebP, from 0 to 100.
        partials: number of unfinished pictures on the way.
    """

    model: str | None = None
    size: str = "auto"
    quality: str = "auto"
    format: ImageFormat = "png"
    compression: int = 100
    partials: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, finished or not.

    Attributes:
        data: the file in base64.
        prompt: the prompt as the guard let it pass.
        number: number of the unfinished picture, from 0; -1: the picture is finished.
        size: width and height of the file, as `512x512`.
        format: format of the file.
        model: the model that drew.
        tokens: tokens of the prompt.
    """

    data: str
    prompt: str
    number: int
    size: str
    format: ImageFormat
    model: str
    seed: int
    tokens: int

    @property
    def finished(self) -> bool:
        """Tells whether nothing of it is left to draw."""
        return self.number < 0


async def pictures(
    context: ServerContext, tenant: str, prompt: str, wish: PictureWish
) -> AsyncGenerator[Picture, None]:
    """Yields the unfinished pictures that are wished for, then the finished one.

    Raises:
        ModelNotFound: there is no such model, or the text encoder is not in the store.
        MissingDependency: the extra `images` is not installed.
        ImageRefused: the policy or the safety model refuses the prompt or the picture.
        InvalidRequest: the prompt is too long, or the model draws nothing.
        DrawingBusy: too many requests wait.
        EngineUnavailable: the model's process could not run.
    """
    if len(prompt) > MAX_CHARACTERS:
        raise InvalidRequest.of("image_prompt_long", count=len(prompt), most=MAX_CHARACTERS)
    size_of(wish.size)  # is refused before a model is loaded
    painter = await context.media.painters.find(wish.model)
    prompt = await read_prompt(context, prompt, tenant)
    canvas = await painter.start(tenant)
    canvas.check(painter.model.name, "text", "")
    size = canvas.file_size(wish.size)
    condition, tokens = await encoded_prompt(context, painter, canvas, prompt, tenant)
    planned = ImageRequest(
        condition,
        secrets.randbelow(MAX_SEED),
        steps=QUALITY_STEPS[wish.quality],
        size=size,
        format=wish.format,
        compression=wish.compression,
        label="" if context.guard is None else context.guard.file_label(f"image-{uuid.uuid4().hex}"),
        mark=context.options.images.mark,
        partials=wish.partials,
        prompt=prompt,
        drawn=canvas.drawn_size(size, square=False),
    )
    asker = Asker(OPERATION, tenant, prompt, tokens, wish.quality)
    drawing = Drawing(context, painter, planned, asker)
    shown = 0
    async with aclosing(drawing.steps()) as steps:
        async for step in steps:
            if not step.data:
                continue
            data = base64.b64encode(step.data).decode()
            number = -1 if step.last else shown
            shown += 1
            yield Picture(
                data,
                prompt,
                number,
                f"{size[0]}x{size[1]}",
                wish.format,
                painter.model.name,
                step.seed,
                tokens,
            )

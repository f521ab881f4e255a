"""Prompts on their way to a model that draws: read by the guard, then made into a vector."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from deepwell.errors import InvalidRequest
from deepwell.media.images.process import ImageRefused, Painter
from deepwell.media.images.protocol import Canvas
from deepwell.server.context import ServerContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["encoded_prompt", "read_prompt"]


async def read_prompt(context: ServerContext, prompt: str, tenant: str, param: str = "prompt") -> str:
    """Returns a prompt as it may be drawn.

    Raises:
        ImageRefused: the policy blocks it.
    """
    guard = context.guard
    if guard is None or not prompt:
        return prompt
    (treated,), checked = await guard.read_texts([prompt], tenant)
    if checked.blocked:
        raise ImageRefused.of("image_prompt_refused", rule=checked.refused_by, param=param)
    return treated


async def encoded_prompt(
    context: ServerContext, painter: Painter, canvas: Canvas, prompt: str, tenant: str
) -> tuple[NDArray[np.float32] | None, int]:
    """Returns the vector of a prompt, None for a model that reads texts, and the number of its tokens.

    Raises:
        ModelNotFound: the text encoder is not in the store.
        InvalidRequest: its vectors are not those that the model was trained on.
    """
    if not canvas.text_encoder:
        return None, await painter.count(tenant, prompt)
    encoder = await context.knowledge.embedders.named(canvas.text_encoder)
    vector = (await encoder.embed([canvas.prefix + prompt], "plain"))[0]
    if len(vector) != canvas.condition:
        raise InvalidRequest.of(
            "image_model_encoder",
            name=painter.model.name,
            needed=canvas.condition,
            encoder=encoder.name,
            found=len(vector),
            param="model",
        )
    (tokens,) = await asyncio.to_thread(encoder.count, [prompt])
    return vector, tokens

"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64

import msgspec
import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import Response

from deepwell.dialogue.model import PromptTooLong
from deepwell.errors import ContextLengthExceeded, InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.embeddings.bodies import Embedding, EmbeddingList, EmbeddingUsage
from deepwell.server.families.embeddings.schema import EmbeddingRequest
from deepwell.server.families.together import together
from deepwell.server.http.json_route import JsonRoute
from deepwell.server.http.sse import Answer
from deepwell.server.observe.generation import embedding

__all__ = ["MAX_TOKENS", "router"]

MAX_TOKENS = 300_000
"""The most tokens of all inputs of a request together, as at OpenAI."""


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/embeddings", summary="Embed texts", response_model=None)
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        answering, adapter = await context.find(body.model, tenant_of(request))
        model = answering.model
        size = model.capabilities.hidden_size
        if body.dimensions is not None and body.dimensions > size:
            raise InvalidRequest(
                f"the model's vectors have {size} dimensions, {body.dimensions} were asked for",
                fix=f"ask for dimensions from 1 to {size}",
                param="dimensions",
            )
        window = model.capabilities.max_model_len
        try:
            inputs = await model.encode_prompts(body.input, "input")
        except PromptTooLong as error:
            least = "" if error.exact else "at least "
            raise _too_long(window, error.index, f"{least}{error.tokens}") from None
        for index, tokens in enumerate(inputs):
            if len(tokens) > window:
                raise _too_long(window, index, str(len(tokens)))
        total = sum(map(len, inputs))
        if total > MAX_TOKENS:
            raise InvalidRequest(
                f"the inputs have {total} tokens together, and {MAX_TOKENS} are allowed",
                fix="send fewer inputs in a request",
                param="input",
            )
        await answering.gate.embedding(total)
        work = _embed(
            answering,
            body.model,
            adapter,
            inputs,
            body.dimensions,
            as_base64=body.encoding_format == "base64",
        )
        return Answer(work, context.stopped)

    return routes


def _too_long(window: int, index: int, tokens: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"this model's maximum context length is {window} tokens, but input {index} has {tokens}",
        fix="split it",
        param="input",
    )


async def _embed(
    answering: Answering,
    name: str,
    adapter: str,
    inputs: list[list[int]],
    dimensions: int | None,
    *,
    as_base64: bool,
) -> bytes:
    """Embeds all inputs together. The first failure cancels the others."""
    total = sum(map(len, inputs))
    model = answering.model
    with embedding(answering.metrics, model.name, total):
        vectors = await together(model.engine.embed(tokens, adapter=adapter) for tokens in inputs)
    data: list[Embedding] = []
    for index, whole in enumerate(vectors):
        vector = _shortened(whole, dimensions)
        packed = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()
        data.append(Embedding(index, packed))
    return msgspec.json.encode(EmbeddingList(data, name, EmbeddingUsage(total, total)))


def _shortened(vector: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Returns the first dimensions at unit length, as OpenAI shortens its own vectors."""
    if dimensions is None or dimensions == len(vector):
        return vector
    short = vector[:dimensions]
    length = float(np.linalg.norm(short))
    return short / np.float32(length) if length else short

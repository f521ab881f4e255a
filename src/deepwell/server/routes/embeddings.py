"""`POST /v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64

import msgspec
import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import Response

from deepwell.errors import ContextLengthExceeded, InvalidRequest
from deepwell.server.json_route import JsonRoute
from deepwell.server.observe.meter import embedding
from deepwell.server.responses import Embedding, EmbeddingList, EmbeddingUsage
from deepwell.server.schema import EmbeddingRequest
from deepwell.server.service import Service
from deepwell.server.sse import Answer

__all__ = ["router"]


def router(service: Service) -> APIRouter:
    """The route, bound to `service` and the embedder beside it."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/embeddings", summary="Embed texts", response_model=None)
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        model, adapter = service.find(body.model)
        size = model.capabilities.hidden_size
        if body.dimensions is not None and body.dimensions > size:
            raise InvalidRequest(
                f"the model's vectors have {size} dimensions, {body.dimensions} were asked for",
                fix=f"ask for dimensions from 1 to {size}",
                param="dimensions",
            )
        inputs = await model.encode_prompts(body.input, "input")
        window = model.capabilities.max_model_len
        for index, tokens in enumerate(inputs):
            if len(tokens) > window:
                raise ContextLengthExceeded(
                    f"this model's maximum context length is {window} tokens, but input {index} has {len(tokens)}",
                    fix="split it",
                    param="input",
                )
        await model.gate.embedding(sum(map(len, inputs)))
        work = _embed(
            model, body.model, adapter, inputs, body.dimensions, as_base64=body.encoding_format == "base64"
        )
        return Answer(work, service.stopped)

    return routes


async def _embed(
    service: Service,
    name: str,
    adapter: str,
    inputs: list[list[int]],
    dimensions: int | None,
    *,
    as_base64: bool,
) -> bytes:
    """Embed all inputs together; the first that fails takes the others with it."""
    tasks: list[asyncio.Task[NDArray[np.float32]]] = []
    total = sum(map(len, inputs))
    with embedding(service.metrics, service.model, total):
        try:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(_one(service, tokens, adapter)) for tokens in inputs]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
    data: list[Embedding] = []
    for index, task in enumerate(tasks):
        vector = _shortened(task.result(), dimensions)
        packed = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()
        data.append(Embedding(index, packed))
    return msgspec.json.encode(EmbeddingList(data, name, EmbeddingUsage(total, total)))


async def _one(service: Service, tokens: list[int], adapter: str) -> NDArray[np.float32]:
    return await service.engine.embed(tokens, adapter=adapter)


def _shortened(vector: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first dimensions at unit length, as OpenAI shortens its own."""
    if dimensions is None or dimensions == len(vector):
        return vector
    short = vector[:dimensions]
    length = float(np.linalg.norm(short))
    return short / np.float32(length) if length else short

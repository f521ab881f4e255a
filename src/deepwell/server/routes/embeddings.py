"""`POST /v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.errors import ContextLengthExceeded
from deepwell.server.responses import Embedding, EmbeddingList, EmbeddingUsage
from deepwell.server.schema import EmbeddingRequest
from deepwell.server.service import Service
from deepwell.server.sse import Answer

__all__ = ["router"]


def router(service: Service) -> APIRouter:
    """The route, bound to `service`."""
    routes = APIRouter()

    @routes.post("/v1/embeddings", summary="Embed texts", response_model=None)
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        adapter = service.require_model(body.model)
        inputs = await service.encode_prompts(body.input, "input")
        window = service.capabilities.max_model_len
        for index, tokens in enumerate(inputs):
            if len(tokens) > window:
                raise ContextLengthExceeded(
                    f"this model's maximum context length is {window} tokens, but input {index} has {len(tokens)}",
                    fix="split it",
                    param="input",
                )
        return Answer(
            _embed(service, body.model, adapter, inputs, as_base64=body.encoding_format == "base64"),
            service.stopped,
        )

    return routes


async def _embed(
    service: Service, model: str, adapter: str, inputs: list[list[int]], *, as_base64: bool
) -> bytes:
    vectors = await asyncio.gather(*(service.engine.embed(tokens, adapter=adapter) for tokens in inputs))
    data = [
        Embedding(
            index,
            base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist(),
        )
        for index, vector in enumerate(vectors)
    ]
    total = sum(map(len, inputs))
    return msgspec.json.encode(EmbeddingList(data, model, EmbeddingUsage(total, total)))

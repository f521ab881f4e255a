"""`/api/embed` and `/api/embeddings`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.server.access.principal import tenant_of
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.embedding import check_dimensions, embed_inputs, encode_inputs
from deepwell.server.families.ollama.answer import Clock
from deepwell.server.families.ollama.bodies import OllamaEmbeddingAnswer, OllamaEmbeddingsAnswer
from deepwell.server.families.ollama.loading import check_unload
from deepwell.server.families.ollama.names import find
from deepwell.server.families.ollama.schema import OllamaEmbeddingsRequest, OllamaEmbedRequest, OllamaRequest
from deepwell.server.http.json_route import AnyTypeJsonRoute
from deepwell.server.http.sse import Answer

__all__ = ["embeddings_router"]


def embeddings_router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=AnyTypeJsonRoute)

    @routes.post("/api/embed", summary="Embed texts (ollama)", response_model=None)
    async def embed(request: Request, body: OllamaEmbedRequest) -> Response:
        clock = Clock()
        answering, adapter = await _found(context, request, body, body.input)
        check_dimensions(answering.model, body.dimensions)
        clock.found()
        inputs = await _inputs(answering, body.input, "input")

        async def answer() -> bytes:
            vectors = await embed_inputs(answering, adapter, inputs, body.dimensions) if inputs else []
            found = [vector.tolist() for vector in vectors]
            count = sum(map(len, inputs))
            total, _ = clock.rest()
            return msgspec.json.encode(OllamaEmbeddingsAnswer(body.model, found, total, clock.load, count))

        return Answer(answer(), context.stopped)

    @routes.post("/api/embeddings", summary="Embed one text (ollama's older form)", response_model=None)
    async def embeddings(request: Request, body: OllamaEmbeddingsRequest) -> Response:
        texts = [body.prompt] if body.prompt else []
        answering, adapter = await _found(context, request, body, texts)
        inputs = await _inputs(answering, texts, "prompt")

        async def answer() -> bytes:
            vectors = await embed_inputs(answering, adapter, inputs, None) if inputs else []
            return msgspec.json.encode(OllamaEmbeddingAnswer(vectors[0].tolist() if vectors else []))

        return Answer(answer(), context.stopped)

    return routes


async def _found(
    context: ServerContext, request: Request, body: OllamaRequest, texts: Sequence[str]
) -> tuple[Answering, str]:
    answering, adapter = await find(context, body.model, tenant_of(request))
    body.settings.check(answering.model)
    if not texts:
        check_unload(answering.model, body)
    return answering, adapter


async def _inputs(answering: Answering, texts: Sequence[str], param: str) -> list[list[int]]:
    """Returns the tokens of the texts, which are admitted. There may be none."""
    if not texts:
        return []
    inputs = await encode_inputs(answering.model, texts, param)
    await answering.gate.embedding(sum(map(len, inputs)))
    return inputs

"""`/api/embed` and `/api/embeddings`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request
from numpy import float32
from numpy.typing import NDArray
from starlette.responses import Response

from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.embedding import check_dimensions, embed_inputs, encode_inputs
from deepwell.server.families.ollama.answer import Clock
from deepwell.server.families.ollama.bodies import OllamaEmbeddingAnswer, OllamaEmbeddingsAnswer
from deepwell.server.families.ollama.loading import load, unload
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
        if not body.input:
            nothing = OllamaEmbeddingsAnswer(body.model, [], 0, 0, 0)
            return Answer(_without_input(context, request, body, nothing), context.stopped)
        answering, adapter = await _found(context, request, body)
        clock.found()
        check_dimensions(answering.model, body.dimensions)
        inputs = await _inputs(answering, body.input, "input")

        async def answer() -> bytes:
            vectors = await embed_inputs(answering, adapter, inputs, body.dimensions)
            count, (total, _) = sum(map(len, inputs)), clock.rest()
            return msgspec.json.encode(
                OllamaEmbeddingsAnswer(body.model, _lists(vectors), total, clock.load, count)
            )

        return Answer(answer(), context.stopped)

    @routes.post("/api/embeddings", summary="Embed one text (ollama's older form)", response_model=None)
    async def embeddings(request: Request, body: OllamaEmbeddingsRequest) -> Response:
        if not body.prompt:
            nothing = OllamaEmbeddingAnswer([])
            return Answer(_without_input(context, request, body, nothing), context.stopped)
        answering, adapter = await _found(context, request, body)
        inputs = await _inputs(answering, [body.prompt], "prompt")

        async def answer() -> bytes:
            (vector,) = _lists(await embed_inputs(answering, adapter, inputs, None))
            return msgspec.json.encode(OllamaEmbeddingAnswer(vector))

        return Answer(answer(), context.stopped)

    return routes


async def _found(context: ServerContext, request: Request, body: OllamaRequest) -> tuple[Answering, str]:
    answering, adapter = await find(context, body.model, tenant_of(request))
    body.settings.check(answering.model)
    return answering, adapter


async def _inputs(answering: Answering, texts: Sequence[str], param: str) -> list[list[int]]:
    """Returns the tokens of the texts, which are admitted."""
    inputs = await encode_inputs(answering.model, texts, param)
    await answering.gate.embedding(sum(map(len, inputs)))
    return inputs


def _lists(vectors: Sequence[NDArray[float32]]) -> list[list[float]]:
    return [vector.tolist() for vector in vectors]


async def _without_input(
    context: ServerContext, request: Request, body: OllamaRequest, answer: msgspec.Struct
) -> bytes:
    """Loads or unloads the model of a request without input, and returns the answer, which has no vectors."""
    if body.unloads:
        await unload(context, body, principal_of(request))
    else:
        answering, _ = await _found(context, request, body)
        await load(answering)
    return msgspec.json.encode(answer)

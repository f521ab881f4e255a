"""`POST /v1/embeddings`."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.server.access.principal import tenant_of
from deepwell.server.answering import Answering
from deepwell.server.context import SPACE_MODEL, ServerContext
from deepwell.server.embedding import check_dimensions, embed_inputs, encode_inputs
from deepwell.server.families.embeddings.bodies import Embedding, EmbeddingList, EmbeddingUsage, packed
from deepwell.server.families.embeddings.schema import EmbeddingRequest
from deepwell.server.families.embeddings.space import SpaceEmbedding
from deepwell.server.http.json_route import JsonRoute
from deepwell.server.http.sse import Answer

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)
    space = SpaceEmbedding(context)

    @routes.post("/v1/embeddings", summary="Embed texts", response_model=None)
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        if body.model == SPACE_MODEL:
            return Answer(_embed_in_space(space, body, tenant_of(request)), context.stopped)
        answering, adapter = await context.find(body.model, tenant_of(request))
        check_dimensions(answering.model, body.dimensions)
        texts = answering.model.codec.prompted(body.prompts(), body.input_type)
        inputs = await encode_inputs(answering.model, texts, "input")
        await answering.gate.embedding(sum(map(len, inputs)))
        return Answer(_embed(answering, adapter, inputs, body), context.stopped)

    return routes


async def _embed_in_space(space: SpaceEmbedding, body: EmbeddingRequest, tenant: str) -> bytes:
    return msgspec.json.encode(await space.embed(body, tenant))


async def _embed(
    answering: Answering, adapter: str, inputs: list[list[int]], body: EmbeddingRequest
) -> bytes:
    vectors = await embed_inputs(answering, adapter, inputs, body.dimensions)
    data: list[Embedding] = []
    for index, vector in enumerate(vectors):
        data.append(Embedding(index, packed(vector, body.encoding_format)))
    total = sum(map(len, inputs))
    return msgspec.json.encode(EmbeddingList(data, body.model, EmbeddingUsage(total, total)))

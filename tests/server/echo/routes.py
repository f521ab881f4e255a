from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response
from tests.server.echo.bodies import Echo
from tests.server.echo.schema import EchoRequest

from deepwell.dialogue.completion import Choice, Update, engine_request
from deepwell.dialogue.model import SamplingOptions
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.generation_bodies import usage
from deepwell.server.http.json_route import JsonRoute, json_response


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/echo", summary="Echo a text", response_model=None)
    async def echo(request: Request, body: EchoRequest) -> Response:
        answering, adapter = await context.generator(body.model, tenant_of(request))
        model = answering.model
        (prompt,) = await model.encode_prompts([body.text], "text")
        params = model.sampling(SamplingOptions(temperature=0), 40, logprobs=None)
        caller = principal_of(request).caller
        choice = Choice(0, engine_request("echo", prompt, params, 0, caller, adapter))
        updates: list[Update] = [update async for update in answering.complete(None, [choice])]
        text = "".join(update.text for update in updates)
        return json_response(Echo(text, usage([updates[-1].counts], 1)))

    return routes

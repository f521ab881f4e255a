"""`/api/chat` and `/api/generate`, beside the other routes of ollama's API."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.dialogue.completion import Caller
from deepwell.dialogue.dialogue import Dialogue, Plan
from deepwell.dialogue.model import ServedModel
from deepwell.knowledge.context.fitting.ledger import LedgerPart
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.ollama.answer import (
    NDJSON,
    Clock,
    OllamaAnswer,
    OllamaBody,
    Piece,
    chat_body,
    failed,
    generate_body,
)
from deepwell.server.families.ollama.attached import chat_as_text, prompt_as_text
from deepwell.server.families.ollama.embeddings import embeddings_router
from deepwell.server.families.ollama.loading import load, unload
from deepwell.server.families.ollama.models import models_router
from deepwell.server.families.ollama.names import generator
from deepwell.server.families.ollama.schema import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaGenerationRequest,
)
from deepwell.server.families.reasoning import reasoning_of
from deepwell.server.fitting import room_of, wish_of
from deepwell.server.grounding import planned
from deepwell.server.http.json_route import AnyTypeJsonRoute
from deepwell.server.http.sse import Answer, EventStream, attended

__all__ = ["router"]

_NAMES = {"format": "format", "thinks": "think"}


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=AnyTypeJsonRoute)

    @routes.post("/api/chat", summary="Answer a conversation (ollama)", response_model=None)
    async def chat(request: Request, body: OllamaChatRequest) -> Response:
        make = partial(chat_body, body.model)
        if not body.messages:
            return Answer(_without_input(context, request, body, make), context.stopped)
        asked = await _asked(context, request, body, make)
        work = chat_as_text(context, asked.model, body, tenant_of(request))
        told, parts = await attended(work, request.scope, request.receive, context.stopped)
        dialogue = replace(
            asked.dialogue(), messages=told.plain(), tools=tuple(tool.tool() for tool in body.tools or ())
        )
        plan = await asked.plan(context, request, dialogue, parts)
        return asked.answered(context, plan, "messages")

    @routes.post("/api/generate", summary="Answer or continue a text (ollama)", response_model=None)
    async def generate(request: Request, body: OllamaGenerateRequest) -> Response:
        make = partial(generate_body, body.model)
        if not (body.prompt or body.images):
            return Answer(_without_input(context, request, body, make), context.stopped)
        asked = await _asked(context, request, body, make)
        if body.raw:
            plan = await asked.raw_plan(body.prompt or "")
        else:
            work = prompt_as_text(context, asked.model, body, tenant_of(request))
            told, parts = await attended(work, request.scope, request.receive, context.stopped)
            dialogue = replace(asked.dialogue(), messages=told.plain())
            plan = await asked.plan(context, request, dialogue, parts)
        return asked.answered(context, plan, "prompt")

    for more in (models_router, embeddings_router):
        routes.routes += more(context).routes
    return routes


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for text, and what answers it.

    Attributes:
        make: makes an object of the answer of a piece; True: it is the last.
    """

    answering: Answering
    adapter: str
    body: OllamaGenerationRequest
    caller: Caller
    clock: Clock
    make: Callable[[Piece, bool], OllamaBody]

    @property
    def model(self) -> ServedModel:
        return self.answering.model

    def dialogue(self) -> Dialogue:
        """Returns the dialogue without its messages.

        Raises:
            InvalidRequest: the model does not know the effort that `think` names.
        """
        think = self.body.think
        thinks, variables = think if isinstance(think, bool) else None, {}
        if isinstance(think, str):
            thinks, variables = reasoning_of(self.model, think, "think", off="false")
        return Dialogue((), format=self.body.grammar(), thinks=thinks, variables=variables, params=_NAMES)

    async def plan(
        self, context: ServerContext, request: Request, dialogue: Dialogue, parts: tuple[LedgerPart, ...]
    ) -> Plan:
        """Returns the plan of a dialogue, in which `parts` stand in place of images. Raises as `planned`."""
        wish = replace(wish_of(request, self.body.settings.limit), parts=parts)
        work = planned(context, self.answering, self.adapter, principal_of(request), dialogue, wish)
        return await attended(work, request.scope, request.receive, context.stopped)

    async def raw_plan(self, prompt: str) -> Plan:
        """Returns the plan to continue a prompt as it stands.

        Raises:
            InvalidRequest: the prompt or the format cannot be used.
        """
        model, grammar, guard = self.model, self.body.grammar(), self.answering.guard
        checked = None
        if guard is not None:
            (prompt,), checked = await guard.read_texts([prompt], self.caller.tenant)
        (tokens,) = await model.encode_prompts([prompt], "prompt")
        if grammar is not None:
            await model.prepare(grammar, self.caller, "format")
        plan = Plan(tokens, grammar, model.codec.dialect, (), "off", frozenset())
        return plan if guard is None or checked is None else guard.sealed(plan, checked)

    def answered(self, context: ServerContext, plan: Plan, param: str) -> Response:
        """Returns the response that generates the answer. `param` is the route's name for the input.

        Raises:
            ContextLengthExceeded: the prompt, or the tokens that are asked for, do not fit the context.
        """
        body, model, options = self.body, self.model, self.body.settings
        raw = isinstance(body, OllamaGenerateRequest) and body.raw
        room = model.room(len(plan.prompt), options.limit, param) if raw else None
        limit = room or room_of(model, plan, options.limit, param)
        if raw:
            context.fitting.note_whole(len(plan.prompt))
        params = model.sampling(options.sampling(), limit, logprobs=body.alternatives)
        choices = plan.choices(
            f"ollama-{uuid.uuid4().hex}",
            replace(params, grammar=plan.grammar),
            stops=options.stop,
            caller=self.caller,
            adapter=self.adapter,
        )
        answer = OllamaAnswer(
            self.answering, plan, choices, self.clock, self.make, with_logprobs=bool(body.logprobs)
        )
        if body.stream is False:
            return Answer(answer.whole(), context.stopped)
        return EventStream(answer.lines(), context.stopped, end=b"", failed=failed, media_type=NDJSON)


async def _asked(
    context: ServerContext,
    request: Request,
    body: OllamaGenerationRequest,
    make: Callable[[Piece, bool], OllamaBody],
) -> _Asked:
    """Finds the model of a request.

    Raises:
        ModelNotFound: the tenant sees no model of this name.
        InvalidRequest: the model generates no text, or has a shorter context than the options ask for.
    """
    clock = Clock()
    answering, adapter = await generator(context, body.model, tenant_of(request))
    clock.found()
    body.settings.check(answering.model)
    return _Asked(answering, adapter, body, principal_of(request).caller, clock, make)


async def _without_input(
    context: ServerContext,
    request: Request,
    body: OllamaGenerationRequest,
    make: Callable[[Piece, bool], OllamaBody],
) -> bytes:
    """Loads or unloads the model of a request without input, and returns the answer.

    Raises:
        DeepwellError: it cannot be loaded, or may not be unloaded.
    """
    answer = make(Piece(), True)
    if body.unloads:
        await unload(context, body, principal_of(request))
        answer.done_reason = "unload"
    else:
        await load((await _asked(context, request, body, make)).answering)
        answer.done_reason = "load"
    return msgspec.json.encode(answer)

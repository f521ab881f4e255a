"""`POST /v1/chat/completions`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.dialogue.completion import Choice
from deepwell.dialogue.dialogue import Dialogue, ParsedOutput, Plan, Turn
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Reasoning
from deepwell.media.speech.encode import LABEL
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.access.ticket import offer
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.chat.attached import as_text
from deepwell.server.families.chat.bodies import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    FunctionDelta,
    ToolCallDelta,
)
from deepwell.server.families.chat.media_answer import MediaAnswer
from deepwell.server.families.chat.message import message_of
from deepwell.server.families.chat.producing import produced, recalled
from deepwell.server.families.chat.schema import ChatRequest, choose
from deepwell.server.families.chat.stored import keep_completion, stored_router
from deepwell.server.families.generation_bodies import ChatLogprob, Usage, logprobs_of, usage
from deepwell.server.families.reasoning import reasoning_of
from deepwell.server.fitting import CHAT_ORIGIN, room_of, wish_of
from deepwell.server.grounding import planned
from deepwell.server.http.json_route import JsonRoute
from deepwell.server.http.sse import Answer, EventStream, attended, event
from deepwell.server.routing.bodies import RouteBody, route_of
from deepwell.server.routing.naming import named_or_auto
from deepwell.storage.clock import shared_time

__all__ = ["dialogue_of", "message_of", "router"]

_encode = msgspec.json.Encoder().encode


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
    async def chat(request: Request, body: ChatRequest) -> Response:
        auto, answering, adapter = await named_or_auto(context, body.model, tenant_of(request))
        model = answering.model
        caller = principal_of(request).caller
        wish = replace(wish_of(request, body.limit), store=body.store, origin=CHAT_ORIGIN)
        attaching = as_text(context, model, body, tenant_of(request))
        told, parts = await attended(attaching, request.scope, request.receive, context.stopped)
        wish = replace(wish, parts=parts)
        dialogue = recalled(context, tenant_of(request), told, dialogue_of(model, told))
        making = produced(context, tenant_of(request), told, dialogue, auto=auto)
        production = await attended(making, request.scope, request.receive, context.stopped)
        if production is not None:
            dialogue = production.asked(dialogue)
        work = planned(context, answering, adapter, principal_of(request), dialogue, wish)
        plan = await attended(work, request.scope, request.receive, context.stopped)
        limit = room_of(model, plan, body.limit, "messages")
        params = model.sampling(body.sampling(), limit, logprobs=body.alternatives)
        params = replace(params, grammar=plan.grammar)
        id = f"chatcmpl-{uuid.uuid4().hex}"
        choices = plan.choices(
            id,
            params,
            n=body.n or 1,
            stops=tuple(body.stop),
            caller=caller,
            adapter=adapter,
        )
        name = model.name if auto else body.model
        answer: _ChatAnswer | MediaAnswer
        if production is None or production.is_plain:
            answer = _ChatAnswer(answering, id, name, plan, choices, with_logprobs=bool(body.logprobs))
            if production is not None:
                answer.route = route_of(production, name)
        else:
            turns = answering.converse(plan, choices[:1])
            answer = MediaAnswer(production, id, name, model.fingerprint, turns)
        if body.store:
            tenant = tenant_of(request)
            answer.keep = lambda completion: keep_completion(context, tenant, told, completion)
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            stream = EventStream(answer.events(include_usage), context.stopped)
            if production is not None and production.voice is not None and production.voice.label:
                stream.headers[f"x-{LABEL.lower()}"] = production.voice.label  # PCM has no metadata
            return stream
        return Answer(answer.whole(), context.stopped)

    routes.routes += stored_router(context).routes
    return routes


def dialogue_of(model: ServedModel, body: ChatRequest) -> Dialogue:
    """Returns the dialogue that a chat request asks for.

    Raises:
        InvalidRequest: the model does not know the effort.
    """
    tools, choice = choose(body.tools, body.tool_choice)
    thinks, effort = reasoning_of(model, body.reasoning_effort, "reasoning_effort")
    variables: dict[str, Any] = {**(body.chat_template_kwargs or {}), **effort}
    format, parameter = None, "response_format"
    if body.response_format is not None:
        format = body.response_format.grammar()
    elif body.structured_outputs is not None:
        format, parameter = body.structured_outputs.compiled(), "structured_outputs"
    return Dialogue(
        messages=[message.plain() for message in body.messages],
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        format=format,
        thinks=thinks,
        variables=variables,
        params={"format": parameter},
    )


class _ChatAnswer:
    """One response, as events or as a whole. `keep` gets the whole before the last event is sent."""

    keep: Callable[[ChatCompletion], Awaitable[None]] | None = None
    route: RouteBody | msgspec.UnsetType = msgspec.UNSET

    def __init__(
        self,
        answering: Answering,
        id: str,
        model: str,
        plan: Plan,
        choices: Sequence[Choice],
        *,
        with_logprobs: bool,
    ) -> None:
        self._answering = answering
        self._id = id
        self._model = model
        self._plan = plan
        self._choices = choices
        self._with_logprobs = with_logprobs

    async def whole(self) -> bytes:
        said = [ParsedOutput() for _ in self._choices]
        entries: list[list[ChatLogprob]] = [[] for _ in self._choices]
        last: dict[int, Turn] = {}
        async for turn in self._answering.converse(self._plan, self._choices):
            said[turn.index].add(turn.events)
            entries[turn.index].extend(logprobs_of(turn.entries, self._answering.model.codec))
            last[turn.index] = turn
        completion = self._completion(int(shared_time()), said, entries, last)
        body = _encode(completion)
        if self.keep is not None:
            await self.keep(completion)
        # Ids of calls must not be replayed, nor answers whose passages may be gone, nor what a guard has to read again.
        elif self._plan.answers is None and self._plan.checked is None and not any(one.calls for one in said):
            offer(self._id, completion.created, body)
        return body

    def _completion(
        self,
        created: int,
        said: Sequence[ParsedOutput],
        entries: Sequence[list[ChatLogprob]],
        last: Mapping[int, Turn],
    ) -> ChatCompletion:
        count = len(self._choices)
        return ChatCompletion(
            id=self._id,
            created=created,
            model=self._model,
            choices=[
                ChatChoice(
                    index=index,
                    message=message_of(said[index]),
                    finish_reason=last[index].finish_reason or "stop",
                    logprobs=ChatLogprobs(entries[index]) if self._with_logprobs else None,
                )
                for index in range(count)
            ],
            usage=self._usage(last),
            system_fingerprint=self._answering.model.fingerprint,
            route=self.route,
        )

    async def events(self, include_usage: bool) -> AsyncGenerator[bytes, None]:
        model = self._answering.model
        created = int(shared_time())
        # OpenAI: with include_usage every chunk but the last carries "usage": null.
        blank = None if include_usage else msgspec.UNSET

        def chunk(choice: ChatChunkChoice) -> bytes:
            # The first chunk of a choice tells why its model was chosen.
            route = msgspec.UNSET if choice.delta.role is msgspec.UNSET else self.route
            made = ChatChunk(self._id, created, self._model, model.fingerprint, [choice], blank, route=route)
            return event(_encode(made))

        said = [ParsedOutput() for _ in self._choices]
        entries: list[list[ChatLogprob]] = [[] for _ in self._choices]
        last: dict[int, Turn] = {}
        async for turn in self._answering.converse(self._plan, self._choices):
            index = turn.index
            chunks: list[bytes] = []  # of one step, sent in one write
            if index not in last:
                chunks.append(
                    chunk(ChatChunkChoice(index, ChatDelta(content="", role="assistant", refusal=None)))
                )
            last[index] = turn
            logprobs = None
            if self._with_logprobs and turn.entries:
                logprobs = ChatLogprobs(logprobs_of(turn.entries, model.codec))
                entries[index] += logprobs.content
            said[index].add(turn.events)
            for delta in _deltas(turn, said[index]) or ([ChatDelta()] if logprobs else []):
                chunks.append(chunk(ChatChunkChoice(index, delta, logprobs)))
                logprobs = None  # sent with the first delta of their step
            if turn.finish_reason:
                if self.keep is not None and all(
                    one in last and last[one].finish_reason for one in range(len(said))
                ):
                    await self.keep(self._completion(created, said, entries, last))
                chunks.append(chunk(ChatChunkChoice(index, ChatDelta(), None, turn.finish_reason)))
            yield b"".join(chunks)
        if include_usage:
            blank = self._usage(last)
            yield event(_encode(ChatChunk(self._id, created, self._model, model.fingerprint, [], blank)))

    def _usage(self, last: Mapping[int, Turn]) -> Usage:
        turns = [last[choice.index] for choice in self._choices]
        return usage([one.counts for one in turns], len(turns), turns[0].ledger or self._plan.ledger)


def _deltas(turn: Turn, said: ParsedOutput) -> list[ChatDelta]:
    """Returns the deltas of a turn. `said` has taken the turn in, which gave the calls their ids."""
    deltas: list[ChatDelta] = []
    for part in turn.events:
        match part:
            case Content(text):
                deltas.append(ChatDelta(content=text))
            case Reasoning(text):
                deltas.append(ChatDelta(reasoning_content=text))
            case CallStart(index, name):
                first = ToolCallDelta(index, FunctionDelta("", name), said.calls[index].id, "function")
                deltas.append(ChatDelta(tool_calls=[first]))
            case CallArguments(index, text):
                deltas.append(ChatDelta(tool_calls=[ToolCallDelta(index, FunctionDelta(text))]))
    return deltas

"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.engine.protocol import GenerateRequest
from deepwell.server.completion import Choice, Counts, Update
from deepwell.server.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ChatTopLogprob,
    Message,
    usage,
)
from deepwell.server.schema import ChatRequest
from deepwell.server.service import Service
from deepwell.server.sse import Answer, EventStream, event
from deepwell.server.text import Codec, Entry

__all__ = ["router"]

_encode = msgspec.json.Encoder().encode


def router(service: Service) -> APIRouter:
    """The route, bound to `service`."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
    async def chat(request: Request, body: ChatRequest) -> Response:
        adapter = service.require_model(body.model)
        prompt = await service.encode_chat(
            [{"role": _role(message.role), "content": message.content} for message in body.messages]
        )
        limit = service.room(len(prompt), body.limit, "messages")
        params = service.sampling(body, limit, logprobs=body.alternatives)
        id = f"chatcmpl-{uuid.uuid4().hex}"
        salt: str = getattr(request.state, "cache_salt", "")
        choices = [
            Choice(
                index,
                GenerateRequest(f"{id}-{index}", prompt, params, index, salt, adapter),
                tuple(body.stop),
            )
            for index in range(body.n or 1)
        ]
        answer = _ChatAnswer(service, id, body.model, choices, with_logprobs=bool(body.logprobs))
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            return EventStream(answer.events(include_usage), service.stopped)
        return Answer(answer.whole(), service.stopped)

    return routes


def _role(role: str) -> str:
    return "system" if role == "developer" else role  # OpenAI's newer name, which templates do not know


class _ChatAnswer:
    """One response, as events or as a whole."""

    def __init__(
        self, service: Service, id: str, model: str, choices: Sequence[Choice], *, with_logprobs: bool
    ) -> None:
        self._service = service
        self._id = id
        self._model = model
        self._choices = choices
        self._with_logprobs = with_logprobs

    async def whole(self) -> bytes:
        texts: list[list[str]] = [[] for _ in self._choices]
        entries: list[list[ChatLogprob]] = [[] for _ in self._choices]
        last: dict[int, Update] = {}
        async for update in self._service.updates(self._choices):
            texts[update.index].append(update.text)
            entries[update.index].extend(_logprobs(update.entries, self._service.codec))
            last[update.index] = update
        service = self._service
        return _encode(
            ChatCompletion(
                id=self._id,
                created=int(time.time()),
                model=self._model,
                choices=[
                    ChatChoice(
                        index=index,
                        message=Message("".join(texts[index])),
                        finish_reason=last[index].finish_reason or "stop",
                        logprobs=ChatLogprobs(entries[index]) if self._with_logprobs else None,
                    )
                    for index in range(len(self._choices))
                ],
                usage=usage([last[index].counts for index in range(len(self._choices))], len(self._choices)),
                system_fingerprint=service.fingerprint,
            )
        )

    async def events(self, include_usage: bool) -> AsyncGenerator[bytes, None]:
        service = self._service
        created = int(time.time())
        # OpenAI: with include_usage every chunk but the last carries "usage": null.
        blank = None if include_usage else msgspec.UNSET

        def chunk(choice: ChatChunkChoice) -> bytes:
            return event(
                _encode(ChatChunk(self._id, created, self._model, service.fingerprint, [choice], blank))
            )

        greeted: set[int] = set()
        counts: dict[int, Counts] = {}
        async for update in service.updates(self._choices):
            index = update.index
            counts[index] = update.counts
            if index not in greeted:
                greeted.add(index)
                yield chunk(ChatChunkChoice(index, ChatDelta(content="", role="assistant", refusal=None)))
            if update.text or update.entries:
                logprobs = None
                if self._with_logprobs:
                    logprobs = ChatLogprobs(_logprobs(update.entries, service.codec))
                yield chunk(ChatChunkChoice(index, ChatDelta(content=update.text), logprobs))
            if update.finish_reason:
                yield chunk(ChatChunkChoice(index, ChatDelta(), None, update.finish_reason))
        if include_usage:
            ordered = [counts[choice.index] for choice in self._choices]
            total = usage(ordered, len(ordered))
            yield event(_encode(ChatChunk(self._id, created, self._model, service.fingerprint, [], total)))


def _logprobs(entries: Sequence[Entry], codec: Codec) -> list[ChatLogprob]:
    rows: list[ChatLogprob] = []
    for entry in entries:
        data = codec.token_bytes(entry.info.token)
        top: list[ChatTopLogprob] = []
        for token, logprob in entry.info.top:
            other = codec.token_bytes(token)
            top.append(ChatTopLogprob(other.decode("utf-8", "replace"), logprob, list(other)))
        rows.append(ChatLogprob(data.decode("utf-8", "replace"), entry.info.logprob, list(data), top))
    return rows

"""`ServedGrading`: the models of this server, as graders ask them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.http.in_process import Reply
from deepwell.tuning.evaluate.graders import ModelAnswer

__all__ = ["ServedGrading", "error_of", "post"]

_MOST_TOKENS: Final = 256  # of a grade: an object with one number or label
_WAITING: Final = ("engine_unavailable", "rate_limit_exceeded", "shutting_down", "storage_unavailable")
_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)

_encode = msgspec.json.encode


class ServedGrading:
    """Grades and embeds through the server's own routes, on behalf of a principal, whose limits count.

    Raises:
        DeepwellError: a request was refused.
    """

    def __init__(self, context: ServerContext, principal: Principal) -> None:
        self._context = context
        self._principal = principal

    async def answer(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        schema: Mapping[str, Any],
        sampling: Mapping[str, Any],
    ) -> ModelAnswer:
        """Answers a conversation with JSON of a schema."""
        chosen = dict(sampling)
        body = {
            "model": model,
            "messages": list(messages),
            "max_completion_tokens": chosen.pop("max_completions_tokens", _MOST_TOKENS),
            "temperature": 0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "grade", "schema": dict(schema), "strict": True},
            },
            **chosen,
        }
        reply = await post(self._context, self._principal, "/v1/chat/completions", body)
        if reply.status != 200:
            raise error_of(reply)
        found: dict[str, Any] = msgspec.json.decode(reply.body)
        message = found["choices"][0]["message"]
        tokens = found.get("usage", {}).get("total_tokens", 0)
        return ModelAnswer(message.get("content") or "", tokens, refused=bool(message.get("refusal")))

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Returns a vector for each text, by the first model that was served to embed, or by the main one."""
        names = [one.model.name for one in self._context.served if not one.model.answers]
        names += [one.model.name for one in self._context.served if one.model.answers]
        if not names:
            raise InvalidRequest(
                "no served model embeds", fix="start the server with --embedding-model minilm"
            )
        body = {"model": names[0], "input": list(texts)}
        reply = await post(self._context, self._principal, "/v1/embeddings", body)
        if reply.status != 200:
            raise error_of(reply)
        return [one["embedding"] for one in msgspec.json.decode(reply.body)["data"]]


async def post(context: ServerContext, principal: Principal, path: str, body: Mapping[str, Any]) -> Reply:
    """Posts to one of the server's own routes, again and again while it waits for room, an engine or the database."""
    assert context.own_routes is not None
    data = _encode(body)
    pauses_s = list(_PAUSES_S)
    while True:
        # In a task of its own: the call replaces the request that it is made for in its context
        reply = await asyncio.create_task(context.own_routes.post(path, data, principal))
        if reply.code not in _WAITING or not pauses_s:
            return reply
        await asyncio.sleep(pauses_s.pop(0))


def error_of(reply: Reply) -> DeepwellError:
    """Returns the error that a reply holds."""
    try:
        error: dict[str, Any] = msgspec.json.decode(reply.body)["error"]
        return InvalidRequest(str(error["message"]))
    except (msgspec.DecodeError, KeyError, TypeError):
        return InvalidRequest(f"the request was answered with status {reply.status}")

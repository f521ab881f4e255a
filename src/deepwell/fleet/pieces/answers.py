"""`AnswerLines`: answers lines of a batch through the routes of a server that runs in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from deepwell.errors import DeepwellError
from deepwell.fleet.pieces.piece import Facts
from deepwell.server.context import ServerContext
from deepwell.server.http.in_process import InProcessClient, Reply
from deepwell.settings import Settings

__all__ = ["ENDPOINTS", "AnswerLines", "BatchLine", "LineAnswer", "join_lines", "read_answers"]

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""The endpoints whose answers depend on their line alone."""

_NOT_STORED = "store: there is no server here that keeps answers: leave store out"
_PAUSES_S = (1, 2)  # before a line is tried again whose failure is not its own fault
_PREFIXES: Final = {ENDPOINTS[0]: "chatcmpl", ENDPOINTS[1]: "cmpl"}
_encode = msgspec.json.Encoder().encode


class BatchLine(Struct):
    """A line of an input: its number from 1, its id, and the body of its request."""

    number: int
    custom_id: str
    body: Raw


class LineAnswer(Struct):
    """The answer to a line, as it stands in the output file, and whether it is a failure."""

    line: Raw
    failed: bool
    tokens: int


class _Response(Struct):
    status_code: int
    request_id: str
    body: Any


class _Answered(Struct):
    id: str
    custom_id: str
    response: _Response
    error: None = None


_lines = msgspec.json.Decoder(list[BatchLine])
_answers = msgspec.json.Decoder(list[LineAnswer])


def join_lines(lines: Sequence[BatchLine]) -> bytes:
    """Returns the payload of a piece of lines."""
    return _encode(list(lines))


def read_answers(result: bytes) -> list[LineAnswer]:
    """Returns the answers in the result of a piece."""
    return _answers.decode(result)


@dataclass(frozen=True, slots=True)
class AnswerLines:
    """Answers lines of one endpoint with one model.

    An answer depends on its line alone, so that a file is the same wherever its lines were answered. Ids are made from the
    line, `created` is `created` here, a request that draws and names no seed gets one that its line gives, and usage says
    nothing of the prefix cache.

    Attributes:
        model: a name in the store, or an absolute path.
        created: the time that answers carry, in seconds since 1970.
        kv_tokens: size of the KV cache; None: that of the settings.
        guard: policy of the guard that reads prompts and answers; None: nothing does.
        threads: threads of the engine; they have no influence on answers.
    """

    model: str
    endpoint: str
    created: int
    precision: str | None = None
    context: int | None = None
    kv_tokens: int | None = None
    guard: str | None = None
    models_dir: str | None = None
    threads: int | None = None

    def spec(self) -> dict[str, str | int | float | bool | None]:
        """Returns every value that answers depend on."""
        return {
            "kind": "answers",
            "model": self.model,
            "endpoint": self.endpoint,
            "created": self.created,
            "context": self.context,
            "guard": self.guard,
        }

    def open(self) -> _Answerer:
        """Loads the model.

        Raises:
            DeepwellError: it is not here, or does not fit.
        """
        options: dict[str, Any] = {
            "precision": self.precision,
            "context": self.context,
            "kv_tokens": self.kv_tokens,
            "guard": self.guard,
            "models_dir": self.models_dir,
            "threads": self.threads,
        }
        given = {name: value for name, value in options.items() if value is not None}
        settings = Settings.load(
            model=self.model, response_cache_mb=0, semantic_cache="off", additional_models=[], **given
        )
        return _Answerer(self, settings)


class _Answerer:
    """The model of a recipe, behind the routes of a server."""

    def __init__(self, recipe: AnswerLines, settings: Settings) -> None:
        from deepwell.dialogue.model import ServedModel
        from deepwell.dialogue.opening import open_model, plan_model
        from deepwell.version import deepwell_version

        self._recipe = recipe
        planned = plan_model(settings)
        self._opened = open_model(planned)
        capabilities = self._opened.engine.capabilities()
        self.facts = Facts(
            deepwell_version(),
            capabilities.weights_hash,
            capabilities.precision,
            capabilities.isa,
            planned.memory.total_bytes,
        )
        self._at_once = max(planned.memory.batch_size, 1)
        self._runner = asyncio.Runner()
        model = ServedModel(
            self._opened.name, self._opened.engine, self._opened.codec, defaults=self._opened.defaults
        )
        self._context, self._client = self._runner.run(_serving(settings, model))

    def run(self, payload: bytes) -> bytes:
        """Answers the lines of a piece, many at once."""
        return _encode(self._runner.run(self._all(_lines.decode(payload))))

    def close(self) -> None:
        """Frees the model."""
        self._runner.run(self._context.close_state())
        self._runner.close()
        self._opened.close()

    async def _all(self, lines: Sequence[BatchLine]) -> list[LineAnswer]:
        slots = asyncio.Semaphore(self._at_once)

        async def one(line: BatchLine) -> LineAnswer:
            async with slots:
                return await self._answer(line)

        tasks = [asyncio.ensure_future(one(line)) for line in lines]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, line: BatchLine) -> LineAnswer:
        from deepwell.server.access.principal import ANYONE

        digest = blake2b(f"{line.number}\n{line.custom_id}\n".encode() + bytes(line.body), digest_size=16)
        name = digest.hexdigest()
        body = self._prepared(bytes(line.body), int(name[:12], 16))
        if body is None:
            error = {"message": _NOT_STORED, "type": "invalid_request_error", "param": "store", "code": None}
            return self._answered(line, name, Reply("", 400, body=_encode({"error": error})))
        reply = await self._client.post(self._recipe.endpoint, body, ANYONE)
        for pause_s in _PAUSES_S:
            if reply.status < 500 and reply.status != 429:
                return self._answered(line, name, reply)
            await asyncio.sleep(pause_s)
            reply = await self._client.post(self._recipe.endpoint, body, ANYONE)
        if reply.status < 500 and reply.status != 429:
            return self._answered(line, name, reply)
        said = reply.body.decode(errors="replace")[:300]
        raise DeepwellError.of("batch_line_failed", line=line.number, status=reply.status, said=said)

    def _prepared(self, body: bytes, seed: int) -> bytes | None:
        """Returns the body with a seed, if it may draw and names none; None: it wants to be stored."""
        if self._recipe.endpoint not in _PREFIXES:
            return body
        fields = msgspec.json.decode(body, type=dict[str, Raw])
        if "store" in fields and bytes(fields["store"]) == b"true":
            return None
        if "seed" in fields and bytes(fields["seed"]) != b"null":
            return body
        return _encode(fields | {"seed": Raw(str(seed).encode())})

    def _answered(self, line: BatchLine, name: str, reply: Reply) -> LineAnswer:
        body: Any = msgspec.json.decode(reply.body)
        failed = not 200 <= reply.status < 300
        tokens = 0
        if not failed:
            self._settle(body, name)
            tokens = (body.get("usage") or {}).get("total_tokens", 0)
        answered = _Answered(
            f"batch_req_{name}", line.custom_id, _Response(reply.status, f"req_{name}", body)
        )
        return LineAnswer(Raw(_encode(answered)), failed, tokens)

    def _settle(self, body: dict[str, Any], name: str) -> None:
        """Replaces what differs from run to run by what the line gives."""
        if prefix := _PREFIXES.get(self._recipe.endpoint):
            body["id"] = f"{prefix}-{name}"
            body["created"] = self._recipe.created
            (body.get("usage") or {}).pop("prompt_tokens_details", None)
        for number, call in enumerate(_calls(body)):
            call["id"] = f"call_{name[:20]}{number:04x}"


def _calls(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for choice in body.get("choices", ()):
        yield from (choice.get("message") or {}).get("tool_calls") or ()


async def _serving(settings: Settings, model: Any) -> tuple[ServerContext, InProcessClient]:
    """Builds the routes of a server, on the event loop that they belong to."""
    from deepwell.server.app import create_app
    from deepwell.server.build import build_context
    from deepwell.server.options import CacheOptions, LimitsConfig, ServerOptions

    # The limits and caches of a server that may run beside are its own.
    options = replace(ServerOptions.of(settings), limits=LimitsConfig(), caches=CacheOptions())
    context = build_context([model], options)
    create_app(context)
    assert context.own_routes is not None
    return context, context.own_routes

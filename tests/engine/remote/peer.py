"""A server with vLLM's routes around the fake engine, in a thread: what `RemoteEngine` talks to where there is no vLLM."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.engine.fakes import EOS, HIDDEN, VOCAB, fake_engine
from tests.server.fakes import write_tokenizer

from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.protocol import Delta, GenerateRequest, SamplingParams, TokenLogprob
from deepwell.errors import DeepwellError

__all__ = ["CONTEXT", "KEY", "Peer", "model_folder", "running", "running_peer"]

CONTEXT = 256
KEY = "a-key-of-the-engine"
_PARAMS = (
    *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "min_tokens", "seed", "logprobs", "prompt_logprobs"),
)


def model_folder(folder: Path, *, vocab: int = VOCAB, eos: int = EOS) -> Path:
    """The text side of a model whose weights are elsewhere."""
    write_tokenizer(folder)
    config = {"architectures": ["SomethingForCausalLM"], "vocab_size": vocab, "hidden_size": HIDDEN}
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": eos}))
    return folder


class Peer:
    """The routes of vLLM that an engine uses, strict about what it was sent.

    Attributes:
        seen: bodies of the generations.
        key: what a request must carry; empty: nothing.
        owned_by: who made the models, as the list says.
    """

    def __init__(self, engine: InProcessEngine) -> None:
        self.engine = engine
        self.seen: list[dict[str, Any]] = []
        self.key = ""
        self.owned_by = "vllm"
        self.adapters: dict[str, str] = {}
        self.url = ""
        self.app = Starlette(
            routes=[
                Route("/version", lambda _: JSONResponse({"version": "0.32.0"})),
                Route("/v1/models", self.models),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
            ]
        )

    async def models(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        base = {"id": "fake", "owned_by": self.owned_by, "parent": None, "max_model_len": CONTEXT}
        more = [{"id": name, "parent": "fake", "root": path} for name, path in self.adapters.items()]
        return JSONResponse({"object": "list", "data": [base, *more]})

    async def load(self, request: Request) -> Response:
        body = await request.json()
        if body["lora_path"].startswith("/nowhere"):
            return JSONResponse({"error": {"message": "No adapter found", "code": 404}}, 404)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return Response("Success: LoRA adapter added")

    async def unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        return Response(status_code=200 if self.adapters.pop(name, None) is not None else 404)

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        if body["model"] != "fake" and body["model"] not in self.adapters:
            message = f"The model `{body['model']}` does not exist."
            return JSONResponse({"error": {"message": message, "code": 404}}, 404)
        if body.get("stream") and body.get("prompt_logprobs") is not None:
            message = "`prompt_logprobs` are not available when `stream=True`."
            return JSONResponse({"error": {"message": message, "code": 400}}, 400)
        if "structured_outputs" in body:
            return JSONResponse({"error": {"message": "no grammars here", "code": 400}}, 400)
        params = SamplingParams(
            max_tokens=body["max_tokens"],
            stop_token_ids=tuple(body["stop_token_ids"]),
            ignore_eos=True,  # the ends of the model are among the tokens to stop at
            logit_bias={int(token): bias for token, bias in body.get("logit_bias", {}).items()},
            **{name: body[name] for name in _PARAMS if body.get(name) is not None},
        )
        asked = GenerateRequest(f"{id(body)}", body["prompt"], params, cache_salt=body.get("cache_salt", ""))
        try:
            deltas = self.engine.generate(asked)
        except DeepwellError as error:
            return JSONResponse({"error": {"message": error.message, "code": 400}}, 400)
        if body.get("stream"):
            return StreamingResponse(_events(deltas, body), media_type="text/event-stream")
        every = [delta async for delta in deltas]
        return JSONResponse(_chunk(every, body) | {"usage": _usage(every[-1])})


async def _events(deltas: AsyncIterator[Delta], body: dict[str, Any]) -> AsyncIterator[str]:
    assert body["stream_options"] == {"include_usage": True}
    async for delta in deltas:
        yield f"data: {json.dumps(_chunk([delta], body))}\n\n"
        if delta.finish_reason:
            yield f"data: {json.dumps({'choices': [], 'usage': _usage(delta)})}\n\n"
    yield "data: [DONE]\n\n"


def _usage(delta: Delta) -> dict[str, Any]:
    return {
        "prompt_tokens": delta.prompt_tokens,
        "completion_tokens": delta.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": delta.cached_tokens},
    }


def _chunk(deltas: list[Delta], body: dict[str, Any]) -> dict[str, Any]:
    tokens = [token for delta in deltas for token in delta.tokens]
    entries = [entry for delta in deltas for entry in delta.logprobs]
    finish = deltas[-1].finish_reason
    choice: dict[str, Any] = {"index": 0, "text": "?" * len(tokens), "finish_reason": finish}
    choice["stop_reason"] = None
    if finish == "stop":  # vLLM delivers the token that ended it
        tokens.append(body["stop_token_ids"][0])
        entries.append(TokenLogprob(tokens[-1], -0.5, 1, ((tokens[-1], -0.5),)))
        choice["stop_reason"] = tokens[-1]
    if body.get("logprobs") is not None:
        assert body["return_tokens_as_token_ids"]
        choice["logprobs"] = {
            "tokens": [f"token_id:{entry.token}" for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [
                {f"token_id:{token}": value for token, value in (*entry.top, (entry.token, entry.logprob))}
                for entry in entries
            ],
        }
    if body.get("return_token_ids"):
        choice["token_ids"] = tokens
    if deltas[0].prompt_logprobs is not None:
        choice["prompt_logprobs"] = [_row(entry) for entry in deltas[0].prompt_logprobs]
    return {"object": "text_completion", "model": "fake", "choices": [choice]}


def _row(entry: TokenLogprob | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    rows = {str(token): {"logprob": value, "rank": n} for n, (token, value) in enumerate(entry.top, 1)}
    return rows | {str(entry.token): {"logprob": entry.logprob, "rank": entry.rank}}


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """Serves an application in a thread; yields its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


@contextlib.contextmanager
def running_peer() -> Iterator[Peer]:
    """A running peer."""
    with fake_engine(max_model_len=CONTEXT) as engine:
        peer = Peer(engine)
        with running(peer.app) as peer.url:
            yield peer

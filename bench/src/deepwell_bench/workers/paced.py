"""An engine that keeps exact time instead of running a model: what is left of a latency is the server's.

Run as a script it serves itself: `python -m deepwell_bench.workers.paced MODEL PORT FIRST_MS TOKEN_MS TOKENS`. Like the real
engine it has a thread of its own, which hands tokens over to the event loop. With `bare` behind that, there is no server
around it: a socket that reads a request, whatever it says, and writes one prepared chunk a token. What a load shows beyond
that is the server's doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    EngineStats,
    GenerateRequest,
    Grammar,
    TokenLogprob,
    Window,
)
from deepwell.engine.streams import DeltaStream, Mailbox, deliver
from deepwell.errors import ModelNotFound
from deepwell.models.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from deepwell.dialogue.text import Codec
    from deepwell.server.context import ServerContext

__all__ = ["PacedEngine"]

_CONTEXT = 8192


@dataclass(slots=True)
class _Run:
    """One request: tokens handed over so far, and how many there will be."""

    request: GenerateRequest
    mailbox: Mailbox
    last: int
    number: int = 0
    dropped: bool = False

    def drop(self) -> None:
        self.dropped = True


class PacedEngine:
    """An engine whose first token comes after `first_s`, each further one after `token_s`, `tokens` in all at most."""

    def __init__(self, tokenizer: Tokenizer, *, first_s: float, token_s: float, tokens: int) -> None:
        self._tokenizer = tokenizer
        self._first_s = first_s
        self._token_s = token_s
        self._tokens = tokens
        self._text = tokenizer.encode(" and then")
        self._grammars = GrammarCompiler(lambda: tokenizer, tokenizer.vocab_size, tokenizer.eos_token_ids)
        self._due: list[tuple[float, int, _Run]] = []
        self._ticket = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._keep_time, daemon=True).start()

    def _keep_time(self) -> None:
        """Hands over what is due, one callback for each event loop as in `InProcessEngine`."""
        while True:
            with self._changed:
                while not self._due and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                wait = self._due[0][0] - time.perf_counter()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                due: list[tuple[float, _Run]] = []
                while self._due and self._due[0][0] <= time.perf_counter():
                    begin, _, run = heapq.heappop(self._due)
                    due.append((begin, run))
            outbox: dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, Delta]]] = {}
            for _, run in due:
                if not run.dropped:
                    outbox.setdefault(run.mailbox.loop, []).append((run.mailbox, self._next(run)))
            for loop, mail in outbox.items():
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                    loop.call_soon_threadsafe(deliver, mail)
            with self._changed:
                for begin, run in due:
                    if not run.dropped and run.number < run.last:
                        heapq.heappush(self._due, (begin + self._token_s, next(self._ticket), run))

    def _next(self, run: _Run) -> Delta:
        request, number = run.request, run.number
        run.number += 1
        token = self._text[number % len(self._text)]
        alternatives = request.params.logprobs
        prompt = None
        if number == 0 and request.params.prompt_logprobs is not None:
            most = request.params.prompt_logprobs
            prompt = (None, *(_entry(one, most) for one in request.prompt[1:]))
        return Delta(
            request.request_id,
            (token,),
            () if alternatives is None else (_entry(token, alternatives),),
            prompt,
            "length" if run.number == run.last else None,
            prompt_tokens=len(request.prompt),
            completion_tokens=run.number,
        )

    def generate(self, request: GenerateRequest) -> DeltaStream:
        """Hands tokens over on time."""
        mailbox = Mailbox(asyncio.get_running_loop())
        run = _Run(request, mailbox, min(request.params.max_tokens, self._tokens))
        with self._changed:
            first = time.perf_counter() + self._first_s
            heapq.heappush(self._due, (first, next(self._ticket), run))
            if self._due[0][2] is run:
                self._changed.notify()
        return DeltaStream(mailbox, run.drop)

    async def prepare(self, grammar: Grammar, *, tenant: str = "", cache_salt: str = "") -> None:
        """Compiles it as the real engine does, and refuses what that refuses; it is not obeyed."""
        await self._grammars.prepare(grammar, tenant=tenant, salt=cache_salt)

    async def score(
        self, tokens: Sequence[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        """Returns zeros: every token is certain."""
        return np.zeros(len(tokens) - start, np.float32)

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Returns a unit vector."""
        return np.eye(1, 8, len(tokens) % 8, dtype=np.float32)[0]

    def abort(self, request_id: str) -> None:
        """Does nothing: nothing runs that could be stopped."""

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Refuses: there are no adapters."""
        raise ModelNotFound(f"no adapter {name!r} is at {path}", fix="serve a model")

    def unload_adapter(self, name: str) -> None:
        """Refuses: there are no adapters."""
        raise ModelNotFound(f"no adapter {name!r} is loaded", fix="serve a model")

    def adapters(self) -> Sequence[AdapterInfo]:
        """Returns none."""
        return ()

    def stats(self) -> EngineStats:
        """Returns zeros: nothing is counted."""
        return EngineStats()

    def capabilities(self) -> Capabilities:
        """Returns those of a small model."""
        return Capabilities(
            model="paced",
            architecture="paced",
            precision="int8",
            backend="reference",
            isa="numpy",
            threads=1,
            vocab_size=self._tokenizer.vocab_size,
            hidden_size=8,
            max_model_len=_CONTEXT,
            kv_cache_tokens=_CONTEXT,
            weights_bytes=1,
            kv_cache_bytes=1,
        )

    def close(self) -> None:
        """Ends the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._grammars.close()


def _entry(token: int, alternatives: int) -> TokenLogprob:
    return TokenLogprob(token, -0.5, 1, tuple((other, -0.5 - other) for other in range(alternatives)))


class _Bare(asyncio.Protocol):
    """One connection to the engine itself. A request comes in one piece, as the load client sends it."""

    def __init__(self, engine: PacedEngine) -> None:
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        task = asyncio.get_running_loop().create_task(self._answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self) -> None:
        write = self._transport.write
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        async for delta in self._engine.generate(GenerateRequest("bare", (1,))):
            end = _END if delta.finish_reason else b""
            write(head + _CHUNK + end)
            head = b""


_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":" and"}}],"padding":"' + b"-" * 120 + b'"}\n\n'
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)  # as long as the server's own events
_END = b"0\r\n\r\n"


def _guarded(engine: PacedEngine, codec: Codec) -> ServerContext:
    """Returns the context that `deepwell serve` makes, with a key in its database, written into `DEEPWELL_BENCH_KEY`."""
    from deepwell.dialogue.model import ServedModel
    from deepwell.server.build import context_of
    from deepwell.settings import Settings
    from deepwell.storage.database import Database, Tenant
    from deepwell.storage.keys import KeyStore

    settings = Settings.load()
    database = Database.of(settings)
    _, key = KeyStore(database).create(Tenant("bench"), "bench", ["inference"])
    database.close()
    Path(os.environ["DEEPWELL_BENCH_KEY"]).write_text(key, encoding="utf-8")
    return context_of(settings, [ServedModel("paced", engine, codec)])


async def _serve_bare(engine: PacedEngine, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(lambda: _Bare(engine), "127.0.0.1", port)
    await stopped.wait()
    server.close()


def main(model: str, port: str, first_ms: str, token_ms: str, tokens: str, how: str = "served") -> None:
    """Serves until a signal comes."""
    path = Path(model)
    engine = PacedEngine(
        Tokenizer.load(path), first_s=float(first_ms) / 1e3, token_s=float(token_ms) / 1e3, tokens=int(tokens)
    )
    if how == "bare":
        asyncio.run(_serve_bare(engine, int(port)))
    else:
        _serve(engine, path, int(port), full=how == "full")
    engine.close()


def _serve(engine: PacedEngine, model: Path, port: int, *, full: bool) -> None:
    from deepwell.dialogue.model import ServedModel
    from deepwell.dialogue.text import Codec
    from deepwell.server.build import build_context
    from deepwell.server.http.listen import bind
    from deepwell.server.run import serve

    codec = Codec.load(model)
    context = _guarded(engine, codec) if full else build_context([ServedModel("paced", engine, codec)])
    with bind("127.0.0.1", port) as listener:
        serve(context, listener, log_level="warning", on_ready=lambda: None)


if __name__ == "__main__":
    main(*sys.argv[1:])

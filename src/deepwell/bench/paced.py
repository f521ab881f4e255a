"""An engine that keeps exact time instead of running a model: what is left of a latency is the server's.

Run as a script it serves itself: `python -m deepwell.bench.paced MODEL PORT FIRST_MS TOKEN_MS TOKENS`. Like the real
engine it has a thread of its own, which hands tokens over to the event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.grammar import GrammarCompiler
from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    EngineStats,
    GenerateRequest,
    Grammar,
    TokenLogprob,
)
from deepwell.errors import ModelNotFound
from deepwell.models.tokenizer import Tokenizer

__all__ = ["PacedEngine"]

_CONTEXT = 8192


class PacedEngine:
    """The first token of a request comes after `first_s`, each further one after `token_s`, `tokens` in all at most."""

    def __init__(self, tokenizer: Tokenizer, *, first_s: float, token_s: float, tokens: int) -> None:
        self._tokenizer = tokenizer
        self._first_s = first_s
        self._token_s = token_s
        self._tokens = tokens
        self._text = tokenizer.encode(" and then")
        self._grammars = GrammarCompiler(lambda: tokenizer, tokenizer.vocab_size, tokenizer.eos_token_ids)
        self._due: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Queue[None]]] = []
        self._ticket = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._keep_time, daemon=True).start()

    def _keep_time(self) -> None:
        with self._changed:
            while not self._closed:
                if not self._due:
                    self._changed.wait()
                    continue
                wait = self._due[0][0] - time.perf_counter()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                _, _, loop, queue = heapq.heappop(self._due)
                loop.call_soon_threadsafe(queue.put_nowait, None)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Tokens on time."""
        begin = time.perf_counter() + self._first_s
        queue: asyncio.Queue[None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        last = min(request.params.max_tokens, self._tokens)
        for number in range(last):
            if self._first_s or self._token_s:
                with self._changed:
                    due = begin + number * self._token_s
                    heapq.heappush(self._due, (due, next(self._ticket), loop, queue))
                    self._changed.notify()
                await queue.get()
            else:
                await asyncio.sleep(0)
            token = self._text[number % len(self._text)]
            alternatives = request.params.logprobs
            prompt = None
            if number == 0 and request.params.prompt_logprobs is not None:
                most = request.params.prompt_logprobs
                prompt = (None, *(_entry(one, most) for one in request.prompt[1:]))
            yield Delta(
                request.request_id,
                (token,),
                () if alternatives is None else (_entry(token, alternatives),),
                prompt,
                "length" if number == last - 1 else None,
                prompt_tokens=len(request.prompt),
                completion_tokens=number + 1,
            )

    async def prepare(self, grammar: Grammar) -> None:
        """Compile it as the real engine does, and refuse what that refuses; it is not obeyed."""
        await asyncio.to_thread(self._grammars.start, grammar)

    async def score(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Every token is certain."""
        return np.zeros(len(tokens) - 1, np.float32)

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """A unit vector."""
        return np.eye(1, 8, len(tokens) % 8, dtype=np.float32)[0]

    def abort(self, request_id: str) -> None:
        """Nothing runs that could be stopped."""

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """There are no adapters."""
        raise ModelNotFound(f"no adapter {name!r} is at {path}", fix="serve a model")

    def unload_adapter(self, name: str) -> None:
        """There are no adapters."""
        raise ModelNotFound(f"no adapter {name!r} is loaded", fix="serve a model")

    def adapters(self) -> Sequence[AdapterInfo]:
        """None."""
        return ()

    def stats(self) -> EngineStats:
        """Nothing is counted."""
        return EngineStats()

    def capabilities(self) -> Capabilities:
        """Those of a small model."""
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
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()


def _entry(token: int, alternatives: int) -> TokenLogprob:
    return TokenLogprob(token, -0.5, 1, tuple((other, -0.5 - other) for other in range(alternatives)))


def main(model: str, port: str, first_ms: str, token_ms: str, tokens: str) -> None:
    """Serve until a signal comes."""
    from deepwell.server.listen import bind
    from deepwell.server.run import serve
    from deepwell.server.service import Service
    from deepwell.server.text import Codec

    path = Path(model)
    engine: Any = PacedEngine(
        Tokenizer.load(path), first_s=float(first_ms) / 1e3, token_s=float(token_ms) / 1e3, tokens=int(tokens)
    )
    service = Service(engine, Codec.load(path), model="paced")
    with bind("127.0.0.1", int(port)) as listener:
        serve(service, listener, log_level="warning", on_ready=lambda: None)
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

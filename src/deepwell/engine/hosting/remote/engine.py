"""`RemoteEngine`: the `Engine` protocol for a model that a server elsewhere runs, over HTTP.

Tokenizer, chat template, grammar checks and limits of the context stay here; the server gets token ids, or text where it
takes nothing else. Each request is a connection of its own, and closing it aborts the request there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.hosting.remote.adapters import RemoteAdapters
from deepwell.engine.hosting.remote.address import RemoteOptions
from deepwell.engine.hosting.remote.checks import checked_part, checked_request, vector_of
from deepwell.engine.hosting.remote.faults import Retry, bad_answer, broken, lacking
from deepwell.engine.hosting.remote.parts import Part, Shape
from deepwell.engine.hosting.remote.transport import MOST_BODY_BYTES, Transport
from deepwell.engine.prompts import checked_prompt, first_row
from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    EngineStats,
    GenerateRequest,
    Grammar,
    SamplingParams,
    Window,
)
from deepwell.engine.streams import DeltaStream, Mailbox, deliver
from deepwell.errors import DeepwellError, InvalidRequest

__all__ = ["RemoteEngine"]

_log = logging.getLogger("deepwell.engine")

MAX_SENDS: Final = 3  # of a request that the server had taken: it may be what ends the server
_PAUSE_S: Final = 0.2
_MOST_IDLE: Final = 4096  # events in a row without a token, such as counts and keep-alives
_ANSWER_BYTES: Final = 1 << 20  # of an answer in one piece, besides its rows
_ROW_BYTES: Final = 1024  # of one token with its log probability, or of one alternative to it
_NUMBER_BYTES: Final = 64  # of one number of a vector
_LONGEST_PAUSE_S: Final = 2.0


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way."""

    request: GenerateRequest
    mailbox: Mailbox
    task: asyncio.Task[None] | None = None
    ended: bool = False  # its last delta has left, or nobody reads it any more
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    held: Delta | None = field(default=None)  # the last delta, which waits for the counts

    def post(self, delta: Delta) -> None:
        if not self.ended:
            self.ended = delta.finish_reason is not None
            deliver([(self.mailbox, delta)])

    def fail(self, error: DeepwellError) -> None:
        if not self.ended:
            self.ended = True
            self.mailbox.fail(error)

    def delta(self, part: Part, **values: Any) -> Delta:
        self.tokens += len(part.tokens)
        return Delta(
            self.request.request_id,
            part.tokens,
            part.logprobs,
            part.prompt_logprobs,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.cached_tokens,
            completion_tokens=self.tokens,
            **values,
        )


class RemoteEngine:
    """An engine on a server. Methods may be called from any thread, those that wait from any event loop.

    Args:
        shape: the requests and answers of the server's kind.
        capabilities: what probing found.
        grammars: compiles grammars for the model's vocabulary, to refuse bad ones before they are sent; None: all are sent.
        adapters: the adapters on the server.
        on_close: called once, to end what the shape has opened.

    Attributes:
        url: the server's.
        address: kind and URL, as the setting `engine` takes them.
    """

    def __init__(
        self,
        options: RemoteOptions,
        shape: Shape,
        capabilities: Capabilities,
        *,
        adapters: RemoteAdapters,
        grammars: GrammarCompiler | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.url = options.address.url
        self.address = f"{shape.kind}={self.url}"
        self._options = options
        self._shape = shape
        self._capabilities = capabilities
        self._grammars = grammars
        self._adapters = adapters
        self._on_close = on_close
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._transports: dict[asyncio.AbstractEventLoop, Transport] = {}
        self._watches: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._stats = EngineStats()
        self._closed = False

    def generate(self, request: GenerateRequest) -> DeltaStream:
        """Continues `request.prompt`. Called on the event loop that iterates; the request is sent at once.

        Raises:
            ContextLengthExceeded: the prompt and `max_tokens` exceed `capabilities().max_model_len`.
            InvalidRequest: the prompt is empty, a parameter is out of range, or the server does not offer it.
        """
        checked_request(request, self._capabilities, self.url)
        self._shape.check(request)
        loop = asyncio.get_running_loop()
        job = _Job(request, Mailbox(loop))
        with self._lock:
            self._check_open()
            if request.request_id in self._jobs:
                raise InvalidRequest(
                    f"request id {request.request_id!r} is in use",
                    fix="give each request its own",
                    param="request_id",
                )
            self._jobs[request.request_id] = job
            self._count(running=1, admitted=1)
        job.task = loop.create_task(self._run(job, self._transport(loop)))
        return DeltaStream(job.mailbox, lambda: self._drop(job))

    async def score(
        self, tokens: Sequence[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        """Returns the log probability of each token from `start` on, given those before it; see `Engine.score`."""
        if "score" in self._capabilities.lacks:
            raise lacking(self.url, "score")
        prompt = checked_prompt(tokens, 0, window, self._capabilities)
        first_row(prompt, start, "start")
        if window is not None:
            raise lacking(self.url, "window", "window")
        if len(tokens) == start:
            return np.empty(0, np.float32)
        params = SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs=0, prompt_logprobs_start=start)
        request = GenerateRequest("", prompt.tolist(), params, adapter=adapter)
        part = await self._sent(request)
        rows = part.prompt_logprobs or ()
        return np.array([row.logprob for row in rows if row is not None], np.float32)

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Returns the server's embedding of the tokens, L2-normalised: [hidden_size]."""
        if "embed" in self._capabilities.lacks:
            raise lacking(self.url, "embed")
        array = checked_prompt(tokens, 0, None, self._capabilities)
        model = adapter or self._adapters.model
        body = self._shape.embedding(model, array.tolist())
        transport = self._transport(asyncio.get_running_loop())
        most_bytes = _ANSWER_BYTES + self._capabilities.hidden_size * _NUMBER_BYTES
        answer = await self._again(lambda: transport.whole("/v1/embeddings", body, most_bytes))
        return vector_of(answer, self._capabilities.hidden_size, self.url)

    async def prepare(self, grammar: Grammar, *, tenant: str = "", cache_salt: str = "") -> None:
        """Compiles a grammar here, so that a bad one is refused as by any engine; see `Engine.prepare`."""
        params = SamplingParams(max_tokens=1, grammar=grammar)
        self._shape.check(GenerateRequest("", (0,), params))
        if self._grammars is not None:
            await self._grammars.prepare(grammar, tenant=tenant, salt=cache_salt)

    def abort(self, request_id: str) -> None:
        """Aborts a request by closing its connection; its stream ends with "abort". Unknown ids are ignored."""
        with self._lock:
            job = self._jobs.get(request_id)
        if job is not None:
            self._end(job)

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Has the server load a peft directory; see `Engine.load_adapter`. The server reads the path, so it has to be there."""
        self._check_open()
        return self._adapters.load(name, path)

    def unload_adapter(self, name: str) -> None:
        """Has the server forget the adapter of a name; see `Engine.unload_adapter`."""
        self._check_open()
        self._adapters.unload(name)

    def adapters(self) -> tuple[AdapterInfo, ...]:
        """Returns the adapters that the server has, as of the last look."""
        return self._adapters.known()

    def stats(self) -> EngineStats:
        """Returns what this process has asked for. On an event loop, looks whether the server is there begin."""
        with contextlib.suppress(RuntimeError):  # this thread has no event loop
            self._watch(asyncio.get_running_loop())
        return self._stats

    def capabilities(self) -> Capabilities:
        """Returns the model that the server runs and its limits."""
        return self._capabilities

    def close(self) -> None:
        """Aborts all requests made here. The server goes on running. Closing twice is harmless."""
        with self._lock:
            self._closed = True
            jobs = list(self._jobs.values())
            transports, self._transports = self._transports, {}
            watches, self._watches = self._watches, {}
        for job in jobs:
            self._end(job, "the engine is closed")
        for loop, transport in transports.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_close_later, loop, transport, watches.get(loop))
        if self._grammars is not None:
            self._grammars.close()
        self._on_close, on_close = _nothing, self._on_close
        on_close()

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise DeepwellError("the engine is closed", fix="start it again")

    def _count(self, **changes: float) -> None:
        """Adds to counters. Called under the lock, or on the loop that owns the request."""
        now = self._stats
        self._stats = replace(now, **{name: getattr(now, name) + by for name, by in changes.items()})

    def _transport(self, loop: asyncio.AbstractEventLoop) -> Transport:
        with self._lock:
            self._check_open()
            for other in [other for other in self._transports if other.is_closed()]:
                del self._transports[other]
                self._watches.pop(other, None)
            if loop not in self._transports:
                self._transports[loop] = Transport(self._options)
            return self._transports[loop]

    def _drop(self, job: _Job) -> None:
        """Ends a request that nobody reads any more. Any thread may call it."""
        job.ended = True
        self._end(job)

    def _end(self, job: _Job, why: str = "") -> None:
        def end() -> None:
            if not job.ended:
                job.post(job.delta(Part(), finish_reason="abort", error=why))
            if job.task is not None:
                job.task.cancel()

        with contextlib.suppress(RuntimeError):  # the loop is closed
            job.mailbox.loop.call_soon_threadsafe(end)

    async def _run(self, job: _Job, transport: Transport) -> None:
        began = time.perf_counter()
        aborted = 1
        try:
            if job.request.params.prompt_logprobs is None:
                await self._stream(job, transport)
            else:  # vLLM does not stream them
                part = await self._sent(job.request)
                self._take(job, part)
                self._finish(job)
            aborted = 0
        except asyncio.CancelledError:
            pass
        except DeepwellError as error:
            job.fail(error)
        except Exception as error:  # a fault of this code must not leave its reader waiting
            job.fail(DeepwellError(f"the request to {self.url} failed: {error!r}"))
            raise
        finally:
            with self._lock:
                self._jobs.pop(job.request.request_id, None)
                busy = time.perf_counter() - began
                self._count(running=-1, aborted=aborted, busy_seconds=busy)

    async def _stream(self, job: _Job, transport: Transport) -> None:
        """Hands the events of an answer over. Until the first has come, the request is sent again where that can help."""
        body = await self._body(job.request, stream=True)

        async def attempt() -> None:
            reader = self._shape.reader(job.request)
            events = transport.events(self._shape.path, body)
            idle, clock = 0, time.monotonic
            until = clock() + self._options.first_s
            async with contextlib.aclosing(events):
                async for event in events:
                    read = reader.read
                    part = await asyncio.to_thread(read, event) if self._shape.waits else read(event)
                    self._take(job, part)
                    if part.tokens:
                        idle, until = 0, clock() + self._options.first_s
                        continue
                    idle += 1
                    if idle > _MOST_IDLE or clock() > until:  # which would keep the request open for ever
                        raise bad_answer(self.url, f"{idle} events without a token")
            if job.held is None and not job.ended:
                raise broken(self.url, "the stream has no end")

        await self._again(attempt)
        self._finish(job)

    async def _body(self, request: GenerateRequest, *, stream: bool) -> dict[str, Any]:
        make = self._shape.body
        return (
            await asyncio.to_thread(make, request, stream=stream)
            if self._shape.waits
            else make(request, stream=stream)
        )

    async def _sent(self, request: GenerateRequest) -> Part:
        """Returns the whole answer to a request."""
        transport = self._transport(asyncio.get_running_loop())
        body = await self._body(request, stream=False)
        params = request.params
        rows = 0 if params.prompt_logprobs is None else len(request.prompt) * (params.prompt_logprobs + 2)
        rows += params.max_tokens * ((params.logprobs or 0) + 2)
        most_bytes = min(_ANSWER_BYTES + rows * _ROW_BYTES, MOST_BODY_BYTES)
        data = await self._again(lambda: transport.whole(self._shape.path, body, most_bytes))
        part = checked_part(
            self._shape.reader(request).read(data), request, 0, self._capabilities, self.address
        )
        if part.finish_reason is None:
            raise bad_answer(self.url, "an answer without an end")
        with self._lock:
            prompt = len(request.prompt)
            cached = min(part.cached_tokens or 0, prompt)
            self._count(prompt_tokens=prompt - cached, cached_tokens=cached, steps=1)
        return part

    def _take(self, job: _Job, part: Part) -> None:
        """Hands an event over. The one that ends the answer is kept for the counts that may follow it."""
        part = checked_part(part, job.request, job.tokens, self._capabilities, self.url)
        if part.prompt_tokens is not None:
            job.prompt_tokens = part.prompt_tokens
        if part.cached_tokens is not None:
            job.cached_tokens = part.cached_tokens
        if job.held is not None:
            if part.tokens or part.finish_reason:
                raise bad_answer(self.url, "tokens behind the end of the answer")
            return
        with self._lock:
            self._count(generated_tokens=len(part.tokens), steps=1 if part.tokens else 0)
        if part.finish_reason is not None:
            job.held = job.delta(part, finish_reason=part.finish_reason)
        elif part.tokens or part.prompt_logprobs is not None:
            job.post(job.delta(part))

    def _finish(self, job: _Job) -> None:
        if job.held is None:
            return
        cached = min(job.cached_tokens, len(job.request.prompt))
        if job.request.params.prompt_logprobs is None:  # else `_sent` has counted them
            with self._lock:
                self._count(prompt_tokens=len(job.request.prompt) - cached, cached_tokens=cached)
        job.post(replace(job.held, cached_tokens=cached))

    async def _again(self, attempt: Callable[[], Any]) -> Any:
        """Returns what an attempt returns. Attempts without an effect are repeated while the server may come back.

        Raises:
            EngineUnavailable: it did not within `wait_s`, or ended with each of three attempts.
            DeepwellError: as the attempt says.
        """
        until = time.monotonic() + self._options.wait_s
        pause, sends = _PAUSE_S, 0
        while True:
            try:
                result = await attempt()
            except Retry as failed:
                sends += failed.sent
                wait_s = max(pause, failed.wait_s)
                self._available(failed.sent or failed.busy)
                if sends >= MAX_SENDS or time.monotonic() + wait_s > until:
                    raise failed.error from None
                await asyncio.sleep(wait_s)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self._available(True)
                return result

    def _available(self, available: bool) -> None:
        if self._stats.available != available:
            _log.warning(
                "the engine at %s %s", self.url, "is there again" if available else "cannot be reached"
            )
            with self._lock:
                back = available and not self._stats.available
                self._stats = replace(self._stats, available=available, restarts=self._stats.restarts + back)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._closed or loop in self._watches:
            return
        transport = self._transport(loop)
        with self._lock:
            if loop not in self._watches:
                self._watches[loop] = loop.create_task(self._look(transport))

    async def _look(self, transport: Transport) -> None:
        """Looks again and again whether the server is there, and which adapters it has."""
        while not self._closed:
            await asyncio.sleep(self._options.look_s)
            listed = await transport.look("/v1/models")
            self._available(listed is not None)
            if listed is not None:
                with contextlib.suppress(DeepwellError):  # what is no list says nothing
                    self._adapters.listed(listed)
                    await asyncio.to_thread(self._adapters.restore)


def _nothing() -> None:
    """Has been closed before."""


def _close_later(
    loop: asyncio.AbstractEventLoop, transport: Transport, watch: asyncio.Task[None] | None
) -> None:
    if watch is not None:
        watch.cancel()
    task = loop.create_task(transport.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()  # the loop itself keeps no reference

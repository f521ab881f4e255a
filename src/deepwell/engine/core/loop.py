"""`InProcessEngine`: a model behind the `Engine` protocol, driven by one thread of this process."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import math
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.backend import KVCache, Model
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.blocks import BlockPool
from deepwell.engine.core.prediction import Predictor
from deepwell.engine.core.runner import StepResult, StepRunner
from deepwell.engine.core.scheduler import Scheduler
from deepwell.engine.core.sequence import Kind, Sequence, SequenceSpec
from deepwell.engine.core.step import ScheduledStep
from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.grammar.masks import GrammarState
from deepwell.engine.limits import Limits
from deepwell.engine.prompts import checked_prompt, first_row
from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Grammar,
    SamplingParams,
    TokenLogprob,
    Window,
    check_params,
)
from deepwell.engine.recents import RecentSlots
from deepwell.engine.streams import DeltaStream, Mailbox, Outlet, SyncDeltaStream, deliver
from deepwell.engine.weights.adapters import AdapterLoader, LoadedAdapter
from deepwell.errors import (
    DeepwellError,
    InvalidRequest,
    ModelNotFound,
    UnsupportedModel,
)
from deepwell.process.progress import Progress
from deepwell.process.turns import Turn

__all__ = ["InProcessEngine"]

_STALLED_S = 0.05  # between two looks at the inbox while every sequence waits for its mask
_log = logging.getLogger(__name__)

_LONGEST_NAME = 384  # of an adapter: 256 characters of a client, and its tenant before them


@dataclass(slots=True)
class _Job:
    """A live request and the receiver of its results."""

    sequence: Sequence
    sink: Mailbox | Outlet | queue.SimpleQueue[Delta] | Future[NDArray[np.float32]]
    since: float = field(default_factory=time.perf_counter)
    queue_seconds: float = 0.0  # wait until its first step
    told: bool = False

    def told_queueing(self) -> float:
        """Returns `queue_seconds` at the first call and 0 later."""
        seconds = 0.0 if self.told else self.queue_seconds
        self.told = True
        return seconds


@dataclass(frozen=True, slots=True, eq=False)
class PagedModel:
    """A model and the pages that it reads and writes.

    `prediction` is its multi-token prediction layer with its own pages, of as many blocks as the cache. `recents` are the slots
    of a cache that keeps single tokens apart.
    """

    model: Model
    cache: KVCache
    prediction: tuple[Model, KVCache] | None = None
    recents: RecentSlots | None = None


class InProcessEngine:
    """Runs one model on one thread. Every method may be called from any thread.

    Args:
        paged: the model that computes the steps, with its pages.
        capabilities: the capabilities to report; `max_model_len` limits every sequence and must fit the cache.
        eos_token_ids: tokens that end a sequence unless it ignores them; they are never delivered.
        seed: everything besides tokens and salt that the cache's contents depend on (weights, precision, dtype of the
            cache).
        limits: limits of one step.
        loader: loads adapters; None: the model takes no adapters.
        grammars: compiles grammars for the model's vocabulary; None: grammars are refused.
        turn: makes the steps of several engine processes take turns; None: this one has the cores for itself.
    """

    def __init__(
        self,
        paged: PagedModel,
        capabilities: Capabilities,
        *,
        eos_token_ids: Tokens[int] = (),
        seed: bytes = b"",
        limits: Limits | None = None,
        loader: AdapterLoader | None = None,
        grammars: GrammarCompiler | None = None,
        turn: Turn | None = None,
    ) -> None:
        cache = paged.cache
        if capabilities.max_model_len > cache.num_blocks * BLOCK_TOKENS:
            raise DeepwellError(
                f"max_model_len {capabilities.max_model_len} exceeds the cache of "
                f"{cache.num_blocks * BLOCK_TOKENS} tokens",
                fix="give the cache more blocks, or lower the context",
            )
        limits = limits or Limits()
        self._capabilities = capabilities
        self._eos = frozenset(eos_token_ids)
        pool = BlockPool(cache.num_blocks, seed=seed, recents=paged.recents)
        self._scheduler = Scheduler(pool, limits, paged.recents)
        predictor = Predictor(*paged.prediction) if paged.prediction else None
        self._runner: StepRunner | None = StepRunner(
            paged.model, cache, limits, capabilities.max_model_len, predictor
        )
        self._loader = loader
        self._grammars = grammars
        self._turn = turn
        self._adapters: dict[str, LoadedAdapter] = {}

        self.progress = Progress.private()  # a host replaces it by counters that its supervisor reads
        self._wake = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._inbox: deque[tuple[Literal["add", "abort"], Sequence]] = deque()
        self._stalled = False  # True: all sequences waited for their masks when the last step was scheduled
        self._outbox: dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, Delta]]] = {}
        self._posts: dict[Outlet, list[Delta]] = {}
        self._closed = False
        self._ids = itertools.count()
        self._steps = 0
        self._generated = 0
        self._aborted = 0
        self._busy_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="deepwell-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # otherwise the interpreter exits while the thread runs a kernel

    def generate(self, request: GenerateRequest) -> DeltaStream:
        """Continues `request.prompt`. Called on the event loop that iterates; the request is queued at once.

        Raises:
            ContextLengthExceeded: the prompt and `max_tokens`, or the window, exceed `capabilities().max_model_len`.
            InvalidRequest: the prompt is empty, a token id is unknown, a parameter is out of range, or the id is in use.
        """
        mailbox = Mailbox(asyncio.get_running_loop())
        return DeltaStream(mailbox, self._submit_generate(request, mailbox))

    def generate_sync(self, request: GenerateRequest) -> SyncDeltaStream:
        """Does the same as `generate` for a thread without an event loop."""
        deltas: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        return SyncDeltaStream(deltas, self._submit_generate(request, deltas))

    def generate_into(self, request: GenerateRequest, outlet: Outlet) -> Callable[[], None]:
        """Does the same as `generate` for a receiver of many requests; each step posts to an outlet once.

        Returns a function that aborts the request within one step. Any thread may call it; the last delta still comes.
        """
        return self._submit_generate(request, outlet)

    async def score(
        self, tokens: Tokens[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        """Returns the log probability of each token from `start` on, given those before it; see `Engine.score`."""
        sequence = self._sequence("score", tokens, adapter, start, window)
        if len(tokens) == start:
            return np.empty(0, np.float32)
        return await self._resolve(sequence)

    async def embed(self, tokens: Tokens[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Returns the mean of the last hidden states over the tokens, L2-normalised: [hidden_size]."""
        return await self._resolve(self._sequence("embed", tokens, adapter))

    async def prepare(self, grammar: Grammar, *, tenant: str = "", cache_salt: str = "") -> None:
        """Compiles a grammar off the event loop; see `Engine.prepare`."""
        await self._compiler().prepare(grammar, tenant=tenant, salt=cache_salt)

    def abort(self, request_id: str) -> None:
        """Aborts a request within one step; its stream ends with "abort". Unknown ids are ignored."""
        with self._wake:
            job = self._jobs.get(request_id)
            if job is not None:
                self._inbox.append(("abort", job.sequence))
                self._wake.notify()

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Loads a peft directory under a name, replacing the adapter of that name; see `Engine.load_adapter`."""
        loader = self._loader
        if loader is None:
            raise UnsupportedModel(
                "this engine takes no adapters", fix="merge the adapter into the base, and serve the result"
            )
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise InvalidRequest(
                "an adapter's name is 1 to 256 printable characters", fix="choose another", param="lora_name"
            )
        adapter = loader.load(name, Path(path))
        with self._wake:
            if self._closed:
                raise DeepwellError("the engine is closed", fix="start it again")
            self._adapters[name] = adapter
        return adapter.info

    def unload_adapter(self, name: str) -> None:
        """Unloads the adapter of a name; see `Engine.unload_adapter`."""
        with self._wake:
            self._adapter(name)
            del self._adapters[name]

    def adapters(self) -> tuple[AdapterInfo, ...]:
        """Returns the loaded adapters, in order of first load."""
        with self._wake:
            return tuple(adapter.info for adapter in self._adapters.values())

    def _adapter(self, name: str) -> LoadedAdapter:
        adapter = self._adapters.get(name)
        if adapter is None:
            # The loaded names are not listed: some belong to other tenants.
            raise ModelNotFound(f"no adapter {name!r} is loaded", fix="load it first", param="model")
        return adapter

    def _compiler(self) -> GrammarCompiler:
        if self._grammars is None:
            raise InvalidRequest(
                "this engine takes no grammars", fix="send the request without one", param="grammar"
            )
        return self._grammars

    def stats(self) -> EngineStats:
        """Returns counters since start and current gauges."""
        scheduler, pool = self._scheduler, self._scheduler.pool
        runner = self._runner  # freed by `close`
        coming = [one for kind, one in tuple(self._inbox) if kind == "add"]
        by_tenant = dict(scheduler.waiting.waiting_by_tenant())
        for one in coming:
            if one.priority >= 0:
                by_tenant[one.tenant] = by_tenant.get(one.tenant, 0) + 1
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(coming),
            waiting_by_tenant=tuple(by_tenant.items()),
            admitted=scheduler.admitted,
            steps=self._steps,
            prompt_tokens=scheduler.prompt_tokens,
            cached_tokens=scheduler.cached_tokens,
            generated_tokens=self._generated,
            drafted_tokens=scheduler.drafted_tokens,
            accepted_tokens=scheduler.accepted_tokens,
            predicted_tokens=scheduler.predicted_tokens,
            accepted_predictions=scheduler.accepted_predictions,
            preemptions=scheduler.preemptions,
            forgotten_tokens=scheduler.forgotten_tokens,
            aborted=self._aborted,
            blocks_total=pool.num_blocks,
            blocks_used=pool.used,
            blocks_cached=pool.cached,
            busy_seconds=self._busy_seconds,
            expert_loads=runner.expert_loads if runner else (),
            expert_reads=runner.expert_reads if runner else 0,
        )

    def capabilities(self) -> Capabilities:
        """Returns the model that this engine runs and its limits."""
        return self._capabilities

    def close(self) -> None:
        """Aborts all requests and frees the model. Further requests are refused; closing twice is harmless."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        if self._grammars is not None:
            self._grammars.close()
        atexit.unregister(self.close)

    def __enter__(self) -> InProcessEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit_generate(
        self, request: GenerateRequest, sink: Mailbox | Outlet | queue.SimpleQueue[Delta]
    ) -> Callable[[], None]:
        """Queues a request and returns a function that aborts it."""
        params = request.params
        check_params(params, self._capabilities.vocab_size)
        prompt = checked_prompt(request.prompt, params.max_tokens, request.window, self._capabilities)
        spec = SequenceSpec(
            request.request_id,
            prompt,
            params,
            first_row=first_row(prompt, params.prompt_logprobs_start, "prompt_logprobs_start"),
            choice=request.choice,
            salt=request.cache_salt,
            tenant=request.tenant,
            priority=request.priority,
            adapter=self._adapter(request.adapter) if request.adapter else None,
            grammar=self._start_grammar(request) if params.grammar else None,
            eos_token_ids=self._eos,
            seed=random.getrandbits(64) if params.seed is None else params.seed,
            window=request.window,
            new_memory=self._runner and self._runner.memory_of(request.window),
        )
        sequence = Sequence(spec)
        self._submit(_Job(sequence, sink))
        inbox = self._inbox

        def abandon() -> None:
            # This takes no lock, because garbage collection may run it anywhere. While the sequence lives, the engine is
            # awake and checks its inbox before each step.
            inbox.append(("abort", sequence))

        return abandon

    def _start_grammar(self, request: GenerateRequest) -> GrammarState:
        assert request.params.grammar is not None
        return self._compiler().start(
            request.params.grammar,
            tenant=request.tenant,
            salt=request.cache_salt,
            on_ready=self._mask_is_ready,
        )

    def _mask_is_ready(self) -> None:
        with self._wake:
            self._stalled = False
            self._wake.notify()

    def _sequence(
        self, kind: Kind, tokens: Tokens[int], adapter: str, start: int = 1, window: Window | None = None
    ) -> Sequence:
        prompt = checked_prompt(tokens, 0, window, self._capabilities)
        spec = SequenceSpec(
            f"{kind}-{next(self._ids)}\0",
            prompt,
            SamplingParams(max_tokens=0),
            kind=kind,
            first_row=first_row(prompt, start, "start"),
            adapter=self._adapter(adapter) if adapter else None,
            window=window,
            new_memory=self._runner and self._runner.memory_of(window),
        )
        return Sequence(spec)

    def _submit(self, job: _Job) -> None:
        request_id = job.sequence.request_id
        with self._wake:
            if self._closed:
                raise DeepwellError("the engine is closed", fix="start it again")
            if request_id in self._jobs:
                raise InvalidRequest(
                    f"request id {request_id!r} is in use",
                    fix="give each request its own",
                    param="request_id",
                )
            self._jobs[request_id] = job
            self._inbox.append(("add", job.sequence))
            self._wake.notify()

    async def _resolve(self, sequence: Sequence) -> NDArray[np.float32]:
        future: Future[NDArray[np.float32]] = Future()
        self._submit(_Job(sequence, future))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._inbox.append(("abort", sequence))
            raise

    def _run(self) -> None:
        """Runs the engine thread."""
        try:
            while self._wait_for_work():
                if self._turn is not None:
                    self._turn.take(self.progress)
                self._receive()
                if self._scheduler.has_work:
                    started = time.perf_counter()
                    self.progress.begin()
                    self._step()
                    self.progress.step()
                    self._busy_seconds += time.perf_counter() - started
                if self._turn is not None:
                    self._turn.offer(idle=not self._scheduler.has_work)
                self._flush()
        finally:
            if self._turn is not None:
                self._turn.close()
            with self._wake:
                self._closed = True
                sequences = [job.sequence for job in self._jobs.values()]
            for sequence in sequences:
                self._end(sequence, "abort")
            self._flush()
            self._runner = self._loader = None  # frees the model
            self._adapters.clear()

    def _wait_for_work(self) -> bool:
        """Sleeps until there is work; returns False once the engine is closed."""
        has_work = self._scheduler.has_work
        if not self._inbox and (self._stalled or not has_work):
            if self._turn is not None:
                self._turn.give()
            with self._wake:
                while not self._inbox and not self._closed and (self._stalled or not has_work):
                    self.progress.rest()
                    # An abort comes without a notification, because it relies on an engine that is awake.
                    self._wake.wait(_STALLED_S if has_work else None)
        return not self._closed

    def _receive(self) -> None:
        while self._inbox:
            command, sequence = self._inbox.popleft()
            if command == "add":
                self._scheduler.add(sequence)
            elif self._scheduler.remove(sequence):
                self._aborted += 1
                self._end(sequence, "abort")

    def _step(self) -> None:
        """Schedules, executes and commits a step. An exception fails the requests of the step, and the engine continues."""
        assert self._runner is not None
        step = None
        try:
            self._stalled = True  # until a mask is ready, which may be while this step is scheduled
            others_wait = self._turn is not None and self._turn.others_wait()
            step = self._scheduler.schedule(others_wait=others_wait)
            if not step.sequences:
                return
            self._stalled = False
            self._note_queueing(step)
            result = self._runner.execute(step)
            reasons = self._scheduler.commit(step, result.tokens)
            self._steps += 1
            self._report(step, result, reasons)
        except Exception as error:
            self._stalled = False
            ids = ", ".join(sequence.request_id for sequence in step.sequences) if step else "none"
            _log.exception("an engine step failed; it held %s", ids)
            self._fail(error, step.sequences if step else [])

    def _note_queueing(self, step: ScheduledStep) -> None:
        """Records the wait of the requests that this step takes from the queue."""
        now = time.perf_counter()
        for sequence in step.sequences[step.decoding :]:
            job = self._jobs[sequence.request_id]
            if not job.queue_seconds:
                job.queue_seconds = now - job.since

    def _report(self, step: ScheduledStep, result: StepResult, reasons: list[FinishReason | None]) -> None:
        """Delivers the results of a step to the callers."""
        for index, (sequence, drawn, reason) in enumerate(
            zip(step.sequences, result.tokens, reasons, strict=True)
        ):
            if index in result.errors:
                self._scheduler.remove(sequence)
                self._end(sequence, "error", error=result.errors[index])
                continue
            tokens = tuple(drawn[:-1] if reason == "stop" else drawn)
            self._generated += len(tokens)
            logprobs = tuple(result.logprobs[index][: len(tokens)]) if index in result.logprobs else ()
            if reason is not None:
                self._end(sequence, reason, tokens=tokens, logprobs=logprobs)
            elif tokens:
                prompt_logprobs = None
                if sequence.outputs.prompt_logprobs is not None:
                    prompt_logprobs = tuple(sequence.outputs.prompt_logprobs)
                    sequence.outputs.prompt_logprobs = None
                # A caller that ends at a stop string of its own never sees the last delta, so every delta has these counts.
                job = self._jobs[sequence.request_id]
                delta = Delta(
                    sequence.request_id,
                    tokens,
                    logprobs,
                    prompt_logprobs,
                    cached_tokens=sequence.cached_tokens,
                    accepted_tokens=sequence.accepted_tokens,
                    queue_seconds=job.told_queueing(),
                    forgotten_tokens=sequence.forgotten,
                )
                self._send(job, delta)

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        tokens: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
        error: Exception | None = None,
    ) -> None:
        """Removes a request that has left the scheduler and tells its caller."""
        with self._wake:
            job = self._jobs.pop(sequence.request_id)
        if sequence.grammar is not None:
            sequence.grammar.close()
        if isinstance(job.sink, Future):
            _resolve_rows(job.sink, sequence, reason, error)
            return
        prompt_logprobs = None
        if sequence.outputs.prompt_logprobs is not None and reason in ("stop", "length"):
            prompt_logprobs = tuple(sequence.outputs.prompt_logprobs)
        delta = Delta(
            sequence.request_id,
            tokens,
            logprobs,
            prompt_logprobs,
            reason,
            prompt_tokens=sequence.num_prompt,
            cached_tokens=sequence.cached_tokens,
            completion_tokens=sequence.num_generated,
            accepted_tokens=sequence.accepted_tokens,
            error=str(error or ""),
            error_code=error.code or "" if isinstance(error, InvalidRequest) else "",
            queue_seconds=job.told_queueing(),
            forgotten_tokens=sequence.forgotten,
        )
        self._send(job, delta)

    def _send(self, job: _Job, delta: Delta) -> None:
        sink = job.sink
        if isinstance(sink, Mailbox):
            self._outbox.setdefault(sink.loop, []).append((sink, delta))
        elif isinstance(sink, queue.SimpleQueue):
            sink.put(delta)
        else:
            assert not isinstance(sink, Future)
            self._posts.setdefault(sink, []).append(delta)

    def _flush(self) -> None:
        """Delivers a step's deltas with one callback per event loop and one call per outlet, for any number of requests."""
        if self._posts:
            for outlet, deltas in self._posts.items():
                outlet.post(deltas)
            self._posts.clear()
        if self._outbox:
            for loop, mail in self._outbox.items():
                try:
                    loop.call_soon_threadsafe(deliver, mail)
                except RuntimeError:  # the loop is closed, so nobody listens
                    self._inbox.extend(("abort", sequence) for sequence in self._listening_on(loop))
            self._outbox.clear()

    def _listening_on(self, loop: asyncio.AbstractEventLoop) -> list[Sequence]:
        with self._wake:
            return [
                j.sequence for j in self._jobs.values() if isinstance(j.sink, Mailbox) and j.sink.loop is loop
            ]

    def _fail(self, error: Exception, taking_part: list[Sequence]) -> None:
        """Ends the requests that took part in a failed step. If none ran, the waiting requests are ended.

        Some of them may have left the scheduler before the failure.
        """
        scheduler = self._scheduler
        for sequence in [*taking_part, *scheduler.running] or list(scheduler.waiting):
            scheduler.remove(sequence)
            job = self._jobs.get(sequence.request_id)
            if job is not None and job.sequence is sequence:
                self._end(sequence, "error", error=DeepwellError(f"{type(error).__name__}: {error}"))


def _resolve_rows(
    future: Future[NDArray[np.float32]], sequence: Sequence, reason: FinishReason, error: Exception | None
) -> None:
    """Answers a `score` or `embed` call whose sequence has ended."""
    if not future.set_running_or_notify_cancel():
        return
    if reason != "stop":
        future.set_exception(DeepwellError(str(error or "the request was aborted")))
    elif sequence.outputs.scores is not None:
        future.set_result(sequence.outputs.scores)
    else:
        assert sequence.outputs.hidden_sum is not None
        norm = math.sqrt(float(sequence.outputs.hidden_sum @ sequence.outputs.hidden_sum))
        future.set_result((sequence.outputs.hidden_sum / (norm or 1.0)).astype(np.float32))

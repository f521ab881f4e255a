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
from collections.abc import AsyncIterator, Callable, Iterator
from collections.abc import Sequence as Tokens
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backend import KVCache, Model
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.batch_builder import BatchBuilder, output_rows_of
from deepwell.engine.blocks import BlockPool
from deepwell.engine.protocol import (
    Capabilities,
    Delta,
    EngineStats,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenLogprob,
)
from deepwell.engine.sampler import check_params, draw, log_normalizer, token_logprob, uniform
from deepwell.engine.scheduler import NO_TOKEN, Limits, ScheduledStep, Scheduler
from deepwell.engine.sequence import Kind, Sequence
from deepwell.errors import ContextLengthExceeded, DeepwellError, InvalidRequest

__all__ = ["DeltaStream", "InProcessEngine", "SyncDeltaStream"]

_log = logging.getLogger(__name__)


class _Mailbox:
    """The receiving end of an asynchronous request; all but `loop` belongs to that loop's thread."""

    __slots__ = ("loop", "ready", "waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ready: deque[Delta] = deque()
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


@dataclass(slots=True)
class _Job:
    """A live request: its sequence, its receiver, and what its prompt rows have yielded so far."""

    sequence: Sequence
    sink: _Mailbox | queue.SimpleQueue[Delta] | Future[NDArray[np.float32]]
    prompt_logprobs: list[TokenLogprob | None] | None = None
    scores: NDArray[np.float32] | None = None  # [tokens - 1]
    hidden_sum: NDArray[np.float64] | None = None  # [hidden_size]


class DeltaStream(AsyncIterator[Delta]):
    """The deltas of one request, for one event loop.

    A stream that is cancelled, closed or dropped before its end aborts the request within one step.
    """

    def __init__(self, mailbox: _Mailbox, drop: Callable[[], None]) -> None:
        self._mailbox = mailbox
        self._drop = drop
        self._ended = False

    async def __anext__(self) -> Delta:
        mailbox = self._mailbox
        while not mailbox.ready:
            if self._ended:
                raise StopAsyncIteration
            mailbox.waiter = mailbox.loop.create_future()
            try:
                await mailbox.waiter
            except asyncio.CancelledError:
                self._close()
                raise
            finally:
                mailbox.waiter = None
        delta = mailbox.ready.popleft()
        self._ended = delta.finish_reason is not None
        return delta

    async def aclose(self) -> None:
        """Abort the request; nothing more is delivered."""
        self._close()
        self._mailbox.ready.clear()
        self._mailbox.wake()

    def _close(self) -> None:
        if not self._ended:
            self._ended = True
            self._drop()

    def __del__(self) -> None:
        self._close()


class SyncDeltaStream(Iterator[Delta]):
    """The deltas of one request, for a thread without an event loop; closed or dropped, it aborts."""

    def __init__(self, deltas: queue.SimpleQueue[Delta], drop: Callable[[], None]) -> None:
        self._deltas = deltas
        self._drop = drop
        self._ended = False

    def __next__(self) -> Delta:
        if self._ended:
            raise StopIteration
        delta = self._deltas.get()
        self._ended = delta.finish_reason is not None
        return delta

    def close(self) -> None:
        """Abort the request within one step."""
        if not self._ended:
            self._ended = True
            self._drop()

    def __del__(self) -> None:
        self.close()


class InProcessEngine:
    """Runs one model on one thread; every method may be called from any thread.

    Args:
        model: computes the steps.
        cache: the pages the model reads and writes.
        capabilities: what to report; `max_model_len` bounds every sequence and must fit the cache.
        eos_token_ids: tokens that end a sequence unless it ignores them; they are never delivered.
        seed: what the cache's contents depend on besides tokens and salt (weights, precision, dtype of the
            cache).
        limits: how much one step may hold.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        capabilities: Capabilities,
        *,
        eos_token_ids: Tokens[int] = (),
        seed: bytes = b"",
        limits: Limits | None = None,
    ) -> None:
        if capabilities.max_model_len > cache.num_blocks * BLOCK_TOKENS:
            raise DeepwellError(
                f"max_model_len {capabilities.max_model_len} exceeds the cache of "
                f"{cache.num_blocks * BLOCK_TOKENS} tokens",
                fix="give the cache more blocks, or lower the context",
            )
        limits = limits or Limits()
        self._model = model
        self._cache = cache
        self._capabilities = capabilities
        self._eos = frozenset(eos_token_ids)
        self._scheduler = Scheduler(BlockPool(cache.num_blocks, seed=seed), limits)
        max_rows = max(limits.prefill_tokens, limits.mixed_prefill_tokens)
        self._builder = BatchBuilder(limits.max_sequences, max_rows, capabilities.max_model_len)
        self._argmax = np.zeros(limits.max_sequences + max_rows, np.int32)
        self._logits = np.empty((0, capabilities.vocab_size), np.float32)
        self._hidden = np.empty((0, capabilities.hidden_size), np.float32)

        self._wake = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._inbox: deque[tuple[Literal["add", "abort"], Sequence]] = deque()
        self._outbox: dict[asyncio.AbstractEventLoop, list[tuple[_Mailbox, Delta]]] = {}
        self._closed = False
        self._ids = itertools.count()
        self._steps = 0
        self._generated = 0
        self._aborted = 0
        self._busy_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="deepwell-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # else the interpreter dies around a thread that is inside a kernel

    def generate(self, request: GenerateRequest) -> DeltaStream:
        """Continue `request.prompt`; to be called on the event loop that iterates. It is queued at once.

        Raises:
            ContextLengthExceeded: the prompt and `max_tokens` exceed `capabilities().max_model_len`.
            InvalidRequest: an empty prompt, an unknown token id, a parameter out of range, an id already in
                use.
        """
        mailbox = _Mailbox(asyncio.get_running_loop())
        return DeltaStream(mailbox, self._submit_generate(request, mailbox))

    def generate_sync(self, request: GenerateRequest) -> SyncDeltaStream:
        """`generate` for a thread without an event loop."""
        deltas: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        return SyncDeltaStream(deltas, self._submit_generate(request, deltas))

    async def score(self, tokens: Tokens[int]) -> NDArray[np.float32]:
        """Log probability of every token given those before it: [len(tokens) - 1]."""
        sequence = self._sequence("score", tokens)
        job = _Job(sequence, Future(), scores=np.zeros(len(tokens) - 1, np.float32))
        return await self._resolve(job) if len(tokens) > 1 else np.empty(0, np.float32)

    async def embed(self, tokens: Tokens[int]) -> NDArray[np.float32]:
        """Mean of the last hidden states over the tokens, L2-normalised: [hidden_size]."""
        sequence = self._sequence("embed", tokens)
        return await self._resolve(
            _Job(sequence, Future(), hidden_sum=np.zeros(self._capabilities.hidden_size, np.float64))
        )

    def abort(self, request_id: str) -> None:
        """Stop a request within one step; its stream ends with "abort". Unknown ids are ignored."""
        with self._wake:
            job = self._jobs.get(request_id)
            if job is not None:
                self._inbox.append(("abort", job.sequence))
                self._wake.notify()

    def stats(self) -> EngineStats:
        """Counters since start, and gauges of now."""
        scheduler, pool = self._scheduler, self._scheduler.pool
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + sum(kind == "add" for kind, _ in tuple(self._inbox)),
            steps=self._steps,
            prompt_tokens=scheduler.prompt_tokens,
            cached_tokens=scheduler.cached_tokens,
            generated_tokens=self._generated,
            preemptions=scheduler.preemptions,
            aborted=self._aborted,
            blocks_total=pool.num_blocks,
            blocks_used=pool.used,
            blocks_cached=pool.cached,
            busy_seconds=self._busy_seconds,
        )

    def capabilities(self) -> Capabilities:
        """What this engine runs and within what limits."""
        return self._capabilities

    def close(self) -> None:
        """Abort everything and free the model. Further requests are refused; closing twice is fine."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> InProcessEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Submission.

    def _submit_generate(
        self, request: GenerateRequest, sink: _Mailbox | queue.SimpleQueue[Delta]
    ) -> Callable[[], None]:
        """Queue a request; returns what abandons it."""
        params = request.params
        check_params(params, self._capabilities.vocab_size)
        prompt = self._checked(request.prompt, params.max_tokens)
        sequence = Sequence(
            request.request_id,
            prompt,
            params,
            choice=request.choice,
            salt=request.cache_salt,
            eos_token_ids=self._eos,
            seed=random.getrandbits(64) if params.seed is None else params.seed,
        )
        job = _Job(sequence, sink)
        if params.prompt_logprobs is not None:
            job.prompt_logprobs = list[TokenLogprob | None]([None]) * len(prompt)
        self._submit(job)
        inbox = self._inbox

        def abandon() -> None:
            # Without the lock, since garbage collection may run this anywhere. While the sequence lives, the
            # engine is awake and looks at its inbox before each step.
            inbox.append(("abort", sequence))

        return abandon

    def _sequence(self, kind: Kind, tokens: Tokens[int]) -> Sequence:
        prompt = self._checked(tokens, 0)
        return Sequence(f"{kind}-{next(self._ids)}\0", prompt, SamplingParams(max_tokens=0), kind=kind)

    def _checked(self, tokens: Tokens[int], max_tokens: int) -> NDArray[np.int32]:
        """The prompt as an array.

        Raises:
            ContextLengthExceeded: it does not fit, together with `max_tokens`.
            InvalidRequest: it is empty or holds an id outside the vocabulary.
        """
        count, limit = len(tokens), self._capabilities.max_model_len
        if count == 0:
            raise InvalidRequest("the prompt is empty", fix="send at least one token", param="prompt")
        if count + max_tokens > limit:
            fix = f"shorten the prompt by {count + max_tokens - limit} tokens"
            if count < limit:
                fix += f" or ask for max_tokens <= {limit - count}"
            raise ContextLengthExceeded(
                f"the context holds {limit} tokens; the prompt has {count}, max_tokens is {max_tokens}",
                fix=f"{fix}, or start with a larger --context",
                param="max_tokens" if count < limit else "prompt",
            )
        prompt = np.asarray(tokens)
        if prompt.ndim != 1 or prompt.dtype.kind not in "iu":
            raise InvalidRequest("the prompt is not a list of token ids", fix="send integers", param="prompt")
        low, high = int(prompt.min()), int(prompt.max())
        if low < 0 or high >= self._capabilities.vocab_size:
            raise InvalidRequest(
                f"token id {low if low < 0 else high} is not in the vocabulary",
                fix=f"use ids from 0 to {self._capabilities.vocab_size - 1}",
                param="prompt",
            )
        return prompt.astype(np.int32)

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

    async def _resolve(self, job: _Job) -> NDArray[np.float32]:
        assert isinstance(job.sink, Future)
        self._submit(job)
        try:
            return await asyncio.wrap_future(job.sink)
        except asyncio.CancelledError:
            self._inbox.append(("abort", job.sequence))
            raise

    # The engine thread.

    def _run(self) -> None:
        inbox, scheduler = self._inbox, self._scheduler
        while True:
            if not inbox and not scheduler.has_work:
                with self._wake:
                    while not inbox and not self._closed:
                        self._wake.wait()
            if self._closed:
                break
            while inbox:
                command, sequence = inbox.popleft()
                if command == "add":
                    scheduler.add(sequence)
                elif scheduler.remove(sequence):
                    self._aborted += 1
                    self._end(sequence, "abort")
            if scheduler.has_work:
                started = time.perf_counter()
                try:
                    self._step()
                except (
                    Exception
                ) as error:  # whatever the model raised: its requests fail, the engine lives on
                    _log.exception("an engine step failed")
                    self._fail(error)
                self._busy_seconds += time.perf_counter() - started
            self._flush()
        with self._wake:
            jobs = list(self._jobs.values())
        for job in jobs:
            self._end(job.sequence, "abort")
        self._flush()
        del self._model, self._cache

    def _step(self) -> None:
        scheduler = self._scheduler
        step = scheduler.schedule()
        batch = self._builder.build(step)
        logprobs: dict[int, TokenLogprob] = {}
        errors: dict[int, str] = {}
        if step.decoding == len(step.sequences) and not any(s.needs_logits for s in step.sequences):
            argmax = self._argmax[: step.decoding]
            self._model.forward(batch, self._cache, argmax=argmax)
            tokens = argmax.tolist()
        else:
            tokens = self._execute(step, batch, logprobs, errors)
        self._steps += 1

        reasons = scheduler.commit(step, tokens)
        for index, (sequence, token, reason) in enumerate(zip(step.sequences, tokens, reasons, strict=True)):
            if index in errors:
                scheduler.remove(sequence)
                self._end(sequence, "error", error=errors[index])
            elif reason == "stop" or (reason is not None and token == NO_TOKEN):
                self._end(sequence, reason)
            elif token != NO_TOKEN:
                self._generated += 1
                found = (logprobs[index],) if logprobs and index in logprobs else ()
                if reason is not None:
                    self._end(sequence, reason, tokens=(token,), logprobs=found)
                else:
                    self._emit(sequence, (token,), found)

    def _execute(
        self, step: ScheduledStep, batch: Batch, logprobs: dict[int, TokenLogprob], errors: dict[int, str]
    ) -> list[int]:
        """A step with prompts or sampling: run the model, use every output row, return the tokens."""
        sequences = step.sequences
        spans = [output_rows_of(s, n) for s, n in zip(sequences, step.counts, strict=True)]
        outputs = len(batch.output_rows)
        logits = hidden = targets = scores = None
        if any(n and s.needs_logits for s, n in zip(sequences, spans, strict=True)):
            if len(self._logits) < outputs:
                self._logits = np.empty((outputs, self._capabilities.vocab_size), np.float32)
            logits = self._logits[:outputs]
        if any(s.kind == "embed" for s in sequences):
            if len(self._hidden) < outputs:
                self._hidden = np.empty((outputs, self._capabilities.hidden_size), np.float32)
            hidden = self._hidden[:outputs]
        if any(s.kind == "score" for s in sequences):
            targets, scores = np.zeros(outputs, np.int32), np.empty(outputs, np.float32)
            row = 0
            for sequence, span in zip(sequences, spans, strict=True):
                if sequence.kind == "score":
                    first = sequence.computed + 1
                    targets[row : row + span] = sequence.tokens[first : first + span]
                row += span
        argmax = None
        if any(
            n and s.kind == "generate" and not s.needs_logits for s, n in zip(sequences, spans, strict=True)
        ):
            argmax = self._argmax[:outputs]
        self._model.forward(
            batch,
            self._cache,
            logits=logits,
            argmax=argmax,
            hidden=hidden,
            targets=targets,
            target_logprobs=scores,
        )

        tokens: list[int] = []
        row = 0
        for index, (sequence, count, span) in enumerate(zip(sequences, step.counts, spans, strict=True)):
            rows = slice(row, row + span)
            row += span
            token = NO_TOKEN
            job = self._jobs[sequence.request_id]
            start = sequence.computed
            if sequence.kind == "score":
                assert job.scores is not None
                assert scores is not None
                job.scores[start : start + span] = scores[rows]
            elif sequence.kind == "embed":
                assert job.hidden_sum is not None
                assert hidden is not None
                if start == 0:  # the first chunk, or the first after a preemption
                    job.hidden_sum[:] = 0
                for state in hidden[rows]:  # one by one: the sum does not depend on the chunks
                    job.hidden_sum += state
            elif span and sequence.needs_logits:
                assert logits is not None
                try:
                    if job.prompt_logprobs is not None:
                        self._score_prompt(job, job.prompt_logprobs, logits[rows])
                    if sequence.draws and start + count == sequence.num_tokens:
                        token, found = self._draw(sequence, logits[row - 1])
                        if found is not None:
                            logprobs[index] = found
                except Exception as error:  # one request's numbers: the others go on
                    _log.exception("sampling failed for request %s", sequence.request_id)
                    errors[index] = str(error)
                    token = NO_TOKEN
            elif span:
                assert argmax is not None
                token = int(argmax[row - 1])
            tokens.append(token)
        return tokens

    def _score_prompt(self, job: _Job, found: list[TokenLogprob | None], logits: NDArray[np.float32]) -> None:
        sequence = job.sequence
        top = sequence.params.prompt_logprobs or 0
        for position, row in enumerate(logits, sequence.computed + 1):
            if position < sequence.num_prompt:
                found[position] = token_logprob(row, log_normalizer(row), int(sequence.tokens[position]), top)

    def _draw(self, sequence: Sequence, logits: NDArray[np.float32]) -> tuple[int, TokenLogprob | None]:
        params = sequence.params
        token = draw(
            logits,
            params,
            tokens=sequence.tokens[: sequence.num_tokens],
            num_prompt=sequence.num_prompt,
            masked=sequence.stop_ids,
            u=uniform(sequence.seed, sequence.choice, sequence.num_tokens),
        )
        if params.logprobs is None:
            return token, None
        return token, token_logprob(logits, log_normalizer(logits), token, params.logprobs)

    def _emit(self, sequence: Sequence, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]) -> None:
        job = self._jobs[sequence.request_id]
        prompt_logprobs = job.prompt_logprobs
        if prompt_logprobs is None:
            delta = Delta(sequence.request_id, tokens, logprobs)
        else:
            job.prompt_logprobs = None
            delta = Delta(sequence.request_id, tokens, logprobs, tuple(prompt_logprobs))
        self._send(job, delta)

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        tokens: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
        error: str = "",
    ) -> None:
        """Forget a request that has left the scheduler and tell its caller."""
        with self._wake:
            job = self._jobs.pop(sequence.request_id)
        if isinstance(job.sink, Future):
            self._end_rows(job, job.sink, reason, error)
            return
        self._send(
            job,
            Delta(
                sequence.request_id,
                tokens,
                logprobs,
                None if job.prompt_logprobs is None or error else tuple(job.prompt_logprobs),
                reason,
                sequence.num_prompt,
                sequence.cached_tokens,
                sequence.num_generated,
                error,
            ),
        )

    def _end_rows(
        self, job: _Job, future: Future[NDArray[np.float32]], reason: FinishReason, error: str
    ) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if reason != "stop":
            future.set_exception(DeepwellError(error or "the request was aborted"))
        elif job.scores is not None:
            future.set_result(job.scores)
        else:
            assert job.hidden_sum is not None
            norm = math.sqrt(float(job.hidden_sum @ job.hidden_sum))
            future.set_result((job.hidden_sum / (norm or 1.0)).astype(np.float32))

    def _send(self, job: _Job, delta: Delta) -> None:
        sink = job.sink
        if isinstance(sink, _Mailbox):
            self._outbox.setdefault(sink.loop, []).append((sink, delta))
        else:
            assert isinstance(sink, queue.SimpleQueue)
            sink.put(delta)

    def _flush(self) -> None:
        """One callback a step for each event loop, whatever the number of requests."""
        if self._outbox:
            for loop, mail in self._outbox.items():
                try:
                    loop.call_soon_threadsafe(_deliver, mail)
                except RuntimeError:  # the loop is closed: nobody listens
                    self._inbox.extend(("abort", sequence) for sequence in self._listening_on(loop))
            self._outbox.clear()

    def _listening_on(self, loop: asyncio.AbstractEventLoop) -> list[Sequence]:
        with self._wake:
            return [
                j.sequence
                for j in self._jobs.values()
                if isinstance(j.sink, _Mailbox) and j.sink.loop is loop
            ]

    def _fail(self, error: Exception) -> None:
        """End the requests that took part in a failed step; if none ran, the queue was at fault."""
        scheduler = self._scheduler
        for sequence in list(scheduler.running or scheduler.waiting):
            scheduler.remove(sequence)
            if sequence.request_id in self._jobs:
                self._end(sequence, "error", error=f"{type(error).__name__}: {error}")


def _deliver(mail: list[tuple[_Mailbox, Delta]]) -> None:
    for mailbox, delta in mail:
        mailbox.ready.append(delta)
        mailbox.wake()

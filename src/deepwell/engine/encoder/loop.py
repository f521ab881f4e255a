"""`EncoderEngine`: an encoder behind the `Engine` protocol. It embeds text and cannot generate."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence as Tokens
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.encoder_backend import Encoder
from deepwell.engine.prompts import token_array
from deepwell.engine.protocol import AdapterInfo, Capabilities, EngineStats, GenerateRequest, Grammar, Window
from deepwell.engine.streams import DeltaStream, SyncDeltaStream
from deepwell.errors import ContextLengthExceeded, DeepwellError, InvalidRequest
from deepwell.process.progress import Progress
from deepwell.process.turns import Turn

__all__ = ["EncoderEngine", "EncoderLimits"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderLimits:
    """Limits of one step. A request that exceeds its tokens by itself gets a step of its own."""

    tokens: int = 4096  # about 0.2 s of MiniLM on two cores, which is the longest wait of a new request
    shared_tokens: int = 1024  # if another model waits for the cores
    sequences: int = 512


@dataclass(slots=True)
class _Job:
    tokens: NDArray[np.int32]
    future: Future[NDArray[np.float32]]


class EncoderEngine:
    """Runs one encoder on one thread. Every method may be called from any thread.

    Waiting requests share a step, in order of arrival. A vector does not depend on the other requests of its step.

    Args:
        turn: makes the steps of several engine processes take turns; None: this one has the cores for itself.
    """

    def __init__(
        self,
        model: Encoder,
        capabilities: Capabilities,
        *,
        limits: EncoderLimits | None = None,
        turn: Turn | None = None,
    ) -> None:
        self._model: Encoder | None = model
        self._turn = turn
        self._capabilities = capabilities
        self._limits = limits or EncoderLimits()
        self.progress = Progress.private()  # a host replaces it by counters that its supervisor reads
        self._wake = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running = 0
        self._closed = False
        self._steps = self._tokens = self._aborted = 0
        self._busy_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="deepwell-encoder", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # otherwise the interpreter exits while the thread runs a kernel

    def generate(self, request: GenerateRequest) -> DeltaStream:
        """Raises `InvalidRequest`, because an encoder predicts no next token.

        Raises:
            InvalidRequest: always; the fix names the alternatives.
        """
        raise self._no_text()

    def generate_sync(self, request: GenerateRequest) -> SyncDeltaStream:
        """Raises `InvalidRequest`, as `generate` does."""
        raise self._no_text()

    async def score(
        self, tokens: Tokens[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        """Raises `InvalidRequest`, because the tokens of an encoder also attend to later ones."""
        raise self._no_text()

    async def prepare(self, grammar: Grammar, *, tenant: str = "", cache_salt: str = "") -> None:
        """Raises `InvalidRequest`, because an encoder takes no grammar.

        Raises:
            InvalidRequest: always.
        """
        raise self._no_text()

    async def embed(self, tokens: Tokens[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Returns the pooled hidden states, L2-normalised: [hidden_size]. A call that is cancelled in time is not computed.

        Raises:
            ContextLengthExceeded: there are more tokens than the model has positions.
            InvalidRequest: there are no tokens, one is outside the vocabulary, or an adapter is named.
        """
        if adapter:
            raise self._no_adapters()
        job = _Job(self._checked(tokens), Future())
        with self._wake:
            if self._closed:
                raise DeepwellError("the engine is closed", fix="start it again")
            self._waiting.append(job)
            self._wake.notify()
        return await asyncio.wrap_future(job.future)

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Raises `InvalidRequest`, because only decoders take adapters."""
        raise self._no_adapters()

    def unload_adapter(self, name: str) -> None:
        """Raises `InvalidRequest`, as `load_adapter` does."""
        raise self._no_adapters()

    def adapters(self) -> Tokens[AdapterInfo]:
        """Returns no adapters."""
        return ()

    def abort(self, request_id: str) -> None:
        """Does nothing, because embeddings have no ids. Cancel the call instead."""

    def stats(self) -> EngineStats:
        """Returns counters since start and current gauges."""
        return EngineStats(
            running=self._running,
            waiting=len(self._waiting),
            steps=self._steps,
            prompt_tokens=self._tokens,
            aborted=self._aborted,
            busy_seconds=self._busy_seconds,
        )

    def capabilities(self) -> Capabilities:
        """Returns the model that this engine runs and its limits."""
        return self._capabilities

    def close(self) -> None:
        """Fails waiting requests and frees the model. Further requests are refused; closing twice is harmless."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> EncoderEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _no_text(self) -> InvalidRequest:
        return InvalidRequest(
            f"{self._capabilities.model} is an encoder: it embeds text and generates none",
            fix="call embed, or load a decoder such as smollm2",
            param="model",
        )

    def _no_adapters(self) -> InvalidRequest:
        return InvalidRequest(
            f"{self._capabilities.model} is an encoder: it takes no adapters",
            fix="load them into a decoder",
            param="model",
        )

    def _checked(self, tokens: Tokens[int]) -> NDArray[np.int32]:
        count, limit = len(tokens), self._capabilities.max_model_len
        if count == 0:
            raise InvalidRequest("the input is empty", fix="send at least one token", param="input")
        if count > limit:
            raise ContextLengthExceeded(
                f"the model reads {limit} tokens; the input has {count}",
                fix=f"shorten the input by {count - limit} tokens, or split it",
                param="input",
            )
        return token_array(tokens, self._capabilities.vocab_size, "input")

    def _run(self) -> None:
        """Runs the engine thread."""
        try:
            while self._wait_for_work():
                if self._turn is not None:
                    self._turn.take(self.progress)
                if jobs := self._next_step():
                    started = time.perf_counter()
                    self.progress.begin()
                    self._step(jobs)
                    self.progress.step()
                    self._busy_seconds += time.perf_counter() - started
                    self._running = 0
                if self._turn is not None:
                    self._turn.offer(idle=not self._waiting)
        finally:
            if self._turn is not None:
                self._turn.close()
            with self._wake:
                self._closed = True
                left = list(self._waiting)
                self._waiting.clear()
            for job in left:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(DeepwellError("the request was aborted: the engine is closed"))
                self._aborted += 1
            self._model = None

    def _wait_for_work(self) -> bool:
        """Sleeps until there is work; returns False once the engine is closed."""
        with self._wake:
            while not self._waiting and not self._closed:
                self.progress.rest()
                self._wake.wait()
        return not self._closed

    def _next_step(self) -> list[_Job]:
        """Returns the jobs of one step; empty if all that waited were cancelled."""
        jobs: list[_Job] = []
        total = 0
        others_wait = self._turn is not None and self._turn.others_wait()
        most = self._limits.shared_tokens if others_wait else self._limits.tokens
        with self._wake:
            while self._waiting and len(jobs) < self._limits.sequences:
                count = len(self._waiting[0].tokens)
                if jobs and total + count > most:
                    break
                job = self._waiting.popleft()
                if job.future.set_running_or_notify_cancel():
                    jobs.append(job)
                    total += count
                else:
                    self._aborted += 1
            self._running = len(jobs)
        return jobs

    def _step(self, jobs: list[_Job]) -> None:
        """Computes one step. An exception of the model fails the requests of the step, and the engine continues."""
        assert self._model is not None
        try:
            starts = np.cumsum([0, *(len(job.tokens) for job in jobs)], dtype=np.int32)
            vectors = np.empty((len(jobs), self._capabilities.hidden_size), np.float32)
            self._model.forward(np.concatenate([job.tokens for job in jobs]), starts, pooled=vectors)
        except Exception as error:
            _log.exception("an encoder step failed")
            for job in jobs:
                job.future.set_exception(DeepwellError(f"{type(error).__name__}: {error}"))
            return
        self._steps += 1
        self._tokens += int(starts[-1])
        for job, vector in zip(jobs, vectors, strict=True):
            job.future.set_result(vector.copy())

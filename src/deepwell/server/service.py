"""What the routes share: one engine, its text side, and the way from a checked request to a stream of updates."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from deepwell.engine.protocol import Engine, Grammar, SamplingParams
from deepwell.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound
from deepwell.server.admission import Gate
from deepwell.server.auth import KeyRing
from deepwell.server.completion import Choice, Update, complete, merge
from deepwell.server.file_options import FileOptions
from deepwell.server.limits import Limiter, LimitsConfig
from deepwell.server.metrics import Metrics
from deepwell.server.observe import Observer
from deepwell.server.observe.meter import Meter
from deepwell.server.observe.record import current
from deepwell.server.replay import Replays
from deepwell.server.response_cache import AnswerKey, ResponseCache
from deepwell.server.schema import GenerationRequest
from deepwell.server.semantic_cache import (
    SemanticCache,
    SemanticOptions,
    embed_with,
    is_limited,
    replayed,
    shelf_of,
)
from deepwell.server.shared_answers import SharedAnswers
from deepwell.server.sse import Stop
from deepwell.server.state import State
from deepwell.server.text import Codec
from deepwell.server.ticket import current_ticket
from deepwell.storage.database import Database
from deepwell.storage.keys import KeyStore
from deepwell.version import deepwell_version

__all__ = ["Service"]

_INLINE_CHARACTERS = (
    20_000  # tokenised in about 10 ms; longer texts would hold up every stream of the event loop
)


class Service:
    """One served model, and beside it perhaps one that embeds (`embedder`)."""

    def __init__(
        self,
        engine: Engine,
        codec: Codec,
        *,
        model: str,
        max_body_bytes: int = 8 << 20,
        api_keys: Sequence[SecretStr] = (),
        response_cache_bytes: int = 0,
        adapter_dir: Path | None = None,
        embedder: Service | None = None,
        database: Database | None = None,
        observer: Observer | None = None,
        semantic: SemanticOptions | None = None,
        limits: LimitsConfig | None = None,
        response_cache_ttl_s: float = float("inf"),
        files: FileOptions | None = None,
        client_timeout_s: float = 30.0,
        worker: int = 0,
    ) -> None:
        self.engine = engine
        self.codec = codec
        self.model = model
        self.max_body_bytes = max_body_bytes
        self.client_timeout_s = client_timeout_s
        self.worker = worker  # number of this HTTP process; what only one may do is done by 0
        self.adapter_dir = adapter_dir  # what clients may load adapters from; None: nothing
        self.capabilities = engine.capabilities()
        self.created = int(time.time())
        self.observer = observer or Observer()
        self.embedder = embedder
        if embedder is not None and embedder.model == model:
            raise InvalidRequest(
                f"two models are called {model!r}",
                fix="leave --embedding-model out: a decoder embeds as well",
            )
        engines = {one.model: one.engine for one in self.served}
        self.metrics = Metrics(engines)
        self.observer.on_lost = self.metrics.dropped_records.inc
        if embedder is not None:
            embedder.metrics = self.metrics  # what it counts is shown here
        self.limiter = Limiter(limits or LimitsConfig(), self.metrics)
        self.gate = Gate(engine, self.limiter.config.max_wait_s)
        self.files = files or FileOptions()
        self.kept = asyncio.Event()  # there is a state
        self._state: State | None = None
        if database is not None:
            self._keep(database)
        self.keys = KeyRing(api_keys, KeyStore(database) if database is not None else None)
        self.draining = False
        self.stopped = Stop()
        self.fingerprint = self._fingerprint()
        shared = self.limiter.shared
        exchange = None if shared is None else SharedAnswers(shared, response_cache_ttl_s)
        self.response_cache = (
            ResponseCache(
                response_cache_bytes * 3 // 4,
                self.metrics.count_lookup,
                ttl_s=response_cache_ttl_s,
                exchange=exchange,
            )
            if response_cache_bytes
            else None
        )
        self.replays = Replays(response_cache_bytes // 4) if response_cache_bytes else None
        self.semantic = None
        if semantic is not None:
            if embedder is None:
                raise InvalidRequest(
                    "the semantic cache needs a second model, which embeds questions",
                    fix="name one: --embedding-model minilm",
                )
            self.semantic = SemanticCache(embed_with(embedder), semantic, on_lookup=self.metrics.count_lookup)

    def _fingerprint(self) -> str:
        """Equal fingerprints give equal tokens for equal requests with a seed."""
        runs = self.capabilities
        parts = (deepwell_version(), self.model, runs.architecture, runs.precision, runs.backend, runs.isa)
        return (
            "fp_"
            + hashlib.sha256(
                "\0".join((*parts, str(runs.weights_bytes), runs.weights_hash)).encode()
            ).hexdigest()[:10]
        )

    @property
    def state(self) -> State:
        """What is kept between requests; without a database of its own, until the service is gone."""
        return self._state or self._keep(Database.temporary())

    def _keep(self, database: Database) -> State:
        self._state = State(database, self.files.folder, recover=self.worker == 0)
        self.kept.set()
        return self._state

    async def close_state(self) -> None:
        """End background work and close the database."""
        await self.keys.close()
        await self.limiter.close()
        if self._state is not None:
            await self._state.close()

    def stop(self) -> None:
        """End every answer in flight; called on the event loop's thread."""
        self.draining = True
        self.stopped.set()

    @property
    def served(self) -> list[Service]:
        """Every model that is served here."""
        return [self] if self.embedder is None else [self, self.embedder]

    def find(self, name: str) -> tuple[Service, str]:
        """The served model of this name; for an adapter's name its base and that name, else an empty one.

        Raises:
            ModelNotFound: there is none; the fix names those there are.
        """
        names: list[str] = []
        for service in self.served:
            if service.model == name:
                return service, ""
            adapters = [adapter.name for adapter in service.engine.adapters()]
            if name in adapters:
                return service, name
            names += [service.model, *adapters[:8]]
        served = " or ".join(map(repr, names))
        raise ModelNotFound(f"the model {name!r} is not served here", fix=f"use {served}", param="model")

    def require_model(self, name: str) -> str:
        """The adapter that a model name stands for, empty for the base; an encoder is refused where text is to be generated."""
        service, adapter = self.find(name)
        if not service.capabilities.generates:
            fix = "send it to /v1/embeddings"
            if self.capabilities.generates:
                fix += f", or use {self.model!r}"
            raise InvalidRequest(f"{name!r} embeds text and generates none", fix=fix, param="model")
        if service is not self:
            raise InvalidRequest(
                f"{name!r} is served for embeddings alone",
                fix=f"send it to /v1/embeddings, or use {self.model!r}",
                param="model",
            )
        return adapter

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Tokens of a conversation."""
        encode = partial(self.codec.encode_chat, messages, tools=tools, **variables)
        if sum(len(message["content"] or "") for message in messages) > _INLINE_CHARACTERS or tools:
            return await asyncio.to_thread(encode)
        return encode()

    async def prepare(self, grammar: Grammar, param: str) -> None:
        """Compile a grammar off the event loop.

        Raises:
            InvalidRequest: it does not compile, or holds what is not supported; `param` is the one given.
        """
        try:
            await self.engine.prepare(grammar)
        except InvalidRequest as error:
            error.param = param
            raise

    async def encode_prompts(self, prompts: Sequence[str | list[int]], param: str) -> list[list[int]]:
        """Tokens of every prompt, given as text or as tokens."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if sum(map(len, texts)) > _INLINE_CHARACTERS:  # many short texts take as long as a long one
            tokenised = await asyncio.to_thread(lambda: [self.codec.encode(text) for text in texts])
        else:
            tokenised = [self.codec.encode(text) for text in texts]
        from_text = iter(tokenised)
        encoded: list[list[int]] = []
        for index, prompt in enumerate(prompts):
            tokens = next(from_text) if isinstance(prompt, str) else prompt
            where = f"{param}[{index}]" if len(prompts) > 1 else param
            if not tokens:
                raise InvalidRequest(f"{where!r} is empty", fix="send at least one token", param=param)
            if max(tokens) >= self.codec.vocab_size:
                raise InvalidRequest(
                    f"{where!r} holds token {max(tokens)}",
                    fix=f"the vocabulary has tokens 0 to {self.codec.vocab_size - 1}",
                    param=param,
                )
            encoded.append(tokens)
        return encoded

    def room(self, prompt_tokens: int, max_tokens: int | None, param: str) -> int:
        """Tokens that may be generated behind the prompt; `max_tokens` itself, where it is given and fits.

        Raises:
            ContextLengthExceeded: nothing is ever cut to make it fit.
        """
        window = self.capabilities.max_model_len
        left = window - prompt_tokens
        if left < 1:
            raise ContextLengthExceeded(
                f"this model's maximum context length is {window} tokens, but the {param} has {prompt_tokens}",
                fix=f"shorten the {param} to at most {window - 1} tokens",
                param=param,
            )
        if max_tokens is None:
            return left
        if max_tokens > left:
            raise ContextLengthExceeded(
                f"this model's maximum context length is {window} tokens, but {prompt_tokens + max_tokens} were asked "
                f"for ({prompt_tokens} in the {param}, {max_tokens} in the completion)",
                fix=f"shorten the {param}, or lower max_tokens to at most {left}",
                param=param,
            )
        return max_tokens

    def sampling(
        self,
        request: GenerationRequest,
        max_tokens: int,
        *,
        logprobs: int | None,
        prompt_logprobs: int | None = None,
    ) -> SamplingParams:
        """The engine's parameters; what the request leaves out keeps OpenAI's default."""
        outside = [token for token in request.logit_bias if not 0 <= token < self.codec.vocab_size]
        if outside:
            raise InvalidRequest(
                f"logit_bias names token {outside[0]}",
                fix=f"the vocabulary has tokens 0 to {self.codec.vocab_size - 1}",
                param="logit_bias",
            )
        min_tokens = request.min_tokens or 0
        if min_tokens > max_tokens:
            raise InvalidRequest(
                f"min_tokens {min_tokens} is more than the {max_tokens} tokens that may be generated",
                fix="lower min_tokens",
                param="min_tokens",
            )
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            temperature=_given(request.temperature, 1.0),
            top_k=max(request.top_k or 0, 0),
            # The smallest set that holds a share of 0 is the most likely token, as with any tiny share.
            top_p=max(_given(request.top_p, 1.0), 1e-9),
            min_p=request.min_p or 0.0,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            repetition_penalty=_given(request.repetition_penalty, 1.0),
            logit_bias=request.logit_bias,
            seed=request.seed,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            stop_token_ids=tuple(request.stop_token_ids or ()),
            ignore_eos=bool(request.ignore_eos),
        )

    async def updates(self, choices: Sequence[Choice]) -> AsyncGenerator[Update, None]:
        """Run the choices together, timed."""
        meter = Meter(self.metrics, self.model, choices)
        try:
            ways = [await self._way(choice) for choice in choices]
            made = [way.choice for way in ways if way.found is None and not way.kept]
            async with (
                self.gate.generation(made) as used,
                aclosing(merge([self._stream(way) for way in ways])) as updates,
            ):
                async for update in updates:
                    used.count(update)
                    meter.take(update)
                    yield update
        except BaseException as failure:
            meter.end(failure)
            raise
        meter.end()

    def _answer_key(self, choice: Choice) -> AnswerKey | None:
        """Under what the answer to a choice is kept; None: it is not."""
        ticket = current_ticket()
        if self.response_cache is None or (ticket is not None and ticket.cache == "off"):
            return None
        return AnswerKey.of(choice, fingerprint=self.fingerprint, adapter=self._adapter_digest(choice))

    def _adapter_digest(self, choice: Choice) -> str:
        name = choice.request.adapter
        if not name:
            return ""
        loaded = {adapter.name: adapter.digest for adapter in self.engine.adapters()}
        return loaded.get(name, name)

    async def _way(self, choice: Choice) -> _Way:
        """How a choice is to be answered.

        The engine is asked under the request's id: whoever reads its log finds the request.
        """
        if (record := current()) is not None:
            named = f"{record.request_id}/{choice.request.request_id}"
            choice = replace(choice, request=replace(choice.request, request_id=named))
        key, cache, semantic, ticket = (
            self._answer_key(choice),
            self.response_cache,
            self.semantic,
            current_ticket(),
        )
        kept = key is not None and cache is not None and await cache.keeps(key)
        use = "use" if ticket is None else ticket.cache
        if kept or semantic is None or choice.question is None or use == "off":
            return _Way(choice, key, kept)
        shelf = shelf_of(
            choice,
            choice.question,
            fingerprint=self.fingerprint,
            adapter=self._adapter_digest(choice),
            window=self.capabilities.max_model_len,
        )
        found = None
        if shelf is not None and use == "use":
            found = await semantic.find(shelf, choice.question.text)
        if found is not None and ticket is not None:
            ticket.lookups.append("semantic")
        return _Way(choice, key, kept, shelf, found)

    def _stream(self, way: _Way) -> AsyncGenerator[Update, None]:
        """One choice, generated or reused."""
        choice, cache, semantic = way.choice, self.response_cache, self.semantic
        if way.found is not None:
            return replayed(way.found, choice)

        def generate() -> AsyncGenerator[Update, None]:
            return complete(self.engine, self.codec, choice)

        stream = (
            generate() if cache is None or way.key is None else cache.stream(way.key, choice.index, generate)
        )
        if semantic is None or way.shelf is None or choice.question is None:
            return stream
        limited = is_limited(choice, self.capabilities.max_model_len)
        return semantic.keeping(way.shelf, choice.question.text, stream, limited=limited)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a choice is answered.

    `kept` by the exact cache under `key`, `found` by the semantic one on `shelf`, else by the engine.
    """

    choice: Choice
    key: AnswerKey | None
    kept: bool = False
    shelf: AnswerKey | None = None
    found: tuple[Update, ...] | None = None


def _given(value: float | None, default: float) -> float:
    return default if value is None else value

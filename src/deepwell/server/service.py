"""What the routes share: one engine, its text side, and the way from a checked request to a stream of updates."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import SecretStr

from deepwell.engine.protocol import Engine, Grammar, SamplingParams
from deepwell.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound
from deepwell.server.completion import Choice, Update, complete, merge
from deepwell.server.metrics import Metrics
from deepwell.server.response_cache import AnswerKey, ResponseCache
from deepwell.server.schema import GenerationRequest
from deepwell.server.state import State
from deepwell.server.text import Codec
from deepwell.storage.database import Database
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
    ) -> None:
        self.engine = engine
        self.codec = codec
        self.model = model
        self.max_body_bytes = max_body_bytes
        self.api_keys = tuple(api_keys)
        self.adapter_dir = adapter_dir  # what clients may load adapters from; None: nothing
        self.capabilities = engine.capabilities()
        self.created = int(time.time())
        self.metrics = Metrics(engine)
        self.embedder = embedder
        if embedder is not None and embedder.model == model:
            raise InvalidRequest(
                f"two models are called {model!r}",
                fix="leave --embedding-model out: a decoder embeds as well",
            )
        self._state = State(database) if database is not None else None
        self.draining = False
        self.stopped = asyncio.Event()
        self.fingerprint = self._fingerprint()
        self.response_cache = (
            ResponseCache(response_cache_bytes, self.metrics.count_lookup) if response_cache_bytes else None
        )

    def _fingerprint(self) -> str:
        """Equal fingerprints give equal tokens for equal requests with a seed."""
        runs = self.capabilities
        parts = (deepwell_version(), self.model, runs.architecture, runs.precision, runs.backend, runs.isa)
        return "fp_" + hashlib.sha256("\0".join((*parts, str(runs.weights_bytes))).encode()).hexdigest()[:10]

    @property
    def state(self) -> State:
        """What is kept between requests; without a database of its own, until the service is gone."""
        if self._state is None:
            self._state = State(Database.temporary())
        return self._state

    async def close_state(self) -> None:
        """End background work and close the database."""
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
        last: dict[int, float] = {}
        begin = perf_counter()
        async with aclosing(merge([self._stream(choice) for choice in choices])) as updates:
            async for update in updates:
                now = perf_counter()
                if update.index in last:
                    self.metrics.inter_token.observe(now - last[update.index])
                elif not last:
                    self.metrics.first_token.observe(now - begin)
                last[update.index] = now
                yield update

    def _stream(self, choice: Choice) -> AsyncGenerator[Update, None]:
        """One choice, generated or reused."""
        cache = self.response_cache
        if cache is not None:
            loaded = {adapter.name: adapter.digest for adapter in self.engine.adapters()}
            name = choice.request.adapter
            key = AnswerKey.of(choice, fingerprint=self.fingerprint, adapter=loaded.get(name, name))
            if key is not None:
                return cache.stream(key, choice.index, lambda: complete(self.engine, self.codec, choice))
        return complete(self.engine, self.codec, choice)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value

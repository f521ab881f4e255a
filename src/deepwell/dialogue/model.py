"""`ServedModel`: one model with its engine and its text side, and what a request to it must satisfy."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import Engine, Grammar, SamplingParams
from deepwell.errors import ContextLengthExceeded, InvalidRequest
from deepwell.models.store.sampling import OPENAI, SamplingDefaults
from deepwell.version import deepwell_version

__all__ = ["SamplingOptions", "ServedModel", "Task"]

Task = Literal["generate", "embed"]
"""A purpose that a model is served for."""

# So many characters are tokenised in about 10 ms. A longer text would stall every stream of the event loop.
_INLINE_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """The sampling parameters of a request. None means the model's default, which is OpenAI's or vLLM's if none is declared."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    seed: int | None = None
    min_tokens: int | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool | None = None


class ServedModel:
    """A model under the name that requests use for it.

    Args:
        name: name of the base model. Its adapters have names of their own.
        tasks: tasks that the model is served for. A request for another task is refused, even if the model could do it.
        defaults: sampling parameters of requests that do not give them.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        codec: Codec,
        *,
        tasks: Collection[Task] = ("generate", "embed"),
        defaults: SamplingDefaults = OPENAI,
    ) -> None:
        self.name = name
        self.engine = engine
        self.codec = codec
        self.tasks = frozenset(tasks)
        self.defaults = defaults
        self.capabilities = engine.capabilities()
        self.created = int(time.time())
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        """Returns a digest. While it is the same, equal requests with a seed give equal tokens."""
        runs = self.capabilities
        parts = (deepwell_version(), self.name, runs.architecture, runs.precision, runs.backend, runs.isa)
        text = "\0".join((*parts, str(runs.weights_bytes), runs.weights_hash))
        if self.defaults != OPENAI:
            text += f"\0{self.defaults}"
        return f"fp_{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def adapter_digest(self, name: str) -> str:
        """Returns the digest of an adapter's weights: empty for the base model, the name if the adapter is not loaded."""
        if not name:
            return ""
        loaded = {adapter.name: adapter.digest for adapter in self.engine.adapters()}
        return loaded.get(name, name)

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Returns the tokens of a conversation. One that is long or has tools is tokenised off the event loop."""
        encode = partial(self.codec.encode_chat, messages, tools=tools, **variables)
        if sum(len(message["content"] or "") for message in messages) > _INLINE_CHARACTERS or tools:
            return await asyncio.to_thread(encode)
        return encode()

    async def prepare(self, grammar: Grammar, param: str) -> None:
        """Compiles a grammar off the event loop.

        Raises:
            InvalidRequest: the grammar does not compile, or uses an unsupported feature. `param` is the one given.
        """
        try:
            await self.engine.prepare(grammar)
        except InvalidRequest as error:
            error.param = param
            raise

    async def encode_prompts(self, prompts: Sequence[str | list[int]], param: str) -> list[list[int]]:
        """Returns the tokens of every prompt, given as text or as tokens."""
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
        """Returns the number of tokens that may be generated after a prompt: `max_tokens`, or all that fit if it is None.

        Raises:
            ContextLengthExceeded: the prompt or `max_tokens` does not fit. Nothing is ever cut to make it fit.
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
        options: SamplingOptions,
        max_tokens: int,
        *,
        logprobs: int | None,
        prompt_logprobs: int | None = None,
    ) -> SamplingParams:
        """Returns the engine's parameters for a request's options; those it leaves out are the model's defaults.

        Raises:
            InvalidRequest: `logit_bias` names a token outside the vocabulary, or `min_tokens` exceeds `max_tokens`.
        """
        outside = [token for token in options.logit_bias if not 0 <= token < self.codec.vocab_size]
        if outside:
            raise InvalidRequest(
                f"logit_bias names token {outside[0]}",
                fix=f"the vocabulary has tokens 0 to {self.codec.vocab_size - 1}",
                param="logit_bias",
            )
        min_tokens = options.min_tokens or 0
        if min_tokens > max_tokens:
            raise InvalidRequest(
                f"min_tokens {min_tokens} is more than the {max_tokens} tokens that may be generated",
                fix="lower min_tokens",
                param="min_tokens",
            )
        defaults = self.defaults
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            temperature=_given(options.temperature, defaults.temperature),
            top_k=max(defaults.top_k if options.top_k is None else options.top_k, 0),
            # A top_p of 0 keeps only the most likely token, as any tiny top_p does.
            top_p=max(_given(options.top_p, defaults.top_p), 1e-9),
            min_p=_given(options.min_p, defaults.min_p),
            presence_penalty=options.presence_penalty or 0.0,
            frequency_penalty=options.frequency_penalty or 0.0,
            repetition_penalty=_given(options.repetition_penalty, defaults.repetition_penalty),
            logit_bias=options.logit_bias,
            seed=options.seed,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            stop_token_ids=tuple(options.stop_token_ids or ()),
            ignore_eos=bool(options.ignore_eos),
        )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value

"""`ServedModel`: one model with its engine and its text side, and what a request to it must satisfy."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, Protocol, TypeVar

from deepwell.dialogue.completion import Caller
from deepwell.dialogue.lane import TextLane
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import Engine, Grammar, SamplingParams
from deepwell.errors import ContextLengthExceeded, InvalidRequest
from deepwell.models.store.sampling import OPENAI, SamplingDefaults
from deepwell.models.text.text_process import TextProcess, TooLong
from deepwell.version import deepwell_version

__all__ = ["Attend", "PromptTooLong", "SamplingOptions", "ServedModel", "Task"]

Task = Literal["generate", "embed"]
"""A purpose that a model is served for."""

# So many characters are tokenised in about 10 ms. A longer text would stall every stream of the event loop.
_INLINE_CHARACTERS = 20_000
_INLINE_TOKENS = _INLINE_CHARACTERS // 4
_OF_A_MESSAGE = 32  # characters that take as long as everything of a message besides its text

T = TypeVar("T")


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


class PromptTooLong(ContextLengthExceeded):
    """Raised for a prompt that the context cannot hold.

    Attributes:
        index: number of the prompt, where there are several.
        tokens: number of its tokens, or, unless `exact`, a number that they surely exceed.
    """

    def __init__(self, message: str, found: TooLong, *, fix: str, param: str) -> None:
        super().__init__(message, fix=fix, param=param)
        self.index = found.index
        self.tokens = found.count
        self.exact = found.exact


class Attend(Protocol):
    """Runs work that is done for the current request under its tenant's name, and ends it with the request."""

    async def __call__(self, work: Callable[[str], Coroutine[Any, Any, T]]) -> T: ...


async def unattended(work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Runs work for nobody in particular."""
    return await work("")


class ServedModel:
    """A model under the name that requests use for it.

    Args:
        name: name of the base model. Its adapters have names of their own.
        tasks: tasks that the model is served for. A request for another task is refused, even if the model could do it.
        defaults: sampling parameters of requests that do not give them.

    Attributes:
        attend: runs the tokenising of long texts; a server replaces it to name the tenant, and to end it with the request.
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
        self.attend: Attend = unattended
        self._lanes: list[TextLane] = []

    @property
    def answers(self) -> bool:
        """True if requests for text may use the model; otherwise it embeds alone."""
        return "generate" in self.tasks and self.capabilities.generates

    @cached_property
    def _quick(self) -> TextLane | None:
        """The lane of short texts, where they may not be tokenised in this process."""
        process = self.codec.process
        return None if process is None else self._lane(TextLane(process, stays=True))

    @cached_property
    def _long(self) -> TextLane | None:
        """The lane of long texts."""
        path = self.codec.path
        return None if path is None else self._lane(TextLane(TextProcess(path, background=True)))

    def _lane(self, lane: TextLane) -> TextLane:
        self._lanes.append(lane)
        return lane

    def close_texts(self) -> None:
        """Ends the processes that tokenise. Called on the event loop.

        A request that still has this model starts them again, until nobody has needed them for a while.
        """
        _ = self._quick  # its process was started before the first text
        for lane in self._lanes:
            lane.close()

    def forget_texts(self) -> None:
        """Ends what remembers texts: somebody's data were erased. The next long text starts it again."""
        for lane in self._lanes:
            lane.forget()

    def end_texts(self) -> None:
        """Ends the processes that tokenise, and waits for their end. Called when the event loop has ended."""
        _ = self._quick
        for lane in self._lanes:
            lane.end()

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
        param: str = "messages",
        counted: bool = False,
        most_tokens: int | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Returns the tokens of a conversation. `variables` are the template's switches.

        A short one is tokenised here; one with tools on a thread; a long one, or any of a model that nothing vouches for,
        in a process of its own, where it waits for the turn of its tenant.

        Args:
            param: the route's name for the messages, for errors.
            counted: the tokens are counted and not run: the error for too many has their exact number.
            most_tokens: the most that are returned; None: those that the context holds.

        Raises:
            PromptTooLong: a long conversation has more tokens.
        """
        variables = variables or {}
        size = _size(messages, (tools, variables))
        lane = self._quick if size <= _INLINE_CHARACTERS else self._long or self._quick
        if lane is None:
            encode = partial(self.codec.encode_chat, messages, tools=tools, **variables)
            return await asyncio.to_thread(encode) if tools or size > _INLINE_CHARACTERS else encode()
        self.codec.check_chats()
        window = most_tokens or self.capabilities.max_model_len

        def work(tenant: str, process: TextProcess) -> list[int]:
            return process.encode_chat(
                messages,
                tools=tools,
                most_tokens=window,
                counted=counted,
                variables=variables,
                owner=tenant,
            )

        try:
            return await self.attend(lambda tenant: lane.run(tenant, size, partial(work, tenant)))
        except TooLong as found:
            raise self._too_long(found, param) from None

    async def _in_turn(self, lane: TextLane, size: int, work: Callable[[TextProcess], T]) -> T:
        return await self.attend(lambda tenant: lane.run(tenant, size, work))

    def _too_long(self, found: TooLong, param: str) -> PromptTooLong:
        window = self.capabilities.max_model_len
        key = "prompt_too_long" if found.exact else "prompt_too_long_least"
        values = {"window": window, "prompt": found.count, "where": param, "most": window - 1}
        said = ContextLengthExceeded.of(key, **values)
        error = PromptTooLong(said.message, found, fix=said.fix, param=param)
        error.texts = said.texts
        return error

    async def prepare(self, grammar: Grammar, caller: Caller, param: str) -> None:
        """Compiles a grammar off the event loop, for requests of the caller.

        Raises:
            InvalidRequest: the grammar does not compile, or uses an unsupported feature. `param` is the one given.
        """
        try:
            # Until the client leaves: the model may have to be loaded first.
            await self.attend(
                lambda _: self.engine.prepare(grammar, tenant=caller.tenant, cache_salt=caller.salt)
            )
        except InvalidRequest as error:
            error.param = param
            raise

    async def encode_prompts(
        self, prompts: Sequence[str | list[int]], param: str, most_tokens: int | None = None
    ) -> list[list[int]]:
        """Returns the tokens of every prompt, given as text or as tokens.

        Args:
            most_tokens: the most that a prompt may have; None: those that the context holds.

        Raises:
            PromptTooLong: a prompt has more tokens.
        """
        window = most_tokens or self.capabilities.max_model_len
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        for index, prompt in enumerate(prompts):
            if not isinstance(prompt, str) and len(prompt) > window:
                raise self._too_long(TooLong(index, len(prompt), True), param)
        try:
            tokenised = await self._tokenised(texts, most_tokens)
        except TooLong as found:  # it counts the texts alone
            places = [index for index, prompt in enumerate(prompts) if isinstance(prompt, str)]
            found.index = places[found.index]
            raise self._too_long(found, param) from None
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

    async def tokenize(self, text: str, most_tokens: int) -> list[int]:
        """Returns the tokens of a plain text, which may be longer than the context.

        Raises:
            PromptTooLong: a long text has more than `most_tokens`.
        """
        try:
            (tokens,) = await self._tokenised([text], most_tokens)
        except TooLong as found:
            raise self._too_long(found, "prompt") from None
        return tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, control tokens included."""
        is_long = len(tokens) > _INLINE_TOKENS
        if self.codec.decodes_by_library:
            lane = (self._long or self._quick) if is_long else self._quick
            if lane is not None:
                return await self._in_turn(lane, len(tokens), lambda process: process.decode(tokens))
        if is_long:
            return await asyncio.to_thread(self.codec.decode, tokens)
        return self.codec.decode(tokens)

    async def spellings(self, tokens: Sequence[int]) -> list[str]:
        """Returns every token as the vocabulary spells it."""
        if len(tokens) > _INLINE_TOKENS:
            return await asyncio.to_thread(self.codec.spellings, tokens)
        return self.codec.spellings(tokens)

    async def _tokenised(self, texts: Sequence[str], most_tokens: int | None = None) -> list[list[int]]:
        size = sum(map(len, texts)) + _OF_A_MESSAGE * len(
            texts
        )  # many short texts take as long as a long one
        is_long = size > _INLINE_CHARACTERS
        lane = (self._long or self._quick) if is_long else self._quick
        if lane is None or not texts:
            encode = self.codec.encode
            if is_long:
                return await asyncio.to_thread(lambda: [encode(text) for text in texts])
            return [encode(text) for text in texts]
        frame = len(self.codec.framed([]))
        most = (most_tokens or self.capabilities.max_model_len) - frame
        for index, text in enumerate(texts):
            if len(text) <= max(most, _INLINE_CHARACTERS):
                continue
            fewest = await asyncio.to_thread(self.codec.fewest_tokens, text)
            if fewest > most:
                raise TooLong(index, fewest, False)
        try:
            found = await self._in_turn(lane, size, lambda process: process.encode(texts, most_tokens=most))
        except TooLong as error:
            raise TooLong(error.index, error.count + frame, error.exact) from None
        return [self.codec.framed(tokens) for tokens in found]

    def room(self, prompt_tokens: int, max_tokens: int | None, param: str) -> int:
        """Returns the number of tokens that may be generated after a prompt: `max_tokens`, or all that fit if it is None.

        Raises:
            ContextLengthExceeded: the prompt or `max_tokens` does not fit. Nothing is ever cut to make it fit.
        """
        window = self.capabilities.max_model_len
        left = window - prompt_tokens
        if left < 1:
            numbers = {"window": window, "prompt": prompt_tokens, "most": window - 1}
            raise ContextLengthExceeded.of("prompt_too_long", where=param, param=param, **numbers)
        if max_tokens is None:
            return left
        if max_tokens > left:
            numbers = {"window": window, "prompt": prompt_tokens, "completion": max_tokens, "left": left}
            total = prompt_tokens + max_tokens
            raise ContextLengthExceeded.of(
                "completion_too_long", total=total, where=param, param=param, **numbers
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


def _size(messages: Sequence[Mapping[str, Any]], rest: object) -> int:
    """Returns the length of a conversation in characters, with an allowance for each of its parts."""
    size = 0
    for message in messages:
        for value in message.values():
            if isinstance(value, str):
                size += _OF_A_MESSAGE + len(value)
            elif value is not None:
                size += _weight(value)
    return size + _weight(rest)


def _weight(value: object) -> int:
    """Returns the length of a JSON-like value, or one that is too long for this process."""
    size = 0
    stack = [value]
    while stack and size <= _INLINE_CHARACTERS:
        one = stack.pop()
        size += 1
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, Mapping):
            stack += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            stack += one
    return size


def _given(value: float | None, default: float) -> float:
    return default if value is None else value

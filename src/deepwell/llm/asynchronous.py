"""`AsyncLLM`: a model in this process, for code on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from deepwell.dialogue.text import InputType
from deepwell.engine.protocol import AdapterInfo
from deepwell.errors import DeepwellError
from deepwell.llm.arguments import (
    ChatArguments,
    Conversation,
    GenerateArguments,
    Options,
    Prompt,
    prompt_list,
)
from deepwell.llm.calls import Call, Tally
from deepwell.llm.opened import Opened
from deepwell.llm.progress import LOOK_S, bar
from deepwell.llm.results import Completion, Score
from deepwell.llm.scoring import Scored, embed, score, score_items, tokenize
from deepwell.llm.session import Session
from deepwell.llm.streams import AsyncTextStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["AsyncLLM"]

T = TypeVar("T")


class AsyncLLM(Opened):
    """The same as `LLM`, with coroutines in place of methods that block.

    The constructor finds the model and plans its memory; the weights load in the background. `open()`, entering the `async
    with` block and the first call wait for them. Cancelling a call aborts its requests within one step of the engine. Any
    event loop may use the model, also several in turn.

    Args:
        model: a name in the store, or a path; None: the setting `model`, which is `smollm2` by default.
        adapters: LoRA adapters to load, by name: folders in peft's format.
        options: settings, by their names; see `Options`.

    Raises:
        ModelNotFound, InsufficientMemory, InvalidSettings, InvalidModelFile, UnsupportedModel: see `LLM`.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        adapters: Mapping[str, str | PathLike[str]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, options)
        # Without a reference to this object, which can be collected in the meantime.
        self._opening = self._session.run_in_pool(partial(_open, self._session, dict(adapters or {})))

    async def open(self) -> AsyncLLM:
        """Waits until the model is loaded, and returns it.

        Raises:
            MissingDependency, InvalidModelFile, UnsupportedModel: the model or an adapter cannot be loaded.
        """
        await asyncio.shield(asyncio.wrap_future(self._opening))
        return self

    @overload
    async def generate(
        self,
        prompt: Prompt,
        *,
        adapter: str = "",
        stream: Literal[False] = False,
        progress: bool = False,
        **arguments: Unpack[GenerateArguments],
    ) -> Completion: ...
    @overload
    async def generate(
        self,
        prompt: Sequence[Prompt],
        *,
        adapter: str = "",
        stream: Literal[False] = False,
        progress: bool = False,
        **arguments: Unpack[GenerateArguments],
    ) -> list[Completion]: ...
    @overload
    async def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        adapter: str = "",
        stream: Literal[True],
        progress: bool = False,
        **arguments: Unpack[GenerateArguments],
    ) -> AsyncTextStream: ...
    async def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        adapter: str = "",
        stream: bool = False,
        progress: bool = False,
        **arguments: Unpack[GenerateArguments],
    ) -> Completion | list[Completion] | AsyncTextStream:
        """Continues a prompt, or a list of prompts in one batch; see `LLM.generate`.

        With `stream=True`: `async for piece in await llm.generate(prompt, stream=True)`.
        """
        await self.open()
        call, single = self._planned_generate(prompt, adapter, arguments)
        return await self._answer(call, single=single, stream=stream, progress=progress)

    @overload
    async def chat(
        self,
        messages: Conversation,
        *,
        adapter: str = "",
        stream: Literal[False] = False,
        progress: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> Completion: ...
    @overload
    async def chat(
        self,
        messages: Sequence[Conversation],
        *,
        adapter: str = "",
        stream: Literal[False] = False,
        progress: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> list[Completion]: ...
    @overload
    async def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        *,
        adapter: str = "",
        stream: Literal[True],
        progress: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> AsyncTextStream: ...
    async def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        *,
        adapter: str = "",
        stream: bool = False,
        progress: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> Completion | list[Completion] | AsyncTextStream:
        """Answers a conversation, or a list of conversations in one batch; see `LLM.chat`.

        With `stream=True`: `async for piece in await llm.chat(messages, stream=True)`.
        """
        await self.open()
        call, single = self._planned_chat(messages, adapter, arguments)
        return await self._answer(call, single=single, stream=stream, progress=progress)

    async def embed(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        input_type: InputType | None = None,
        adapter: str = "",
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Returns vectors of unit length: [hidden_size] for one text, [texts, hidden_size] for a list; see `LLM.embed`."""
        await self.open()
        (many, single), tally = prompt_list(texts), Tally()
        work = embed(self._session, many, adapter, input_type, tally)
        vectors = await self._result(work, "texts", tally, progress=progress)
        return vectors[0] if single else vectors

    @overload
    async def score(
        self,
        texts: Prompt | tuple[str, str],
        *,
        adapter: str = "",
        window: tuple[int, int] | tuple[int, int, int] | None = None,
        progress: bool = False,
    ) -> Score: ...
    @overload
    async def score(
        self,
        texts: Sequence[Scored],
        *,
        adapter: str = "",
        window: tuple[int, int] | tuple[int, int, int] | None = None,
        progress: bool = False,
    ) -> list[Score]: ...
    async def score(
        self,
        texts: Prompt | tuple[str, str] | Sequence[Scored],
        *,
        adapter: str = "",
        window: tuple[int, int] | tuple[int, int, int] | None = None,
        progress: bool = False,
    ) -> Score | list[Score]:
        """Returns the log probabilities of the tokens of texts, or of continuations; see `LLM.score`."""
        await self.open()
        (items, single), tally = score_items(texts), Tally()
        work = score(self._session, items, adapter, tally, window)
        scores = await self._result(work, "texts", tally, progress=progress)
        return scores[0] if single else scores

    async def tokenize(self, text: str | Conversation) -> list[int]:
        """Returns the tokens of a text, or of a conversation, exactly as `generate` or `chat` would use them."""
        await self.open()
        return await self._result(tokenize(self._session, text))

    async def load_adapter(self, name: str, path: str | PathLike[str]) -> AdapterInfo:
        """Loads a LoRA adapter in peft's format under a name; see `LLM.load_adapter`."""
        await self.open()
        return await asyncio.wrap_future(self._session.run_in_pool(partial(self._load_adapter, name, path)))

    async def unload_adapter(self, name: str) -> None:
        """Unloads an adapter; see `LLM.unload_adapter`."""
        await self.open()
        self._unload_adapter(name)

    async def close(self) -> None:
        """Aborts all requests and frees the model. Closing twice is harmless."""
        await asyncio.to_thread(self._finalizer)

    async def __aenter__(self) -> AsyncLLM:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _answer(
        self, planning: Coroutine[Any, Any, Call], *, single: bool, stream: bool, progress: bool
    ) -> Completion | list[Completion] | AsyncTextStream:
        call = await self._result(planning)
        if stream:
            return AsyncTextStream(self, self._session, call)
        tally = Tally()
        found = await self._result(call.whole(tally), "answers", tally, progress=progress)
        return found[0] if single else found

    async def _result(
        self,
        work: Coroutine[Any, Any, T],
        noun: str = "",
        tally: Tally | None = None,
        *,
        progress: bool = False,
    ) -> T:
        """Runs work on the private loop. Cancelling this cancels the work."""
        running = self._session.start(work)
        waiting = asyncio.ensure_future(_waited(running))
        with ExitStack() as shown:
            look = shown.enter_context(bar(noun, tally)) if tally is not None and progress else None
            try:
                while look is not None and not (await asyncio.wait((waiting,), timeout=LOOK_S))[0]:
                    look()
                return await waiting
            except asyncio.CancelledError:
                waiting.cancel()
                raise


async def _waited(running: Future[T]) -> T:
    try:
        return await asyncio.wrap_future(running)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise DeepwellError("the call was cut: the model was closed", fix="open it again") from None


def _open(session: Session, adapters: Mapping[str, str | PathLike[str]]) -> None:
    session.open()
    for name, path in adapters.items():
        session.engine.load_adapter(name, str(path))

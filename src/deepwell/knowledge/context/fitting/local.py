"""`LocalFitter`: fits conversations to a model of this process, for Python and the command line.

llm = LLM("qwen2.5-coder-0.5b")
with LocalFitter(llm.codec, llm.context, embedder="e5-small-q4") as fitter:
    fitted = fitter.fit(messages, "auto", max_tokens=200)
    answer = llm.chat(fitted.messages, max_tokens=200)
print(fitted.ledger.totals())
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from deepwell.errors import ModelNotFound
from deepwell.knowledge.context.fitting.fit import FitModel, Fitted, Fitter, ModelText, Recalling
from deepwell.knowledge.context.fitting.ledger import Ledger
from deepwell.knowledge.context.fitting.memories import Memories, MemoryKey
from deepwell.knowledge.context.fitting.policy import FIT_OPTIONS, ContextPolicy, FitOptions

if TYPE_CHECKING:
    from deepwell.knowledge.embedders import Embedders

__all__ = ["ChatText", "LocalFitter"]


class ChatText(ModelText, Protocol):
    """The text side of a chat model, as `dialogue.text.Codec` is."""

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Returns the tokens of a conversation up to the assistant's answer."""
        ...


class LocalFitter:
    """Fits the conversations of one model. What it has indexed of a conversation serves the next turn of it.

    Args:
        codec: the text side of the model; see `LLM.codec`.
        context: tokens that the model holds at once.
        embedder: name of the model that finds passages; None, or one that is not in the store: words alone decide.
        models_dir: the store; None: that of the settings.
        windows: whether what runs the prompt can be given a window; see `Fitted.window`.
    """

    def __init__(
        self,
        codec: ChatText,
        context: int,
        *,
        embedder: str | None = None,
        models_dir: Path | None = None,
        windows: bool = False,
        options: FitOptions = FIT_OPTIONS,
    ) -> None:
        self._codec = codec
        self._context = context
        self._embedder = embedder
        self._models_dir = models_dir
        self._windows = windows
        self._options = options
        self._memories = Memories()
        self._embedders: Embedders | None = None
        # A thread with a loop of its own, so that callers may be on an event loop, as notebooks are.
        self._loop = asyncio.new_event_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fitting")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the embedder."""
        if self._embedders is not None:
            self._thread.submit(self._loop.run_until_complete, self._embedders.close()).result()
        self._thread.shutdown()
        self._loop.close()

    def fit(
        self,
        messages: Sequence[Mapping[str, Any]],
        policy: ContextPolicy = "auto",
        *,
        max_tokens: int | None = None,
    ) -> Fitted:
        """Returns the conversation as the model is to read it, with the ledger of its tokens.

        Raises:
            ContextLengthExceeded: the policy is strict and it does not fit, or what always stays whole does not.
            ModelNotFound: the policy is `retrieve`, and the embedder is not in the store.
        """
        prompt = self._codec.encode_chat(messages)
        room = self._context - self._options.answer_room(max_tokens, self._context, policy)
        if len(prompt) <= room:
            return Fitted(messages, Ledger.whole(policy, len(prompt)))
        work = self._fit(messages, prompt, policy, room)
        return self._thread.submit(self._loop.run_until_complete, work).result()

    async def _fit(
        self, messages: Sequence[Mapping[str, Any]], prompt: Sequence[int], policy: ContextPolicy, room: int
    ) -> Fitted:
        recalling = None if policy in ("strict", "window", "adapter") else await self._recalling(policy)
        model = FitModel(self._codec, self._render, self._context, self._windows)
        fitter = Fitter(model, room, recalling=recalling, options=self._options)
        return await fitter.fit(messages, prompt, policy)

    async def _render(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return self._codec.encode_chat(messages)

    async def _recalling(self, policy: ContextPolicy) -> Recalling | None:
        from deepwell.knowledge.embedders import Embedders

        if self._embedder is None:
            return None
        if self._embedders is None:
            self._embedders = Embedders(self._models_dir)
        try:
            found = await self._embedders.named(self._embedder)
        except ModelNotFound:
            if policy == "retrieve":
                raise
            return None
        return Recalling(self._memories, MemoryKey("", ""), found)

"""`LLM`: a model in this process, for code without an event loop, and for notebooks."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import nullcontext
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
from deepwell.llm.progress import LOOK_S, bar, packing
from deepwell.llm.results import Completion, Score
from deepwell.llm.scoring import Scored, embed, score, score_items, tokenize
from deepwell.llm.streams import TextStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LLM"]

T = TypeVar("T")


class LLM(Opened):
    """A model of the store, or a path to one, running in this process.

    Calls block until their results are there; many threads may call at once, and their requests share the engine's steps.
    They work inside of a running event loop, too, as in a notebook. Ctrl-C aborts the requests of a call and leaves the
    model usable. Leaving the `with` block, `close()`, garbage collection and the interpreter's exit end its threads and
    child processes.

    Args:
        model: a name in the store, or a path; None: the setting `model`, which is `smollm2` by default.
        adapters: LoRA adapters to load, by name: folders in peft's format.
        options: settings, by their names; see `Options`. What is not given comes from the environment and the
            configuration file, as for `deepwell serve`.

    Raises:
        ModelNotFound: the model is neither in the store nor a path; the fix is the command that fetches it.
        InsufficientMemory: it does not fit; the fix names the arguments that would.
        InvalidSettings, InvalidModelFile, UnsupportedModel: an argument or a file cannot be used.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        adapters: Mapping[str, str | PathLike[str]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, options)
        try:
            with packing() as progress:
                self._session.open(progress)
            for name, path in (adapters or {}).items():
                self.load_adapter(name, path)
        except BaseException:
            self.close()
            raise

    @overload
    def generate(  # pyright: ignore[reportOverlappingOverload]: a string is a sequence of strings
        self,
        prompt: Prompt,
        *,
        adapter: str = "",
        stream: Literal[False] = False,
        progress: bool = False,
        **arguments: Unpack[GenerateArguments],
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: Sequence[Prompt],
        *,
        adapter: str = "",
        stream: Literal[False] = False,
        progress: bool = False,
        **arguments: Unpack[GenerateArguments],
    ) -> list[Completion]: ...
    @overload
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        adapter: str = "",
        stream: Literal[True],
        progress: bool = False,
        **arguments: Unpack[GenerateArguments],
    ) -> TextStream: ...
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        adapter: str = "",
        stream: bool = False,
        progress: bool = False,
        **arguments: Unpack[GenerateArguments],
    ) -> Completion | list[Completion] | TextStream:
        """Continues a prompt, or a list of prompts in one batch.

        Args:
            prompt: a text, or a list of token ids; or a list of such prompts.
            adapter: name of a loaded adapter; empty: the base model.
            stream: whether to return the pieces as they come.
            progress: whether to show a progress bar, if it takes over two seconds.
            arguments: sampling parameters and a form of the answer; see `Sampling` and `Constraint`. `max_tokens` is 16 if it
                is not given, as in the server.

        Returns:
            A completion for each prompt, in their order. A stream with `stream=True`.

        Raises:
            ContextLengthExceeded: a prompt and `max_tokens` do not fit the context. Nothing is ever cut to make it fit; with
                `window=` any number fits, and `forgotten_tokens` says how many were forgotten.
            InvalidRequest, ModelNotFound: an argument cannot be used.
        """
        call, single = self._planned_generate(prompt, adapter, arguments)
        return self._answer(call, single=single, stream=stream, progress=progress)

    @overload
    def chat(
        self,
        messages: Conversation,
        *,
        adapter: str = "",
        stream: Literal[False] = False,
        progress: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> Completion: ...
    @overload
    def chat(
        self,
        messages: Sequence[Conversation],
        *,
        adapter: str = "",
        stream: Literal[False] = False,
        progress: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> list[Completion]: ...
    @overload
    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        *,
        adapter: str = "",
        stream: Literal[True],
        progress: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> TextStream: ...
    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        *,
        adapter: str = "",
        stream: bool = False,
        progress: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> Completion | list[Completion] | TextStream:
        """Answers a conversation, or a list of conversations in one batch, with the model's chat template.

        Args:
            messages: dictionaries with `role` and `content`, as in OpenAI's API; or a list of such lists.
            adapter: name of a loaded adapter; empty: the base model.
            stream: whether to return the pieces as they come.
            progress: whether to show a progress bar, if it takes over two seconds.
            arguments: sampling parameters, a form of the answer, and tools; see `Sampling`, `Constraint` and `ChatOptions`.
                Without `max_tokens`, an answer may fill the context.

        Returns:
            A completion for each conversation, in their order. A stream with `stream=True`.

        Raises:
            ContextLengthExceeded: a conversation and `max_tokens` do not fit the context.
            InvalidRequest, ModelNotFound: an argument cannot be used.
        """
        call, single = self._planned_chat(messages, adapter, arguments)
        return self._answer(call, single=single, stream=stream, progress=progress)

    def embed(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        input_type: InputType | None = None,
        adapter: str = "",
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Returns vectors of unit length: [hidden_size] for one text, [texts, hidden_size] for a list.

        Args:
            input_type: "query" or "passage" puts the model's own prompt in front of every text, as E5 needs it; None: nothing.

        Raises:
            ContextLengthExceeded: a text is longer than the context.
            InvalidRequest: tokens are given where the model has a prompt of this type.
        """
        (many, single), tally = prompt_list(texts), Tally()
        work = embed(self._session, many, adapter, input_type, tally)
        vectors = self._result(work, "texts", tally, progress=progress)
        return vectors[0] if single else vectors

    @overload
    def score(  # pyright: ignore[reportOverlappingOverload]
        self,
        texts: Prompt | tuple[str, str],
        *,
        adapter: str = "",
        window: tuple[int, int] | tuple[int, int, int] | None = None,
        progress: bool = False,
    ) -> Score: ...
    @overload
    def score(
        self,
        texts: Sequence[Scored],
        *,
        adapter: str = "",
        window: tuple[int, int] | tuple[int, int, int] | None = None,
        progress: bool = False,
    ) -> list[Score]: ...
    def score(
        self,
        texts: Prompt | tuple[str, str] | Sequence[Scored],
        *,
        adapter: str = "",
        window: tuple[int, int] | tuple[int, int, int] | None = None,
        progress: bool = False,
    ) -> Score | list[Score]:
        """Returns the log probabilities of the tokens of texts, or of continuations.

        Args:
            texts: a text, whose tokens but the first are scored; a tuple (prompt, continuation), whose continuation is; or a
                list of either. A continuation is tokenised by itself.
            adapter: name of a loaded adapter; empty: the base model.
            window: the first and the most recent tokens to keep, in multiples of 16, for texts of any length, and the rank of
                the factors that others are kept as (see `Window`); None: texts must fit the context.
            progress: whether to show a progress bar, if it takes over two seconds.

        Raises:
            ContextLengthExceeded: a text is longer than the context.
        """
        (items, single), tally = score_items(texts), Tally()
        work = score(self._session, items, adapter, tally, window)
        scores = self._result(work, "texts", tally, progress=progress)
        return scores[0] if single else scores

    def tokenize(self, text: str | Conversation) -> list[int]:
        """Returns the tokens of a text, or of a conversation, exactly as `generate` or `chat` would use them."""
        return self._result(tokenize(self._session, text))

    def load_adapter(self, name: str, path: str | PathLike[str]) -> AdapterInfo:
        """Loads a LoRA adapter in peft's format under a name; an adapter of that name is replaced.

        Raises:
            InvalidModelFile, UnsupportedModel: it is unsound, or does not fit the model.
        """
        return self._load_adapter(name, path)

    def unload_adapter(self, name: str) -> None:
        """Unloads an adapter. Running requests keep it to their end.

        Raises:
            ModelNotFound: no adapter of this name is loaded.
        """
        self._unload_adapter(name)

    def close(self) -> None:
        """Aborts all requests and frees the model. Closing twice is harmless."""
        self._finalizer()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(
        self, planning: Coroutine[Any, Any, Call], *, single: bool, stream: bool, progress: bool
    ) -> Completion | list[Completion] | TextStream:
        call = self._result(planning)
        if stream:
            return TextStream(self, self._session, call)
        tally = Tally()
        found = self._result(call.whole(tally), "answers", tally, progress=progress)
        return found[0] if single else found

    def _result(
        self,
        work: Coroutine[Any, Any, T],
        noun: str = "",
        tally: Tally | None = None,
        *,
        progress: bool = False,
    ) -> T:
        """Runs work on the private loop and waits for it. An exception here, as of Ctrl-C, cancels it."""
        running = None
        try:
            # The bar comes first: it imports, and Python drops an interrupt that meets the end of an import.
            with bar(noun, tally) if progress and tally is not None else nullcontext() as look:
                running = self._session.start(work)
                while look is not None:
                    try:
                        return running.result(LOOK_S)
                    except TimeoutError:
                        if running.done():
                            raise
                    look()
                return running.result()
        except CancelledError:
            raise DeepwellError("the call was cut: the model was closed", fix="open it again") from None
        except BaseException:
            if running is not None:
                running.cancel()
            raise

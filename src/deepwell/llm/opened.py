"""`Opened`: the parts that `LLM` and `AsyncLLM` share."""

from __future__ import annotations

import weakref
from collections.abc import Coroutine, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import AdapterInfo, Capabilities
from deepwell.errors import ModelNotFound
from deepwell.llm.arguments import (
    ChatArguments,
    Conversation,
    GenerateArguments,
    Options,
    Prompt,
    conversation_list,
    format_of,
    prompt_list,
    split_arguments,
)
from deepwell.llm.calls import Call, plan_chats, plan_prompts
from deepwell.llm.session import Session, plan

__all__ = ["Opened"]


class Opened:
    """A planned model with its session, which ends with this object."""

    def __init__(self, model: str | PathLike[str] | None, options: Options) -> None:
        self._session = Session(plan(model, options))
        self._finalizer = weakref.finalize(self, self._session.finalize)  # runs at exit, too

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._session.name

    @property
    def context(self) -> int:
        """Tokens that a prompt and its completion may have together."""
        return self._session.memory.context

    @property
    def capabilities(self) -> Capabilities:
        """The model, its precision, kernels and limits."""
        return self._session.model.capabilities

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """The loaded adapters, in order of first load."""
        return tuple(self._session.engine.adapters())

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, control tokens included."""
        return self._session.model.codec.decode(list(tokens))

    @property
    def codec(self) -> Codec:
        """Tokenizer and chat template."""
        return self._session.model.codec

    @property
    def prompts(self) -> Mapping[str, str]:
        """Texts that an embedding model expects in front of a "query" and of a "passage"; empty if it expects none."""
        return self._session.model.codec.prompts

    @property
    def first_token(self) -> int | None:
        """Token behind which a text without a prompt is scored: BOS, or the one that ends a sequence."""
        return self._session.model.codec.first_token

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text as `tokenize` does, on the calling thread."""
        return self._session.model.codec.encode(text)

    def framed(self, tokens: Sequence[int]) -> list[int]:
        """Returns the tokens of a text with those that the model wants around them, such as [CLS] and [SEP]."""
        return self._session.model.codec.framed(list(tokens))

    def unframed(self, tokens: Sequence[int]) -> list[int]:
        """Returns the tokens of a text without those that `framed` puts around them."""
        return self._session.model.codec.unframed(list(tokens))

    def __repr__(self) -> str:
        session = self._session
        return f"{type(self).__name__}({session.name!r}, precision={session.memory.precision!r}, context={self.context})"

    def _planned_generate(
        self, prompts: Prompt | Sequence[Prompt], adapter: str, arguments: GenerateArguments
    ) -> tuple[Coroutine[Any, Any, Call], bool]:
        """Returns the work that checks prompts, and whether there was only one, outside of a list."""
        sampling, constraint, _ = split_arguments(arguments, GenerateArguments)
        many, single = prompt_list(prompts)
        return plan_prompts(self._session, many, sampling, format_of(constraint), adapter), single

    def _planned_chat(
        self,
        messages: Conversation | Sequence[Conversation],
        adapter: str,
        arguments: ChatArguments,
    ) -> tuple[Coroutine[Any, Any, Call], bool]:
        """Returns the work that checks conversations, and whether there was only one, outside of a list."""
        sampling, constraint, options = split_arguments(arguments, ChatArguments)
        many, single = conversation_list(messages)
        work = plan_chats(self._session, many, sampling, options, format_of(constraint), adapter)
        return work, single

    def _load_adapter(self, name: str, path: str | PathLike[str]) -> AdapterInfo:
        return self._session.engine.load_adapter(name, fspath(path))

    def _unload_adapter(self, name: str) -> None:
        loaded = [one.name for one in self.adapters]
        if name not in loaded:
            known = f"use one of {', '.join(map(repr, loaded))}" if loaded else "none is loaded"
            raise ModelNotFound(f"no adapter {name!r} is loaded", fix=known, param="adapter")
        self._session.engine.unload_adapter(name)

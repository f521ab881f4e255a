"""Conversion between text and tokens: a model's tokenizer and chat template, and the text of one choice as it grows.

`ChoiceText` turns the engine's deltas into pieces in which text and log probabilities agree: a token's entry leaves together
with its text, however long half a character or half a stop string was held back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from deepwell.dialogue.dialect import Dialect, detect_dialect
from deepwell.engine.protocol import Delta, TokenLogprob
from deepwell.errors import InvalidRequest
from deepwell.models.store.catalog import prompts_of
from deepwell.models.text.chat_template import ChatTemplate, encode_chat
from deepwell.models.text.detokenizer import Detokenizer, StopStrings
from deepwell.models.text.hosted import HostedTemplate, HostedTokenizer, open_tokenizer
from deepwell.models.text.tokenizer import Tokenizer

Tokens = TypeVar("Tokens", bound=Sequence[int])

__all__ = ["ChoiceText", "Codec", "Entry", "InputType", "Piece"]

InputType = Literal["query", "passage", "document"]
"""The role of a text to embed; a document is another word for a passage."""


class Codec:
    """The tokenizer and chat template of one model. Methods may be called from any thread.

    Attributes:
        path: files that a process for long texts can load; None: long texts are tokenised on a thread of this process.
        process: the process that tokenises all texts, because no pinned hash vouches for the files; None: this one does.
        prompts: texts that an embedding model expects in front of a "query" and of a "passage"; empty: it expects none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        path: Path | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        self.prompts = prompts or {}
        self._tokenizer = tokenizer
        self._template = template
        self.path = path
        self.process = tokenizer.process if isinstance(tokenizer, HostedTokenizer) else None
        self.vocab_size = tokenizer.vocab_size
        # The token in front of every plain prompt.
        self.added_bos = tokenizer.bos_token_id if tokenizer.add_bos else None

    @classmethod
    def load(cls, path: Path) -> Codec:
        """Reads the tokenizer and the chat template of a model file or directory.

        Files that no pinned hash vouches for are read, and always run, in a process with limits.

        Raises:
            InvalidModelFile, UnsupportedModel: they are not sound.
        """
        tokenizer = open_tokenizer(path)
        template = None
        if tokenizer.chat_template:
            if isinstance(tokenizer, HostedTokenizer):
                template = HostedTemplate(tokenizer)
            else:
                template = ChatTemplate(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
        codec = cls(tokenizer, template, path=path, prompts=prompts_of(path))
        if codec.process is not None:
            _ = codec.dialect  # asks the process, which must not happen on an event loop
        return codec

    def prompted(
        self, inputs: Sequence[str | Tokens], input_type: InputType | None
    ) -> Sequence[str | Tokens]:
        """Returns inputs to embed behind the prompt that the model expects in front of texts of this type.

        They stay as they are if the type is None, or if the model expects none.

        Raises:
            InvalidRequest: an input is tokens, before which no text can be put.
        """
        prompt = self.prompts.get("passage" if input_type == "document" else input_type or "", "")
        if not prompt:
            return inputs
        texts = [one for one in inputs if isinstance(one, str)]
        if len(texts) < len(inputs):
            raise InvalidRequest(
                f"token ids are embedded as they are: {prompt!r} cannot be put in front of them",
                fix="send text, or leave input_type out and send the tokens of the whole",
                param="input_type",
            )
        return [prompt + text for text in texts]

    @property
    def first_token(self) -> int | None:
        """The token that a text without a prompt is scored behind: BOS, or that which ends a sequence."""
        bos = self._tokenizer.bos_token_id
        return bos if bos is not None else next(iter(self._tokenizer.eos_token_ids), None)

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a plain prompt, behind the BOS token if the model wants one."""
        return self.framed(self._tokenizer.encode(text))

    def encode_text(self, text: str) -> list[int]:
        """Returns the tokens of a piece of text, in which control tokens are plain text. Nothing is put around them."""
        return self._tokenizer.encode(text, allow_special=False)

    def framed(self, tokens: list[int]) -> list[int]:
        """Returns the tokens of a plain text with those that the model wants around them."""
        tokenizer = self._tokenizer
        if tokenizer.suffix_ids:  # an encoder's text stands between [CLS] and [SEP], or <s> and </s>
            return [*tokenizer.prefix_ids, *tokens, *tokenizer.suffix_ids]
        return tokens if self.added_bos is None else [self.added_bos, *tokens]

    def unframed(self, tokens: list[int]) -> list[int]:
        """Returns the tokens of a plain text without those that `framed` put around them."""
        suffix = len(self._tokenizer.suffix_ids)
        prefix = len(self.framed([])) - suffix
        return tokens[prefix : len(tokens) - suffix]

    def fewest_tokens(self, text: str) -> int:
        """Returns a lower bound of the number of tokens of a text, without tokenising it."""
        return self._tokenizer.fewest_tokens(text)

    @cached_property
    def dialect(self) -> Dialect:
        """The model's conventions for calls and reasoning."""
        return detect_dialect(self._template, self._tokenizer.added_tokens)

    @cached_property
    def template_variables(self) -> frozenset[str]:
        """Names of the variables that the chat template takes."""
        return self._template.variables if self._template else frozenset()

    @property
    def chats(self) -> bool:
        """True if there is a chat template."""
        return self._template is not None

    @property
    def template_source(self) -> str:
        """The text of the chat template. It is empty if there is none."""
        return self._template.source if self._template else ""

    def control_token(self, text: str) -> int | None:
        """Returns the id of the control token with this text, or None."""
        return self._tokenizer.control_token(text)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Returns the tokens of a conversation up to the assistant's answer. `variables` are the template's switches."""
        self.check_chats()
        assert self._template is not None
        if self.process is not None:
            return self.process.encode_chat(messages, tools=tools, variables=variables)
        return encode_chat(self._tokenizer, self._template, messages, tools=tools, **variables)

    def check_chats(self) -> None:
        """Checks that there is a chat template.

        Raises:
            InvalidRequest: there is none.
        """
        if self._template is None:
            raise InvalidRequest(
                "this model has no chat template: it was not made for conversations",
                fix="use /v1/completions",
            )

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, control tokens included."""
        return self._tokenizer.decode(tokens, skip_special=False)

    def spellings(self, tokens: Sequence[int]) -> list[str]:
        """Returns every token as the vocabulary spells it."""
        spelt = {token: self._tokenizer.spelling(token) for token in set(tokens)}
        return [spelt[token] for token in tokens]

    @property
    def decodes_by_library(self) -> bool:
        """True if tokens are decoded by the tokenizer's library, and not from a table."""
        return self._tokenizer.decodes_by_library

    def decoder(self, visible: frozenset[int] = frozenset()) -> Detokenizer:
        """Returns a decoder for the tokens of one sequence. It skips control tokens that are not in `visible`."""
        return Detokenizer(self._tokenizer, visible)

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes that a token stands for."""
        return self._tokenizer.token_bytes(token)

    def is_end(self, token: int) -> bool:
        """Returns whether the token ends a sequence."""
        return token in self._tokenizer.eos_token_ids


@dataclass(frozen=True, slots=True)
class Entry:
    """A drawn token with its log probability, and the character of the text at which it starts."""

    info: TokenLogprob
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is final, with the entries of its tokens (empty unless log probabilities were asked for)."""

    text: str
    entries: tuple[Entry, ...] = ()
    stopped: bool = False  # a stop string matched: the text is complete
    tokens: int = 0  # number taken in; tokens behind a stop string are not
    stop: str | None = None  # the stop string that matched


class ChoiceText:
    """The text of one choice. Push every delta, then call `finish`, unless a piece was `stopped`."""

    def __init__(
        self,
        codec: Codec,
        stops: Sequence[str],
        stop_token_ids: Sequence[int] = (),
        offset: int = 0,
        visible: frozenset[int] = frozenset(),
    ) -> None:
        self._codec = codec
        self._decoder = codec.decoder(visible)
        self._stops = StopStrings(stops)
        self._stop_token_ids = frozenset(stop_token_ids)
        self._decoded = offset  # characters that came out of the decoder
        self._released = offset  # characters that left through `Piece.text`
        self._entries: deque[Entry] = deque()

    def push(self, delta: Delta) -> Piece:
        """Adds one step's tokens, up to the one that completes a stop string.

        A token that ends the sequence has no text and no entry.
        """
        tokens = delta.tokens
        if delta.finish_reason == "stop" and tokens and self._ends(tokens[-1]):
            tokens = tokens[:-1]
        safe, matched, taken = "", None, len(delta.tokens)
        for index, token in enumerate(tokens):
            if delta.logprobs:
                self._entries.append(Entry(delta.logprobs[index], self._decoded))
            text = self._decoder.push((token,))
            self._decoded += len(text)
            text, matched = self._stops.push(text)
            safe += text
            if matched is not None:
                taken = index + 1
                break
        return self._release(safe, matched, tokens=taken)

    def finish(self) -> Piece:
        """Returns the text that was held back, when no more comes."""
        tail = self._decoder.finish()
        self._decoded += len(tail)
        text, matched = self._stops.push(tail)
        if matched is None:
            text += self._stops.flush()
        return self._release(text, matched)

    def _ends(self, token: int) -> bool:
        return token in self._stop_token_ids or self._codec.is_end(token)

    def _release(self, text: str, matched: str | None, *, tokens: int = 0) -> Piece:
        self._released += len(text)
        entries: list[Entry] = []
        # Tokens of one character share its offset, so they leave together. A control token without text leaves with the next
        # text. One behind the last character, or behind a stop string, never leaves.
        while self._entries and self._entries[0].offset < self._released:
            entries.append(self._entries.popleft())
        return Piece(text, tuple(entries), matched is not None, tokens, matched)

"""Between text and tokens: what the server asks of a tokenizer, and the text of one choice as it grows.

`ChoiceText` takes the engine's deltas in and gives pieces out in which text and log probabilities agree: a token's entry
leaves together with its text, however long half a character or half a stop string was held back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from deepwell.engine.protocol import Delta, TokenLogprob
from deepwell.models.detokenizer import StopStrings

__all__ = ["ChoiceText", "Codec", "Entry", "Piece", "TextDecoder"]


class TextDecoder(Protocol):
    """Turns the tokens of one sequence into text, holding back bytes that are not a whole character yet."""

    def push(self, token: int, /) -> str: ...

    def finish(self) -> str: ...


class Codec(Protocol):
    """A model's tokenizer and chat template. Methods may be called from any thread."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Tokens of a plain prompt, with the BOS token where the model wants one."""
        ...

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Tokens of a conversation up to where the assistant speaks."""
        ...

    def decoder(self) -> TextDecoder: ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; empty for tokens that only control."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends a sequence."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A drawn token, its log probability, and the character of the text it starts at."""

    info: TokenLogprob
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is final, and the entries of its tokens (empty unless log probabilities were asked for)."""

    text: str
    entries: tuple[Entry, ...] = ()
    stopped: bool = False  # a stop string matched: the text is complete


class ChoiceText:
    """The text of one choice. `push` every delta, then `finish`, unless a piece said `stopped`."""

    def __init__(self, codec: Codec, stops: Sequence[str], stop_token_ids: Sequence[int] = (), offset: int = 0) -> None:
        self._codec = codec
        self._decoder = codec.decoder()
        self._stops = StopStrings(stops)
        self._stop_token_ids = frozenset(stop_token_ids)
        self._decoded = offset  # characters that came out of the decoder
        self._released = offset  # characters that left through `Piece.text`
        self._entries: deque[Entry] = deque()

    def push(self, delta: Delta) -> Piece:
        """Add one step's tokens. A token that ends the sequence has no text and no entry."""
        tokens = delta.tokens
        if delta.finish_reason == "stop" and tokens and self._ends(tokens[-1]):
            tokens = tokens[:-1]
        texts: list[str] = []
        for index, token in enumerate(tokens):
            if delta.logprobs:
                self._entries.append(Entry(delta.logprobs[index], self._decoded))
            text = self._decoder.push(token)
            self._decoded += len(text)
            texts.append(text)
        return self._release(self._stops.push("".join(texts)))

    def finish(self) -> Piece:
        """What was held back, when nothing more comes."""
        tail = self._decoder.finish()
        self._decoded += len(tail)
        text = self._stops.push(tail)
        if not self._stops.matched:
            text += self._stops.finish()
        return self._release(text)

    def _ends(self, token: int) -> bool:
        return token in self._stop_token_ids or self._codec.is_end(token)

    def _release(self, text: str) -> Piece:
        self._released += len(text)
        entries: list[Entry] = []
        # Tokens of one character share its offset, so they leave together; a control token without text leaves with the
        # next text, and one behind the last character or behind a stop string not at all.
        while self._entries and self._entries[0].offset < self._released:
            entries.append(self._entries.popleft())
        return Piece(text, tuple(entries), self._stops.matched)

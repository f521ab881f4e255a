"""`PromptMap`: the tokens of a rendered prompt, each owned by the message in whose text it begins, or by the template.

NOTE: how. A chat template may write anything around, between and instead of the messages. Their texts are therefore searched in
what the prompt's tokens say, one behind the other; templates strip white space, and some tokenizers normalise. A text that a
template changed is not found. It owns all tokens between its neighbours then. Every token has one owner in all cases.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.context.tokens import tokens_between

__all__ = ["Placed", "PromptMap", "TokenBytes"]

_CONTINUES: Final = 0x80


class TokenBytes(Protocol):
    """The part of `dialogue.text.Codec` that placing needs."""

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes that a token stands for."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """The tokens of one message's text.

    Attributes:
        text: the text, as the message has it.
        first: number of its first token in the prompt.
        starts: offset of the character at which each of its tokens begins, ascending.
    """

    text: str
    first: int
    starts: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.starts)

    def between(self, start: int, end: int) -> int:
        """Returns the number of tokens that begin in `text[start:end]`."""
        return tokens_between(self.starts, start, end)


class PromptMap:
    """The owners of a prompt's tokens.

    Args:
        tokens: the prompt.
        texts: the text of each message, in the order of the messages; None: it has none.
        codec: the model's.

    Attributes:
        placed: the tokens of each message's text.
        template: tokens that belong to none.
    """

    def __init__(self, tokens: Sequence[int], texts: Sequence[str | None], codec: TokenBytes) -> None:
        spelt = {token: codec.token_bytes(token) for token in set(tokens)}
        pieces = [spelt[token] for token in tokens]
        sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
        edges = np.cumsum(sizes) - sizes  # byte at which each token begins
        data = b"".join(pieces)
        spans = _spans(data, texts)
        self.placed: tuple[Placed, ...] = tuple(
            _placed(text or "", span, edges, data) for text, span in zip(texts, spans, strict=True)
        )
        self.tokens = len(tokens)
        self.template = self.tokens - sum(one.tokens for one in self.placed)


@dataclass(frozen=True, slots=True)
class _Span:
    """Bytes of the prompt that say a text. `offset`: the characters in front that the template has stripped."""

    start: int
    end: int
    offset: int = 0
    exact: bool = True


def _spans(data: bytes, texts: Sequence[str | None]) -> list[_Span]:
    found: list[_Span | None] = []
    cursor = 0
    for text in texts:
        span = None if not text or not text.strip() else _find(data, text, cursor)
        if span is not None:
            cursor = span.end
        found.append(span)
    return list(_completed(found, texts, len(data)))


def _find(data: bytes, text: str, cursor: int) -> _Span | None:
    stripped = text.strip()
    lead = len(text) - len(text.lstrip())
    for form, offset in ((text, 0), (stripped, lead)):
        needle = form.encode("utf-8", "replace")
        at = data.find(needle, cursor)
        if at >= 0:
            return _Span(at, at + len(needle), offset)
    needle = unicodedata.normalize("NFC", stripped).encode("utf-8", "replace")
    at = data.find(needle, cursor)
    return _Span(at, at + len(needle), lead, exact=False) if at >= 0 else None


def _completed(found: Sequence[_Span | None], texts: Sequence[str | None], end: int) -> Iterable[_Span]:
    """Yields a span for every text: those that were not found share nothing, and lie between their neighbours."""
    following = [end] * (len(found) + 1)
    for index in range(len(found) - 1, -1, -1):
        span = found[index]
        following[index] = following[index + 1] if span is None else span.start
    cursor = 0
    for index, (span, text) in enumerate(zip(found, texts, strict=True)):
        if span is None:
            stop = following[index] if text and text.strip() else cursor
            span = _Span(cursor, stop, exact=False)
        yield span
        cursor = span.end


def _placed(text: str, span: _Span, edges: NDArray[np.int64], data: bytes) -> Placed:
    first, behind = (int(one) for one in np.searchsorted(edges, (span.start, span.end)))
    inside = edges[first:behind] - span.start
    if not len(inside):
        return Placed(text, first, inside)
    last = max(len(text) - 1, 0)
    if span.exact:
        said = np.frombuffer(data, np.uint8)[span.start : span.end]
        characters = np.cumsum((said & 0xC0) != _CONTINUES) - 1
        return Placed(text, first, np.minimum(characters[inside] + span.offset, last))
    # The template or the tokenizer has changed the text: its tokens are spread evenly.
    size = max(span.end - span.start, 1)
    return Placed(text, first, np.minimum(inside * len(text) // size, last))

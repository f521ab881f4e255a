"""`Tokens`, `CodecTokens`: the tokens of a text and the characters at which they begin, so that every token has one owner.

NOTE: accounting. Tokens of parts do not add up to the tokens of the whole, because a token may join the end of one sentence
with the beginning of the next. Here a text is tokenised once, as a whole, and a token belongs to the stretch in which its first
character lies. Stretches that cover a text therefore hold all its tokens exactly once.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["CodecTokens", "TextCodec", "Tokens", "tokens_between"]

_CONTINUES: Final = 0x80  # a byte that continues a character in UTF-8, under the mask 0xC0


class Tokens(Protocol):
    """Counts and places the tokens of texts as the model reads them: as content, without control tokens."""

    def count(self, text: str) -> int:
        """Returns the number of tokens of a text."""
        ...

    def starts(self, text: str) -> NDArray[np.int64]:
        """Returns the offset of the character at which each token begins, ascending, each inside the text: int64 [tokens]."""
        ...


class TextCodec(Protocol):
    """The part of `dialogue.text.Codec` that counting needs."""

    def encode_text(self, text: str) -> list[int]:
        """Returns the tokens of a piece of text, in which control tokens are plain text."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes that a token stands for."""
        ...


class CodecTokens:
    """`Tokens` of a model's codec.

    A tokenizer that normalises (Unicode's form C) changes bytes; tokens are then placed by the normalised characters that they
    cover. One that changes text in other ways has its tokens spread evenly; their number is exact all the same.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec

    def count(self, text: str) -> int:
        return len(self._codec.encode_text(text))

    def starts(self, text: str) -> NDArray[np.int64]:
        pieces = [self._codec.token_bytes(token) for token in self._codec.encode_text(text)]
        sizes = np.array([len(piece) for piece in pieces], np.int64)
        before = np.cumsum(sizes) - sizes  # bytes in front of each token
        made = b"".join(pieces)
        last = max(len(text) - 1, 0)
        if text.encode() == made:
            return np.minimum(_characters(made)[before], last)
        composed, origins = _composed(text)
        if composed.encode() == made:
            return np.minimum(origins[_characters(made)[before]], last)
        return np.minimum(before * len(text) // max(len(made), 1), last)


def tokens_between(starts: NDArray[np.signedinteger[Any]], start: int, end: int) -> int:
    """Returns the number of tokens that begin in `text[start:end]`."""
    first, behind = np.searchsorted(starts, (start, end))
    return int(behind - first)


def _characters(data: bytes) -> NDArray[np.int64]:
    """Returns the number of the character that each byte of UTF-8 belongs to, and one entry for the end."""
    lead = (np.frombuffer(data, np.uint8) & 0xC0) != _CONTINUES
    return np.append(np.cumsum(lead) - 1, int(lead.sum()))


def _composed(text: str) -> tuple[str, NDArray[np.int64]]:
    """Returns a text in form C, and the offset in `text` of each of its characters and of its end."""
    formed: list[str] = []
    origins: list[int] = []
    for start, end in _clusters(text):
        one = unicodedata.normalize("NFC", text[start:end])
        formed.append(one)
        origins += [start] * len(one)
    return "".join(formed), np.array([*origins, len(text)], np.int64)


def _clusters(text: str) -> Sequence[tuple[int, int]]:
    """Returns runs of a character and what composes with it."""
    starts = [
        at
        for at, one in enumerate(text)
        if not at
        or not (unicodedata.combining(one) or "\u1161" <= one <= "\u11c2")  # vowels and finals of Hangul
    ]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))

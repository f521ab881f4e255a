"""`TokenMemo`: the tokens of pieces of text that were tokenised last, for those who sent them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

__all__ = ["TokenMemo", "TokenPieces"]


class TokenPieces:
    """Tokens of pieces of several owners. Pieces are known by their hash alone, and the least recently used are dropped.

    Args:
        most_bytes: most bytes of tokens, at four bytes each.
    """

    def __init__(self, most_bytes: int = 8 << 20) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self.nbytes = 0

    def of(self, owner: str) -> TokenMemo:
        """Returns the pieces of one owner. No other owner finds them, so that a fast answer tells nothing of another's text."""
        return TokenMemo(self, owner)

    def find(self, key: bytes) -> bytes | None:
        """Returns the tokens of a piece, as int32."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: bytes, tokens: bytes) -> None:
        """Keeps the tokens of a piece."""
        self._kept[key] = tokens
        self.nbytes += len(tokens)
        while self.nbytes > self._most_bytes:
            self.nbytes -= len(self._kept.popitem(last=False)[1])


class TokenMemo:
    """The pieces of one owner."""

    def __init__(self, pieces: TokenPieces, owner: str) -> None:
        self._pieces = pieces
        self._seed = hashlib.blake2b(owner.encode("utf-8", "replace"), digest_size=16).digest()

    def of(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Returns the tokens of a piece. Those of one that is not known are made by `encode`."""
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._seed).digest()
        found = self._pieces.find(key)
        if found is not None:
            return np.frombuffer(found, np.int32).tolist()
        tokens = encode(text)
        self._pieces.keep(key, np.array(tokens, np.int32).tobytes())
        return tokens

"""`PrefixCache`: what a replica's KV cache keeps of conversations that do not run, least recently used first out."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from deepwell.fleet.simulate.requests import ALONE

__all__ = ["BLOCK_TOKENS", "PrefixCache", "in_blocks"]

BLOCK_TOKENS: Final = 16  # as in the engine: the cache keeps whole blocks


def in_blocks(tokens: int) -> int:
    """Returns the tokens of the blocks that hold so many."""
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


class PrefixCache:
    """Tokens by conversation."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, int] = OrderedDict()
        self.tokens = 0

    def kept(self, conversation: int) -> int:
        """Returns the tokens of a conversation, without touching it."""
        return self._kept.get(conversation, 0)

    def take(self, conversation: int) -> int:
        """Hands the tokens of a conversation to a sequence that runs."""
        tokens = self._kept.pop(conversation, 0)
        self.tokens -= tokens
        return tokens

    def put(self, conversation: int, tokens: int) -> None:
        """Keeps what a sequence leaves, if anybody can ask for it again."""
        whole = tokens - tokens % BLOCK_TOKENS
        if conversation == ALONE or whole == 0:
            return
        self.tokens += whole - self._kept.pop(conversation, 0)
        self._kept[conversation] = whole

    def trim(self, room: int) -> None:
        """Drops the least recently used conversations until the others fit."""
        while self.tokens > room and self._kept:
            self.tokens -= self._kept.popitem(last=False)[1]

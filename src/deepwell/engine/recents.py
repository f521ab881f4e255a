"""`RecentSlots`: room for what only the last tokens of a sequence keep, beside the blocks that all of its tokens keep.

DeepSeek-V4 attends to single tokens within a window alone, and further back to entries of several tokens each. What is kept
of single tokens is large and soon of no use: it lies in slots, of which there are far fewer than blocks. A block has a slot
while a live sequence is near it, and then until others need the room: a later prompt that begins alike can go on only where the
slots behind it are still there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.batch import BLOCK_TOKENS

__all__ = ["RecentSlots", "blocks_held"]


def blocks_held(horizon: int, rows: int = 1) -> int:
    """Returns the most blocks whose slots a sequence needs at once to compute so many rows in a step."""
    return -(-(horizon + rows) // BLOCK_TOKENS) + 1


class RecentSlots:
    """A fixed number of slots, given to blocks. Every operation is O(1) per block.

    Args:
        num_blocks: blocks of the cache.
        num_slots: slots of the cache.
        horizon: tokens before a row that it reads one by one.

    Attributes:
        table: slot of each block, -1 for none: int32 [num_blocks]. Kernels read it.
    """

    def __init__(self, num_blocks: int, num_slots: int, horizon: int) -> None:
        self.table: NDArray[np.int32] = np.full(num_blocks, -1, np.int32)
        self.num_slots, self.horizon = num_slots, horizon
        self._free = list(range(num_slots - 1, -1, -1))  # a stack
        self._held: dict[int, int] = {}  # block -> live sequences that are near it
        self._idle: OrderedDict[int, None] = (
            OrderedDict()
        )  # blocks with slots that no sequence is near, oldest first

    @property
    def available(self) -> int:
        """Number of slots that can be given: free ones, and those that no sequence is near."""
        return len(self._free) + len(self._idle)

    def first(self, row: int) -> int:
        """Returns the index of the first block of a sequence whose slot a row at this position reads."""
        return max(0, row - self.horizon) // BLOCK_TOKENS

    def reusable(self, blocks: Sequence[int]) -> int:
        """Returns how many of these leading blocks a new sequence can begin with: the slots behind its next row are there."""
        missing, count = -1, 0  # the last block without a slot so far
        for index, block in enumerate(blocks):
            if self.table[block] < 0:
                missing = index
            if missing < self.first((index + 1) * BLOCK_TOKENS):
                count = index + 1
        return count

    def hold(self, blocks: Sequence[int]) -> bool:
        """Gives slots to blocks that a sequence comes near; those that have one keep it.

        Returns False, and does nothing, if too few are left.
        """
        new = [block for block in blocks if self.table[block] < 0]
        kept = sum(1 for block in blocks if block in self._idle)
        if len(new) > len(self._free) + len(self._idle) - kept:
            return False
        for block in blocks:
            if self.table[block] >= 0:
                self._idle.pop(block, None)
            self._held[block] = self._held.get(block, 0) + 1
        for block in new:
            self.table[block] = self._free.pop() if self._free else self._evict()
        return True

    def release(self, blocks: Iterable[int]) -> None:
        """A sequence leaves blocks behind, or ends. Their contents stay until the slots are needed."""
        for block in blocks:
            self._held[block] -= 1
            if not self._held[block]:
                del self._held[block]
                self._idle[block] = None

    def forget(self, blocks: Iterable[int]) -> None:
        """Blocks get other contents: what lies in their slots is of no use."""
        for block in blocks:
            if block in self._idle:
                del self._idle[block]
                self._free.append(int(self.table[block]))
                self.table[block] = -1

    def check_integrity(self, held: Iterable[Sequence[int]]) -> None:
        """Compares the counts with the blocks that live sequences hold. A difference is always a bug."""
        expected: dict[int, int] = {}
        for blocks in held:
            for block in blocks:
                expected[block] = expected.get(block, 0) + 1
        assert expected == self._held
        given = np.flatnonzero(self.table >= 0).tolist()
        assert sorted([*self._held, *self._idle]) == given
        assert sorted([*self._free, *self.table[given].tolist()]) == list(range(self.num_slots))

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        slot = int(self.table[block])
        self.table[block] = -1
        return slot

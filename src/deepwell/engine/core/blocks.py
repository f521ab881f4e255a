"""`BlockPool`: the owners of the blocks of the KV cache, and the full blocks that later prompts may reuse.

A full block is identified by its whole prefix: a chain of `Prefix` nodes, one per block. Each hash includes the hash
before it, starting from a seed of model, precision and salt. The hash finds a block, and the token ids of the chain
confirm it, so a collision costs a comparison but never gives a wrong answer.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from deepwell.engine.recents import RecentSlots
from deepwell.errors import DeepwellError

__all__ = ["BlockPool", "Prefix"]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


class Prefix:
    """One full block of a sequence and, through `parent`, all the tokens before it."""

    __slots__ = ("hash", "parent", "tokens")

    def __init__(self, parent: Prefix | None, tokens: bytes, hash: bytes) -> None:
        self.parent = parent
        self.tokens = tokens  # int32 ids, little endian; at the root, the seed
        self.hash = hash

    def same(self, other: Prefix) -> bool:
        """Returns whether both stand for the same tokens after the same seed."""
        a: Prefix | None = self
        b: Prefix | None = other
        while a is not b:
            if a is None or b is None or a.tokens != b.tokens:
                return False
            a, b = a.parent, b.parent
        return True


class BlockPool:
    """A fixed number of blocks. Every operation is O(1) per block.

    A block is *used* (references > 0), *free* (empty, or of no further use) or *cached*. A cached block is unreferenced, but
    its contents can serve a prefix hit until it is evicted as the least recently used block.

    Args:
        num_blocks: blocks of the KV cache.
        seed: everything besides the tokens that the contents of a block depend on: model, precision, dtype.
        digest: the hash function. A weak one slows the cache but changes nothing else.
        recents: slots of the blocks, where single tokens lie apart.
    """

    def __init__(
        self,
        num_blocks: int,
        *,
        seed: bytes = b"",
        digest: Callable[[bytes], bytes] = _digest,
        recents: RecentSlots | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self._recents = recents
        self._seed = seed
        self._digest = digest
        self._references = [0] * num_blocks
        self._content: list[Prefix | None] = [None] * num_blocks  # contents of the registered blocks
        self._by_hash: dict[bytes, int] = {}
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack
        self._cached: OrderedDict[int, None] = OrderedDict()  # unreferenced registered blocks, oldest first

    @property
    def available(self) -> int:
        """Number of blocks that `take` can hand out: free and cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        """Number of blocks that live sequences hold."""
        return self.num_blocks - self.available

    @property
    def cached(self) -> int:
        """Number of unreferenced blocks that are kept for prefix hits."""
        return len(self._cached)

    def root(self, salt: str, adapter: bytes = b"") -> Prefix:
        """Returns the empty prefix. Blocks are shared only between equal salts and adapters of equal digest."""
        framed = b"".join(len(part).to_bytes(4, "little") + part for part in (self._seed, adapter))
        tokens = framed + salt.encode(errors="surrogatepass")
        return Prefix(None, tokens, self._digest(tokens))

    def extend(self, parent: Prefix, tokens: bytes) -> Prefix:
        """Returns the prefix that is one full block longer; `tokens` are the int32 ids of that block."""
        return Prefix(parent, tokens, self._digest(parent.hash + tokens))

    def match(self, chain: Sequence[Prefix]) -> list[int]:
        """Returns the blocks of the longest stored run of `chain`, from its start."""
        blocks: list[int] = []
        known: Prefix | None = None  # contents of the last block, confirmed to be the chain so far
        for prefix in chain:
            block = self._by_hash.get(prefix.hash)
            content = None if block is None else self._content[block]
            if block is None or content is None or content.tokens != prefix.tokens:
                break
            # The blocks of a run mostly come from one sequence. Then the parent of each is the block before it.
            if content.parent is not known and not content.same(prefix):
                break
            blocks.append(block)
            known = content
        return blocks

    def register(self, block: int, prefix: Prefix) -> None:
        """Offers a computed full block to later prompts. The first block with a hash stays, unless it has lost its slot."""
        if self._content[block] is not None:
            return
        first = self._by_hash.get(prefix.hash)
        if first is not None:
            slots = None if self._recents is None else self._recents.table
            if slots is None or slots[first] >= 0 or slots[block] < 0:
                return
            self._withdraw(first)
            if not self._references[first]:
                del self._cached[first]
                self._free.append(first)
        self._content[block] = prefix
        self._by_hash[prefix.hash] = block

    def acquire(self, blocks: Iterable[int]) -> None:
        """Adds one reference to each block, as after `match`."""
        for block in blocks:
            if self._references[block] == 0:
                del self._cached[block]
            self._references[block] += 1

    def take(self, count: int) -> list[int] | None:
        """Takes `count` blocks to write, with one reference each. Returns None and takes nothing if there are fewer.

        Free blocks are taken first, then the least recently used cached blocks, which are evicted.
        """
        if count > len(self._free) + len(self._cached):
            return None
        blocks: list[int] = []
        for _ in range(count):
            block = self._free.pop() if self._free else self._evict()
            self._references[block] = 1
            blocks.append(block)
        if self._recents is not None:
            self._recents.forget(blocks)
        return blocks

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        self._withdraw(block)
        return block

    def _withdraw(self, block: int) -> None:
        """Offers a registered block to nobody any more."""
        content = self._content[block]
        assert content is not None
        del self._by_hash[content.hash]
        self._content[block] = None

    def private(self, block: int) -> bool:
        """Returns whether one sequence alone can read a block, and no later one."""
        return self._references[block] == 1 and self._content[block] is None

    def claim(self, blocks: Sequence[int]) -> list[int] | None:
        """Exchanges blocks of one sequence for private ones: each for itself, or for a new one if others can read it.

        Registered blocks stay in the cache if there is room to write elsewhere. Returns None and changes nothing if there are
        too few blocks.
        """
        public = [block for block in blocks if not self.private(block)]
        if len(public) > self.available:
            public = [block for block in public if self._references[block] > 1]
            if len(public) > self.available:
                return None
            for block in set(blocks).difference(public):
                if self._content[block] is not None:
                    self._withdraw(block)
        fresh = self.take(len(public))
        assert fresh is not None
        self.release(public)
        places = dict(zip(public, fresh, strict=True))
        return [places.get(block, block) for block in blocks]

    def release(self, blocks: Sequence[int]) -> None:
        """Drops one reference of each block of one sequence, given in order.

        They are released from the end so that a prefix outlives its continuations, because a block without its parent can
        never be hit.
        """
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._content[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def forget(self) -> None:
        """Empties the cache, so that no block computed so far is offered again."""
        for block in self._by_hash.values():
            self._content[block] = None
        self._by_hash.clear()
        self._free.extend(self._cached)
        self._cached.clear()

    def check_integrity(self, owners: Iterable[Sequence[int]]) -> None:
        """Compares the reference counts with the block lists of all live sequences.

        Raises:
            DeepwellError: there is a leak, a double use, or a wrong index. This is always a bug.
        """
        expected = [0] * self.num_blocks
        for blocks in owners:
            if len(set(blocks)) != len(blocks):
                raise DeepwellError(f"a sequence lists a block twice: {list(blocks)}")
            for block in blocks:
                expected[block] += 1
        if expected != self._references:
            wrong = [b for b in range(self.num_blocks) if expected[b] != self._references[b]]
            raise DeepwellError(f"reference counts of blocks {wrong[:8]} are wrong")
        idle = sorted([*self._free, *self._cached])
        if idle != [b for b in range(self.num_blocks) if expected[b] == 0]:
            raise DeepwellError("free and cached blocks are not exactly the unreferenced ones")
        if any(self._content[b] is not None for b in self._free) or any(
            self._content[b] is None for b in self._cached
        ):
            raise DeepwellError("a free block has contents, or a cached one has none")
        registered = {p.hash: b for b, p in enumerate(self._content) if p is not None}
        if registered != self._by_hash:
            raise DeepwellError("the prefix index does not mirror the blocks' contents")

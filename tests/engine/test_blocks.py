"""The block pool: nobody's block is handed out twice, and a prefix hit is always the right prefix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.blocks import BlockPool, Prefix
from deepwell.errors import DeepwellError


def block_of(value: int) -> bytes:
    return np.full(BLOCK_TOKENS, value, np.int32).tobytes()


def chain_of(pool: BlockPool, values: list[int], salt: str = "") -> list[Prefix]:
    chain: list[Prefix] = []
    parent = pool.root(salt)
    for value in values:
        parent = pool.extend(parent, block_of(value))
        chain.append(parent)
    return chain


def store(pool: BlockPool, values: list[int], salt: str = "") -> list[int]:
    """Compute, register and release the blocks of a prompt."""
    blocks = pool.take(len(values))
    assert blocks is not None
    for block, prefix in zip(blocks, chain_of(pool, values, salt), strict=True):
        pool.register(block, prefix)
    pool.release(blocks)
    return blocks


def test_take_hands_out_all_blocks_and_then_nothing() -> None:
    pool = BlockPool(4)
    blocks = pool.take(4)
    assert sorted(blocks or []) == [0, 1, 2, 3]
    assert pool.take(1) is None
    assert pool.take(0) == []


def test_take_that_fails_takes_nothing() -> None:
    pool = BlockPool(4)
    assert pool.take(5) is None
    assert pool.available == 4


def test_match_finds_the_longest_stored_run() -> None:
    pool = BlockPool(8)
    blocks = store(pool, [1, 2, 3])
    assert pool.match(chain_of(pool, [1, 2, 3, 4])) == blocks
    assert pool.match(chain_of(pool, [1, 2, 9])) == blocks[:2]
    assert pool.match(chain_of(pool, [2, 3])) == []


def test_salts_do_not_share_blocks() -> None:
    pool = BlockPool(8)
    store(pool, [1, 2], salt="a")
    assert pool.match(chain_of(pool, [1, 2], salt="b")) == []
    assert len(pool.match(chain_of(pool, [1, 2], salt="a"))) == 2


def test_seeds_do_not_share_blocks() -> None:
    a, b = BlockPool(8, seed=b"int8"), BlockPool(8, seed=b"int4")
    assert chain_of(a, [1])[0].hash != chain_of(b, [1])[0].hash


def test_eviction_takes_the_least_recently_used_tail_first() -> None:
    pool = BlockPool(4)
    old, new = store(pool, [1, 2]), store(pool, [3, 4])
    pool.acquire(pool.match(chain_of(pool, [1, 2])))  # used again: now the younger one
    pool.release(old)
    assert pool.take(1) == [new[1]]
    assert pool.match(chain_of(pool, [3, 4])) == new[:1]
    assert pool.match(chain_of(pool, [1, 2])) == old


def test_a_referenced_block_is_never_evicted() -> None:
    pool = BlockPool(3)
    hit = store(pool, [1, 2])
    pool.acquire(hit)
    assert pool.take(2) is None
    assert pool.match(chain_of(pool, [1, 2])) == hit


def test_forget_empties_the_cache_and_keeps_the_blocks_of_the_living() -> None:
    pool = BlockPool(4)
    hit = store(pool, [1, 2])
    pool.acquire(hit[:1])
    pool.forget()
    assert pool.match(chain_of(pool, [1, 2])) == []
    pool.check_integrity([hit[:1]])
    pool.release(hit[:1])
    assert pool.available == 4


def test_check_integrity_sees_a_leak() -> None:
    pool = BlockPool(4)
    pool.take(1)
    with pytest.raises(DeepwellError, match="reference counts"):
        pool.check_integrity([])


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "x"]), st.lists(st.integers(0, 2), min_size=1, max_size=5)),
        max_size=30,
    )
)
def test_hash_collisions_never_cause_a_wrong_hit(prompts: list[tuple[str, list[int]]]) -> None:
    """With a hash of two values nearly everything collides; each hit must still hold the asked tokens."""
    pool = BlockPool(6, digest=lambda data: bytes([sum(data) & 1]))
    contents: dict[int, tuple[str, list[int]]] = {}
    for salt, values in prompts:
        hits = pool.match(chain_of(pool, values, salt))
        for index, block in enumerate(hits):
            assert contents[block] == (salt, values[: index + 1])
        pool.acquire(hits)
        blocks = hits + (pool.take(len(values) - len(hits)) or [])
        assert len(blocks) == len(values)
        chain = chain_of(pool, values, salt)
        for index in range(len(hits), len(blocks)):
            contents[blocks[index]] = (salt, values[: index + 1])
            pool.register(blocks[index], chain[index])
        pool.check_integrity([blocks])
        pool.release(blocks)
        pool.check_integrity([])

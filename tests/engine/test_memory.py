"""Low-rank memory: tokens that have left a window are attended to through factors of their keys and values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.backends import backend
from tests.engine.fakes import fake_engine
from tests.engine.test_shift import VOCAB, Decoder, grouped

from deepwell.engine.backends import native, reference
from deepwell.engine.backends.reference_memory import factored
from deepwell.engine.backends.specs import MemorySpec
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import KVDtype
from deepwell.engine.memory import memory_spec
from deepwell.engine.protocol import GenerateRequest, Window
from deepwell.errors import InvalidRequest

SPEC = MemorySpec(tokens=48, first=16, key_rank=16, value_rank=16, floor=16, most=4)
TOKENS = np.random.default_rng(4).integers(0, VOCAB, 400).astype(np.int32)


def low_rank(rng: np.random.Generator, rank: int, tokens: int = 200, dim: int = 64) -> NDArray[np.float32]:
    """Rows of a rank beside their mean, [1, 1, tokens, dim]."""
    rows = rng.standard_normal((tokens, rank)) @ rng.standard_normal((rank, dim)) + 30 * rng.standard_normal(
        dim
    )
    return rows.astype(np.float32)[None, None]


class Reading:
    """A decoder whose sequence slides through a window of 16 + 96 tokens, with a memory.

    Rows of latent attention at places below `prompt` are of a prompt; None: all are.
    """

    def __init__(self, decoder: Decoder, spec: MemorySpec = SPEC, prompt: int | None = None) -> None:
        self.decoder, self.spec, self.prompt = decoder, spec, prompt
        self.memory: Any = decoder.model.memory(decoder.cache, spec)
        self.table = list(range(7))
        self.position = 0

    def read(self, tokens: NDArray[np.int32], step: int = 16) -> NDArray[np.float32]:
        """Reads tokens and returns the logits of the last."""
        logits = np.empty((1, VOCAB), np.float32)
        for start in range(0, len(tokens), step):
            if self.position == 112:
                self.slide()
            part = tokens[start : start + step]
            logits = self.forward([part], [self.memory])
            self.position += len(part)
        return logits[0]

    def forward(self, rows: list[NDArray[np.int32]], memories: list[Any]) -> NDArray[np.float32]:
        """Logits of the last row of each sequence, all of which have this one's pages."""
        ends = np.cumsum([0, *map(len, rows)]).astype(np.int32)
        places = np.concatenate([np.arange(len(row), dtype=np.int32) for row in rows]) + np.int32(
            self.position
        )
        batch = Batch(
            np.concatenate(rows), places, ends, np.array([self.table] * len(rows), np.int32), ends[1:] - 1
        )
        if self.prompt is not None:
            batch = replace(batch, prompt_lengths=np.full(len(rows), self.prompt, np.int32))
        logits = np.empty((len(rows), VOCAB), np.float32)
        self.decoder.model.forward(
            replace(batch, memories=tuple(memories)), self.decoder.cache, logits=logits
        )
        return logits

    def slide(self) -> None:
        recent = self.table[1:]
        self.decoder.model.remember_blocks(self.decoder.cache, self.memory, recent[:3])
        self.decoder.model.shift_blocks(self.decoder.cache, recent[3:], recent[3:], 48)
        self.table = [0, *recent[3:], *recent[:3]]
        self.position -= 48


@pytest.mark.parametrize("rank", [16, 32])
def test_rows_of_that_rank_are_kept_to_the_rounding_of_their_codes(rank: int) -> None:
    rows = low_rank(np.random.default_rng(1), rank)
    kept = factored(rows, rank)
    error = np.abs(kept.rows(0) - rows[0]).max() / np.abs(rows - rows.mean(axis=2, keepdims=True)).max()
    assert error < 0.1
    worse = factored(rows, rank // 2)
    assert np.square(worse.rows(0) - rows[0]).sum() > 10 * np.square(kept.rows(0) - rows[0]).sum()


def test_equal_rows_are_their_mean() -> None:
    rows = np.full((2, 3, 32, 24), 7.5, np.float32)
    kept = factored(rows, 16)
    assert not kept.basis.any()
    assert np.array_equal(kept.rows(1), rows[1])


@pytest.mark.parametrize("dtype", get_args(KVDtype))
@pytest.mark.parametrize("head_dim", [16, 18, 24])
@pytest.mark.parametrize("floor", [16, -255, -40])
def test_every_kernel_table_remembers_as_the_reference(
    isa: str, head_dim: int, dtype: KVDtype, floor: int
) -> None:
    backend("native")
    spec = replace(
        SPEC, floor=floor, key_rank=16 if head_dim == 16 else 32, value_rank=16 if head_dim == 16 else 32
    )
    ours, specified = (
        Reading(grouped(native, dtype, head_dim), spec),
        Reading(grouped(reference, dtype, head_dim), spec),
    )
    found, expected = (one.read(TOKENS[:330]) for one in (ours, specified))
    assert ours.memory.tokens == specified.memory.tokens == 4 * 48, "the oldest of five segments is dropped"
    without, kept = (specified.forward([TOKENS[330:331]], [one])[0] for one in (None, specified.memory))
    assert np.linalg.norm(found - expected) < 0.3 * np.linalg.norm(kept - without)


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_rows_of_low_rank_are_attended_to_as_if_they_were_there(engine: str) -> None:
    """Keys and values of six tokens have a rank of five beside their mean; the window forgets and still knows them."""
    few = TOKENS[:6][np.random.default_rng(1).integers(0, 6, 161)]
    reading = Reading(grouped(backend(engine), "fp32", 16), replace(SPEC, floor=-255))
    reading.read(few[:160])
    assert reading.memory.tokens == 48
    reading.table = [*reading.table, 8]
    kept, lost = (reading.forward([few[160:]], [one])[0] for one in (reading.memory, None))
    whole = Reading(grouped(backend(engine), "fp32", 16))
    whole.table = list(range(11))
    whole.decoder.run(few[:160], 0, whole.table)
    exact = whole.decoder.run(few[160:], 160, whole.table)
    assert np.abs(lost - exact).max() > 0.01
    assert np.linalg.norm(kept - exact) < np.linalg.norm(lost - exact)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_company_steps_and_threads_change_no_bit(isa: str, rows: int, two_threads: None) -> None:
    """A row is alone, one of a few and one of many; beside it stand a sequence without a memory and one with another."""
    backend("native")
    reading = Reading(grouped(native, "bf16"))
    reading.read(TOKENS[:304])
    other = Reading(grouped(native, "bf16"))
    other.read(TOKENS[5:309])
    reading.table = [*reading.table, 8, 9, 10, 11]
    asked = TOKENS[310 : 310 + rows]
    alone = reading.forward([asked], [reading.memory])[0]
    native.set_threads(1)
    assert np.array_equal(reading.forward([asked], [reading.memory])[0], alone)
    native.set_threads(2)
    start, table = reading.position, reading.table
    single = alone
    for row in range(rows):
        single = reading.forward([asked[row : row + 1]], [reading.memory])[0]
        reading.position += 1
    assert np.array_equal(single, alone)
    reading.position, reading.table = start, table
    company = reading.forward([asked[:1], asked[:1], asked[:1]], [None, reading.memory, other.memory])
    reading.position = start
    assert np.array_equal(company[1], reading.forward([asked[:1]], [reading.memory])[0])
    assert not np.array_equal(company[0], company[1]) and not np.array_equal(company[2], company[1])


def test_a_memory_says_what_it_takes(isa: str) -> None:
    """Codes of half a byte, bases of two and means of four."""
    backend("native")
    reading = Reading(grouped(native, "bf16", 32))
    reading.read(TOKENS[:304])
    segment = 2 * (48 * 32 // 2 + 2 * 32 * 16 * 2 + 2 * 32 * 4)
    assert reading.memory.nbytes == 4 * segment


@pytest.mark.parametrize("engine", ["reference", "native"])
@pytest.mark.parametrize("ranks", [(0, 16), (16, 8), (16, 48)])
def test_ranks_that_no_head_has_are_refused(engine: str, ranks: tuple[int, int]) -> None:
    decoder = grouped(backend(engine), "bf16", 32)
    with pytest.raises(ValueError, match="multiple of 16"):
        decoder.model.memory(decoder.cache, replace(SPEC, key_rank=ranks[0], value_rank=ranks[1]))


def test_blocks_that_no_cache_has_are_refused() -> None:
    decoder = grouped(backend("native"), "bf16")
    memory: Any = decoder.model.memory(decoder.cache, SPEC)
    for blocks in ([0, 1], [0, 1, 16], [-1, 0, 1]):
        with pytest.raises(ValueError, match="remember_blocks"):
            decoder.model.remember_blocks(decoder.cache, memory, blocks)
    assert memory.tokens == 0


def test_a_window_says_which_factors_it_wants() -> None:
    spec = memory_spec(Window(64, 1024, rank=32, remembered=2000), 4096)
    assert (spec.tokens, spec.first, spec.key_rank, spec.value_rank) == (512, 64, 32, 32)
    assert spec.most == 4, "as many whole segments as hold 2,000 tokens"
    assert 1088 - spec.floor == 4096, "no token is farther from the end of the window than the model reaches"
    assert spec.tokens % BLOCK_TOKENS == 0


def test_a_rank_that_the_model_cannot_keep_is_refused() -> None:
    with fake_engine(num_blocks=8, max_model_len=64) as engine, pytest.raises(InvalidRequest) as caught:
        engine.generate_sync(GenerateRequest("a", [1], window=Window(16, 32, rank=24)))
    assert "multiple of 16" in caught.value.fix and caught.value.param == "window"

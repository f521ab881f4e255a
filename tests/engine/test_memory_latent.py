"""Low-rank memory of latents: one factor serves the keys and values of all heads, the rotated part has its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from tests.engine.backends import backend
from tests.engine.latent_models import Shape
from tests.engine.test_memory import SPEC, TOKENS, Reading
from tests.engine.test_shift import LATENT, SPARSE, latent

from deepwell.engine.backends import native, reference
from deepwell.engine.layouts import KVDtype

SHAPES = {
    "ragged": LATENT,
    "lanes": Shape(heads=20, nope=24, rope=24, value=40, rank=48, hidden=64, layers=1),
}
PROMPT = (None, 0)  # rows attend to expanded keys and values, or in the latents' space


@pytest.mark.parametrize("prompt", PROMPT)
@pytest.mark.parametrize("dtype", get_args(KVDtype))
@pytest.mark.parametrize("rank", [16, 32, 48])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_kernel_table_remembers_latents_as_the_reference(
    isa: str, shape: Shape, rank: int, dtype: KVDtype, prompt: int | None
) -> None:
    backend("native")
    spec = replace(SPEC, floor=-255, key_rank=rank, value_rank=rank)
    ours, specified = (Reading(latent(run, dtype, shape), spec, prompt=prompt) for run in (native, reference))
    found, expected = (one.read(TOKENS[:330]) for one in (ours, specified))
    assert ours.memory.tokens == specified.memory.tokens == 4 * 48
    without, kept = (specified.forward([TOKENS[330:331]], [one])[0] for one in (None, specified.memory))
    assert np.linalg.norm(found - expected) < 0.3 * np.linalg.norm(kept - without)


@pytest.mark.parametrize("prompt", PROMPT)
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_latents_of_low_rank_are_attended_to_as_if_they_were_there(engine: str, prompt: int | None) -> None:
    """Latents of six tokens have a rank of five beside their mean; the window forgets and still knows them."""
    few = TOKENS[:6][np.random.default_rng(1).integers(0, 6, 161)]
    reading = Reading(latent(backend(engine), "fp32"), replace(SPEC, floor=-255), prompt=prompt)
    reading.read(few[:160])
    assert reading.memory.tokens == 48
    reading.table = [*reading.table, 8]
    kept, lost = (reading.forward([few[160:]], [one])[0] for one in (reading.memory, None))
    whole = Reading(latent(backend(engine), "fp32"), prompt=prompt)
    whole.table = list(range(11))
    whole.decoder.run(few[:160], 0, whole.table)
    exact = whole.decoder.run(few[160:], 160, whole.table)
    assert np.abs(lost - exact).max() > 0.01
    assert np.linalg.norm(kept - exact) < np.linalg.norm(lost - exact)


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_a_prompt_and_what_is_generated_see_the_same_memory(engine: str) -> None:
    readings = [Reading(latent(backend(engine), "fp32"), prompt=prompt) for prompt in PROMPT]
    expanded, absorbed = (one.read(TOKENS[:304]) for one in readings)
    assert np.abs(expanded - absorbed).max() < 1e-3 * np.abs(expanded).max() + 1e-2


@pytest.mark.parametrize("prompt", PROMPT)
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_company_steps_and_threads_change_no_bit(
    isa: str, rows: int, dtype: str, prompt: int | None, two_threads: None
) -> None:
    """A row is alone, one of a few and one of many; beside it stand a sequence without a memory and one with another."""
    backend("native")
    shape = SHAPES["lanes"]
    reading, other = (Reading(latent(native, dtype, shape), prompt=prompt) for _ in range(2))
    reading.read(TOKENS[:304])
    other.read(TOKENS[5:309])
    reading.table = [*reading.table, 8, 9, 10, 11]
    asked = TOKENS[310 : 310 + rows]
    alone = reading.forward([asked], [reading.memory])[0]
    native.set_threads(1)
    assert np.array_equal(reading.forward([asked], [reading.memory])[0], alone)
    native.set_threads(2)
    start, single = reading.position, alone
    for row in range(rows):
        single = reading.forward([asked[row : row + 1]], [reading.memory])[0]
        reading.position += 1
    assert np.array_equal(single, alone)
    reading.position = start
    company = reading.forward([asked[:1]] * 3, [None, reading.memory, other.memory])
    assert np.array_equal(company[1], reading.forward([asked[:1]], [reading.memory])[0])
    assert not np.array_equal(company[0], company[1]) and not np.array_equal(company[2], company[1])


def test_a_memory_of_latents_says_what_it_takes(isa: str) -> None:
    """Codes of the latents twice, of the rotated part once; bases and means of padded widths, in whole lines of 64 bytes."""
    backend("native")
    reading = Reading(latent(native, "bf16"), replace(SPEC, key_rank=32, value_rank=32))
    reading.read(TOKENS[:304])
    codes, bases, means = 48 * (2 * 32 + 16) // 2, 2 * (32 * 64 + 16 * 16), 4 * (64 + 16)
    assert reading.memory.nbytes == 4 * -(-(codes + bases + means) // 64) * 64


@pytest.mark.parametrize("engine", ["reference", "native"])
@pytest.mark.parametrize("ranks", [(0, 16), (16, 8), (16, 64)])
def test_ranks_that_no_latent_has_are_refused(engine: str, ranks: tuple[int, int]) -> None:
    decoder = latent(backend(engine), "bf16")
    with pytest.raises(ValueError, match="multiple of 16"):
        decoder.model.memory(decoder.cache, replace(SPEC, key_rank=ranks[0], value_rank=ranks[1]))


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_the_keys_of_an_indexer_are_not_kept(engine: str) -> None:
    decoder = latent(backend(engine), "bf16", SPARSE)
    with pytest.raises(ValueError, match="indexer"):
        decoder.model.memory(decoder.cache, SPEC)


def test_a_memory_belongs_to_caches_of_its_shape() -> None:
    backend("native")
    one, other = latent(native, "bf16"), latent(native, "bf16", SHAPES["lanes"])
    memory: Any = one.model.memory(one.cache, SPEC)
    with pytest.raises(ValueError, match="another model"):
        other.model.remember_blocks(other.cache, memory, [0, 1, 2])

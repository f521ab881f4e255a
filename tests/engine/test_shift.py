"""`shift_blocks`: keys that are turned back are those of tokens that stand where they have been moved to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.backends import backend
from tests.engine.latent_models import EPS, Shape, Weights

from deepwell.engine.backends import native, reference
from deepwell.engine.backends.specs import AttentionSpec
from deepwell.engine.batch import Batch
from deepwell.engine.layouts import KVDtype
from deepwell.engine.weights import quantize

COUNT, SHIFT, VOCAB, HIDDEN = 48, 64, 50, 48
# Keys of one layer depend on their token and position alone. A narrow key is rounded twice, at two angles.
MAX_ERROR = {"fp32": 1e-4, "bf16": 2e-2, "int8": 4e-2}
MAX_DIFFERENCE = {
    "fp32": 1e-4,
    "bf16": 1e-2,
    "int8": 2e-2,
}  # between backends: a last bit may round the other way
LATENT = Shape(heads=3, nope=12, rope=8, value=20, rank=40, q_rank=24, layers=1)
SPARSE = replace(LATENT, top_k=20, index_heads=2)


@dataclass
class Decoder:
    """A model of one layer with its cache."""

    model: Any
    cache: Any
    vocab: int = VOCAB

    def run(self, tokens: NDArray[np.int32], first: int, table: list[int]) -> NDArray[np.float32]:
        """Computes tokens at positions `first`..., as a prompt, and returns the logits of the last."""
        out = np.empty((1, self.vocab), np.float32)
        batch = Batch(
            tokens,
            np.arange(first, first + len(tokens), dtype=np.int32),
            np.array([0, len(tokens)], np.int32),
            np.array([table], np.int32),
            np.array([len(tokens) - 1], np.int32),
        )
        self.model.forward(batch, self.cache, logits=out)
        return out[0]


def grouped(run: Any, dtype: str, head_dim: int = 24, factor: float = 1.0) -> Decoder:
    """Grouped-query attention; `factor` is yarn's, in both tables."""
    rng = np.random.default_rng(1)

    def packed(rows: int, cols: int) -> Any:
        weights = rng.standard_normal((rows, cols), np.float32) / np.float32(np.sqrt(cols))
        return run.matrix(quantize.pack(weights, "fp32"), rows, cols, "fp32")

    ones, embed = np.ones(HIDDEN, np.float32), packed(VOCAB, HIDDEN)
    qkv, o, head = packed(8 * head_dim, HIDDEN), packed(HIDDEN, 4 * head_dim), packed(VOCAB, HIDDEN)
    attention = run.attention(
        AttentionSpec(ones, qkv, None, o, num_heads=4, num_kv_heads=2, head_dim=head_dim, eps=EPS)
    )
    angles = np.arange(256)[:, None] * 0.7 ** np.arange(head_dim // 2)
    cos, sin = ((table * factor).astype(np.float32) for table in (np.cos(angles), np.sin(angles)))
    model = run.model(embed, [attention], ones, head, cos, sin, eps=EPS)
    return Decoder(model, run.kv_cache(1, 16, 2, head_dim, dtype))


def latent(run: Any, dtype: str, shape: Shape = LATENT) -> Decoder:
    weights = Weights(shape)
    return Decoder(weights.on(run), weights.cache(run, 240, dtype))


KINDS: dict[str, Callable[[Any, str], Decoder]] = {
    "grouped": grouped,
    "odd heads": lambda run, dtype: grouped(run, dtype, 18),
    "large heads": lambda run, dtype: grouped(run, dtype, 128),
    "yarn": lambda run, dtype: grouped(run, dtype, factor=1.3),
    "latent": latent,
    "sparse": lambda run, dtype: latent(run, dtype, SPARSE),
}
TOKENS = np.random.default_rng(2).integers(0, VOCAB, COUNT + 1).astype(np.int32)
UP, TARGETS, QUERY = [9, 3, 7], [2, 12, 5], 14


def computed(decoder: Decoder) -> NDArray[np.float32]:
    """Logits of the token behind tokens that were computed where they stand."""
    decoder.run(TOKENS[:-1], 0, [*TARGETS, QUERY])
    return decoder.run(TOKENS[-1:], COUNT, [*TARGETS, QUERY])


def moved(decoder: Decoder, targets: list[int] = TARGETS) -> NDArray[np.float32]:
    """The same behind tokens that were computed 64 positions further up, and moved down."""
    decoder.run(TOKENS[:-1], SHIFT, [0, 1, 4, 6, *UP])
    decoder.model.shift_blocks(decoder.cache, UP, targets, SHIFT)
    return decoder.run(TOKENS[-1:], COUNT, [*targets, QUERY])


@pytest.mark.parametrize("dtype", get_args(KVDtype))
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_turns_keys_back(kind: str, dtype: KVDtype) -> None:
    make = KINDS[kind]
    expected = computed(make(reference, dtype))
    assert np.abs(moved(make(reference, dtype)) - expected).max() < MAX_ERROR[dtype]
    unmoved = make(reference, dtype)
    unmoved.run(TOKENS[:-1], SHIFT, [0, 1, 4, 6, *UP])
    assert np.abs(unmoved.run(TOKENS[-1:], COUNT, [*UP, QUERY]) - expected).max() > 2 * MAX_ERROR[dtype]


@pytest.mark.parametrize("dtype", get_args(KVDtype))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_table_turns_keys_back_as_the_reference(isa: str, kind: str, dtype: KVDtype) -> None:
    backend("native")
    make = KINDS[kind]
    result = moved(make(native, dtype))
    assert np.abs(result - computed(make(native, dtype))).max() < MAX_ERROR[dtype]
    assert np.abs(result - moved(make(reference, dtype))).max() < MAX_DIFFERENCE[dtype]


@pytest.mark.parametrize("dtype", get_args(KVDtype))
@pytest.mark.parametrize("kind", ["grouped", "latent", "sparse"])
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_in_place_or_elsewhere_the_bits_are_the_same(engine: str, kind: str, dtype: KVDtype) -> None:
    run = backend(engine)
    elsewhere, in_place, mixed = (
        moved(KINDS[kind](run, dtype), targets) for targets in (TARGETS, UP, [UP[0], 12, UP[2]])
    )
    assert np.array_equal(in_place, elsewhere) and np.array_equal(mixed, elsewhere)


@pytest.mark.parametrize("engine", ["reference", "native"])
@pytest.mark.parametrize("kind", ["grouped", "sparse"])
def test_sources_and_other_blocks_stay_as_they_were(engine: str, kind: str) -> None:
    decoder = KINDS[kind](backend(engine), "int8")
    table = [0, 1, 4, 6, *UP, 8]
    decoder.run(TOKENS[:-1], SHIFT, table)
    before = decoder.run(TOKENS[-1:], SHIFT + COUNT, table)
    decoder.model.shift_blocks(decoder.cache, [*UP, 4], [*TARGETS, 11], SHIFT)
    assert np.array_equal(decoder.run(TOKENS[-1:], SHIFT + COUNT, table), before)


@pytest.mark.parametrize("kind", ["grouped", "latent"])
def test_threads_change_no_bit(kind: str, two_threads: None) -> None:
    backend("native")
    both = moved(KINDS[kind](native, "int8"))
    native.set_threads(1)
    assert np.array_equal(moved(KINDS[kind](native, "int8")), both)


@pytest.mark.parametrize(
    ("sources", "targets", "positions"),
    [([0], [16], 16), ([-1], [0], 16), ([0, 1], [2], 16), ([0], [1], 0), ([0], [1], 256), ([0], [1], -16)],
)
def test_a_shift_that_would_leave_its_arrays_is_refused(
    sources: list[int], targets: list[int], positions: int
) -> None:
    decoder = grouped(backend("native"), "bf16")
    with pytest.raises(ValueError, match="shift_blocks"):
        decoder.model.shift_blocks(decoder.cache, sources, targets, positions)

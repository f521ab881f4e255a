"""Where stored rows go in packed matrices: heads padded to panels, rotary rows de-interleaved, experts stacked."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deepwell.engine.architectures import tensors
from deepwell.engine.architectures.tensors import HeadRows, MatrixPlan, row_map, source_places
from deepwell.engine.weights import quantize

head_rows = st.builds(
    lambda heads, nope, pairs, rest, pad: HeadRows(
        heads, nope + 2 * pairs + rest, 0, nope + 2 * pairs, 2 * pairs, pad
    ),
    st.integers(1, 4),
    st.integers(0, 9),
    st.integers(1, 4),
    st.integers(0, 3),
    st.sampled_from([1, 32]),
)


def arranged(plan: MatrixPlan, sources: list[np.ndarray]) -> np.ndarray:
    """The matrix by its map, zero where nothing goes."""
    source, row = row_map(plan, [len(values) for values in sources])
    stacked = np.zeros((plan.rows, sources[0].shape[1]), sources[0].dtype)
    for index, values in enumerate(sources):
        stacked[source == index] = values[row[source == index]]
    return stacked


@given(head_rows)
def test_rotary_rows_are_de_interleaved_head_by_head(selection: HeadRows) -> None:
    stored = np.arange(1, selection.heads * selection.stride + 1)[:, None]
    plan = MatrixPlan("m", selection.heads * selection.padded, 1, ("s",), "body", heads=(selection,))
    heads = arranged(plan, [stored]).reshape(selection.heads, selection.padded)
    for mine, theirs in zip(heads, stored.reshape(selection.heads, -1), strict=True):
        plain = selection.count - selection.interleaved
        pairs = theirs[plain : selection.count]
        assert mine[: selection.count].tolist() == [*theirs[:plain], *pairs[0::2], *pairs[1::2]]
        assert not mine[selection.count :].any()


@given(pairs=st.integers(1, 4), rows=st.integers(1, 40))
def test_stacked_experts_alternate_gate_and_up(pairs: int, rows: int) -> None:
    sources = [np.arange(1, rows + 1)[:, None] + 1000 * i for i in range(2 * pairs)]
    expected = np.concatenate(
        [quantize.interleave_gate_up(sources[i], sources[i + 1]) for i in range(0, 2 * pairs, 2)]
    )
    names = tuple(str(i) for i in range(2 * pairs))
    plan = MatrixPlan("m", len(expected), 1, names, "body", "interleave")
    assert np.array_equal(arranged(plan, sources), expected)
    for index, values in enumerate(sources):
        places = source_places(plan, [rows] * len(sources), index)
        assert np.array_equal(expected[places], values), "what an adapter of this expert adds to"


@given(st.lists(head_rows, min_size=1, max_size=3))
def test_places_are_the_inverse_of_the_map(selections: list[HeadRows]) -> None:
    whole = [HeadRows(s.heads, s.count, 0, s.count, s.interleaved, s.pad) for s in selections]
    counts = [s.heads * s.stride for s in whole]
    names = tuple(str(i) for i in range(len(whole)))
    plan = MatrixPlan("m", sum(s.heads * s.padded for s in whole), 1, names, "body", heads=tuple(whole))
    source, row = row_map(plan, counts)
    for index, count in enumerate(counts):
        places = source_places(plan, counts, index)
        assert np.array_equal(row[places], np.arange(count))
        assert (source[places] == index).all()


def test_constants_are_those_of_the_layout() -> None:
    assert tensors.GATE_UP_ROWS == quantize.GATE_UP_ROWS

"""Candidates, their sizes, the proxy, evolution, the journal and the front, without torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.models.formats.config import Block, ModelConfig
from deepwell.models.store.layout import expected_tensors
from deepwell.tuning.compress.columns import moments_factor, removal_path, remove_inputs
from deepwell.tuning.compress.search.evolution import evenly, evolved, shallow
from deepwell.tuning.compress.search.front import front_of
from deepwell.tuning.compress.search.journal import Journal, is_number
from deepwell.tuning.compress.search.options import SearchOptions
from deepwell.tuning.compress.search.padding import padded
from deepwell.tuning.compress.search.proxy import LossProxy, LossTable
from deepwell.tuning.compress.search.space import Candidate, Population, Space
from deepwell.tuning.compress.search.speed import SpeedTable, Timing, table_shapes
from deepwell.tuning.compress.shapes import Shape, parameters_of, shapes_for

CONFIG = ModelConfig("llama", 1000, 64, 384, 8, 6, 3, 16, 256, tie_word_embeddings=True)
SPACE = Space(CONFIG, uniform=False)
MIXED = Candidate(2, (True, False, True, True, False, True, True, True), (384, 64, 0, 128, 0, 384, 256, 384))


def table(space: Space) -> LossTable:
    """Returns a table whose later layers matter more."""
    measured: dict[str, float] = {}
    for layer in range(space.layers):
        measured[f"layer {layer}"] = 0.1 * (layer + 1)
        measured[f"attention {layer}"] = 0.01 * (layer + 1)
        for level in range(0, len(space.levels) - 1, 2):
            measured[f"width {layer} {level}"] = 0.08 * (layer + 1) * (1 - level / 6)
    for level in range(len(space.kv_heads) - 1):
        measured[f"heads {level}"] = 0.5
    return LossTable.of(space, 2.0, measured)


def test_a_candidate_has_the_size_of_its_tensors() -> None:
    shape = MIXED.shape()
    config = shape.applied(CONFIG)
    wanted = sum(int(np.prod(one)) for _, one in expected_tensors(config))
    assert parameters_of(CONFIG, shape) == wanted
    found = SPACE.sizes(SPACE.population([MIXED, SPACE.donor]))
    assert found.tolist() == [wanted, SPACE.size]
    assert MIXED.layers == [0, 1, 2, 3, 5, 6, 7]
    assert config.attention_layers == 6
    assert shape.blocks[1:3] == (Block(False, 64), Block(True, 0))
    assert Candidate.from_json(json.loads(MIXED.key)) == MIXED
    assert SPACE.candidate(SPACE.population([MIXED]), 0) == MIXED


def test_layers_that_are_alike_need_no_blocks() -> None:
    plain = Candidate(3, (True,) * 3 + (False,) + (True,) * 4, (256,) * 3 + (0,) + (256,) * 4)
    assert plain.shape() == Shape(7, 256, 3)
    assert plain.is_plain
    qwen = replace(CONFIG, architecture="qwen2", attention_bias=True)
    assert MIXED.shape().applied(qwen).architecture == "llama"
    assert plain.shape().applied(qwen).architecture == "qwen2"
    with pytest.raises(UnsupportedModel, match="qwen3"):
        Space(replace(CONFIG, architecture="qwen3"), uniform=False)


def test_a_path_of_removals_begins_as_one_removal_and_is_nested() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((300, 24)) @ rng.standard_normal((24, 24))
    weight = rng.standard_normal((6, 24)).astype(np.float32)
    moments = inputs.T @ inputs / 300
    inverse = moments_factor(moments)
    path = removal_path(weight, inverse, [20, 12, 5])
    assert set(path[5].groups) < set(path[12].groups) < set(path[20].groups)

    def error(keep: int, found: np.ndarray, groups: np.ndarray) -> float:
        return float(np.square(inputs[:, groups] @ found.T - inputs @ weight.T).mean())

    for keep, kept in path.items():
        alone = remove_inputs(weight, inverse, keep)
        assert error(keep, kept.weight, kept.groups) < 1.3 * error(keep, alone.weight, alone.groups)


def test_the_proxy_adds_rises_and_learns_what_they_miss() -> None:
    proxy = LossProxy(SPACE, table(SPACE))
    donor = SPACE.population([SPACE.donor])
    assert proxy.predict(donor)[0] == pytest.approx(2.0, abs=0.01)
    narrow = replace(SPACE.donor, channels=(*SPACE.donor.channels[:-1], SPACE.levels[1]))
    between = proxy.predict(SPACE.population([narrow]))[0]  # level 1 lies between two measured ones
    assert between == pytest.approx(2 + 0.08 * 8 * 5 / 6, rel=0.05)
    rng = np.random.default_rng(1)
    tried: dict[Candidate, float] = {}
    for _ in range(40):
        population = Population(rng.integers(1, 7, (1, 8)), rng.random((1, 8)) < 0.7, np.array([1]))
        one = SPACE.candidate(SPACE.repaired(population), 0)
        added = float(proxy.table.added(SPACE.population([one]))[0])
        tried[one] = 2 + 1.8 * added**1.3
    before = proxy.error(tried)
    proxy.learn(tried)
    assert proxy.error(tried) < 0.08 < before


@pytest.mark.parametrize("uniform", [False, True])
def test_evolution_keeps_to_the_budget_and_beats_chance(uniform: bool) -> None:
    space = Space(CONFIG, uniform=uniform)
    proxy = LossProxy(space, table(space))
    budget = 0.75 * space.size
    best = evolved(space, proxy.predict, space.sizes, budget, [], (0, 1))
    assert best is not None
    assert (
        evolved(space, proxy.predict, space.sizes, budget, [], (0, 1)) == best
    )  # the same seed, the same end
    assert space.sizes(space.population([best]))[0] <= budget
    assert best.is_plain or not uniform
    other = evolved(space, proxy.predict, space.sizes, budget, [best], (0, 1), known={best})
    assert other not in (best, None)
    loss = float(proxy.predict(space.population([best]))[0])
    first = [n for n in range(8) if n >= 3]  # without the first three layers, which matter least
    whole = Candidate(3, tuple(n in first for n in range(8)), tuple(384 * (n in first) for n in range(8)))
    assert space.sizes(space.population([whole]))[0] <= budget
    assert loss <= float(proxy.predict(space.population([whole]))[0])


@pytest.mark.parametrize("uniform", [False, True])
def test_even_and_shallow_cuts_are_the_largest_of_their_kind_within_a_budget(uniform: bool) -> None:
    space = Space(CONFIG, uniform=uniform)
    loss = table(space).added
    budget = 0.8 * space.size
    even, flat = (make(space, loss, space.sizes, budget) for make in (evenly, shallow))
    assert even is not None and flat is not None
    sizes = space.sizes(space.population([even, flat]))
    assert (sizes <= budget).all()
    assert all(even.attention) and max(even.channels) - min(even.channels) <= (0 if uniform else 64)
    assert flat.is_plain and flat.layers == list(range(8 - len(flat.layers), 8))  # later layers matter more
    layer = parameters_of(CONFIG, Shape(1, 384, 3)) - parameters_of(CONFIG, Shape(0, 0, 3))
    assert sizes[1] + layer > budget
    assert evenly(space, loss, space.sizes, 1000.0) is None
    assert shallow(space, loss, space.sizes, 1000.0) is None


def test_no_candidate_is_within_an_impossible_budget() -> None:
    proxy = LossProxy(SPACE, table(SPACE))
    assert evolved(SPACE, proxy.predict, SPACE.sizes, 1000.0, [], (0,)) is None


def test_times_of_parts_are_found_from_those_of_shapes() -> None:
    parts = {"fixed": 1e-3, "attention": 2e-4, "mlp": 5e-5, "channel": 1e-6}

    def seconds(shape: Shape) -> float:
        blocks = shape.blocks or (Block(True, shape.channels),) * shape.layers
        return parts["fixed"] + sum(
            parts["attention"] * one.attention * shape.kv_heads / 3
            + (parts["mlp"] + parts["channel"] * one.intermediate_size)
            for one in blocks
        )

    shapes = table_shapes(SPACE)
    donor = seconds(Shape(8, 384, 3))
    found = SpeedTable.of(
        SPACE, lambda name: {"donor_seconds": donor, "share": seconds(shapes[name]) / donor}
    )
    assert found.fixed == pytest.approx(parts["fixed"])
    assert found.channel == pytest.approx(parts["channel"])
    assert found.seconds(SPACE, SPACE.population([SPACE.donor]))[0] == pytest.approx(donor)
    one = replace(MIXED, channels=tuple(max(64, width) for width in MIXED.channels))
    assert found.seconds(SPACE, SPACE.population([one]))[0] == pytest.approx(seconds(one.shape()))


def test_a_channel_alone_is_neither_divided_nor_cut() -> None:
    narrow = replace(CONFIG, intermediate_size=1)
    found = SpeedTable.of(Space(narrow, uniform=False), lambda _: {"donor_seconds": 1.0, "share": 0.5})
    assert np.isfinite([found.fixed, found.mlp, found.channel]).all()
    with pytest.raises(InvalidRequest, match="cannot leave out"):
        shapes_for(narrow, 0.0001, ("width",))


def test_a_journal_goes_on_behind_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "out" / "journal.jsonl"
    journal = Journal(path, {"seed": 1})
    assert journal.measured("a", lambda: [1, 0.1 + 0.2]) == [1, 0.1 + 0.2]
    journal.close()
    with path.open("a") as file:
        file.write('{"name": "b", "val')
    journal = Journal(path, {"seed": 1})
    assert journal.measured("a", lambda: pytest.fail("measured again")) == [1, 0.1 + 0.2]
    assert journal.measured("b", lambda: 2) == 2
    journal.close()
    journal = Journal(path, {"seed": 1})
    assert ("b" in journal, len(journal)) == (True, 2)
    journal.close()
    with pytest.raises(InvalidRequest, match="another search"):
        Journal(path, {"seed": 2})


@pytest.mark.parametrize(
    "more",
    [
        b"text\n",
        b"[]\n",
        b'{"name": "a"}\n',
        b'{"name": [], "value": 1}\n',
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b"\n",
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_damaged_journal_is_refused(tmp_path: Path, more: bytes, place: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"search": {}}\n' * place + more)
    whole = path.read_bytes()
    with pytest.raises(InvalidRequest, match=r"damaged|another search") as caught:
        Journal(path, {})
    assert caught.value.fix and path.read_bytes() == whole


def test_one_process_at_a_time_has_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, {})
    journal.measured("a", lambda: 1)
    with pytest.raises(InvalidRequest, match="another process"):
        Journal(path, {})
    journal.close()
    again = Journal(path, {})
    assert again.measured("a", lambda: 2) == 1
    again.close()


def test_a_figure_that_can_be_none_of_its_name_is_refused(tmp_path: Path) -> None:
    sound = SPACE.donor.to_json()
    timing = Timing(1.0, 1.0, 1.0, 0.0, None).to_json()
    assert SPACE.holds(sound) and Timing.is_json(timing) and Timing.is_json(timing | {"joules": 0.5})
    for wrong in (
        {"kv_heads": 99},
        {"attention": [1]},
        {"channels": [7] * 8},
        {"channels": None},
        {"attention": [0] * 8},
    ):
        assert not SPACE.holds(sound | wrong)
    for wrong in (
        {"share": 0},
        {"seconds": "1"},
        {"seconds": True},
        {"joules": "x"},
        {"cpu_seconds": None},
        {"more": 1},
    ):
        assert not Timing.is_json(timing | wrong)
    assert not any(SPACE.holds(one) or Timing.is_json(one) for one in (None, [], "x", {}))
    path = tmp_path / "journal.jsonl"
    path.write_text('{"search": {}}\n{"name": "a", "value": "x"}\n')
    journal = Journal(path, {})
    with pytest.raises(InvalidRequest, match="damaged"):
        journal.measured("a", lambda: 1.0, is_number)
    journal.close()


def test_the_front_has_what_nothing_beats() -> None:
    names = [replace(SPACE.donor, kv_heads=count) for count in (2, 3)] + [MIXED]
    figures = dict(zip(names, ((1.0, 5.0), (2.0, 4.0), (2.0, 5.0)), strict=True))
    assert front_of(figures) == names[:2]


def test_padding_fills_parts_that_went_with_zeros() -> None:
    config = MIXED.shape().applied(CONFIG)
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in expected_tensors(config)
    }
    plain, found = padded(config, weights)
    assert not plain.blocks
    assert {name: one.shape for name, one in found.items()} == dict(expected_tensors(plain))
    assert not found["model.layers.1.self_attn.o_proj.weight"].any()
    assert not found["model.layers.1.mlp.down_proj.weight"][:, 64:].any()
    assert (found["model.layers.1.input_layernorm.weight"] == 1).all()
    np.testing.assert_array_equal(
        found["model.layers.0.mlp.up_proj.weight"], weights["model.layers.0.mlp.up_proj.weight"]
    )


def test_shares_that_cannot_be_left_out_are_refused() -> None:
    for share in (0.0, -0.1, 0.9, float("nan")):
        with pytest.raises(InvalidRequest):
            SearchOptions(shares=(share,))

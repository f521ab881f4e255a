"""The sampler: equal to a naive one that sorts, and reproducible."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from deepwell.engine.core.sampler import draw, log_normalizer, token_logprob, uniform
from deepwell.engine.protocol import SamplingParams, check_params
from deepwell.errors import DeepwellError, InvalidRequest

NO_TOKENS = np.zeros(0, np.int32)


def sample(
    logits: NDArray[np.float32],
    params: SamplingParams,
    u: float = 0.0,
    *,
    prompt: list[int] | None = None,
    generated: list[int] | None = None,
    masked: frozenset[int] = frozenset(),
) -> int:
    tokens = np.array([*(prompt or []), *(generated or [])], np.int32)
    return draw(logits, params, tokens=tokens, num_prompt=len(prompt or []), masked=masked, u=u)


def naive_draw(
    logits: NDArray[np.float32], params: SamplingParams, u: float, prompt: list[int], generated: list[int]
) -> int:
    """One token at a time, sorting the vocabulary; in exact fractions from the weights on."""
    x = [float(v) for v in logits]
    for token, bias in params.logit_bias.items():
        x[token] = float(np.float32(x[token]) + np.float32(bias))
    for token in set(prompt) | set(generated):
        value, penalty = np.float32(x[token]), np.float32(params.repetition_penalty)
        x[token] = float(value / penalty if value > 0 else value * penalty)
    for token, count in Counter(generated).items():
        amount = np.float32(count) * np.float32(params.frequency_penalty) + np.float32(
            params.presence_penalty
        )
        x[token] = float(np.float32(x[token]) - amount)
    values = np.array(x, np.float32)
    if params.temperature == 0:
        return max(range(len(x)), key=lambda t: (values[t], -t))
    relative = np.exp((values - values.max()) * np.float32(1 / params.temperature))
    weight = [math.floor(float(r) * 2**34) for r in relative]
    order = sorted(range(len(x)), key=lambda t: (-weight[t], t))
    order = [t for t in order if weight[t] >= float(np.float32(params.min_p)) * 2**34]
    if params.top_k:
        order = order[: params.top_k]
    if params.top_p < 1:
        wanted, reached, kept = params.top_p * float(sum(weight[t] for t in order)), 0, 0
        while kept == 0 or reached < wanted:
            reached += weight[order[kept]]
            kept += 1
        order = order[:kept]
    target, reached = Fraction(u) * sum(weight[t] for t in order), 0
    for token in sorted(order):
        reached += weight[token]
        if reached > target:
            return token
    raise AssertionError("u < 1")


vocab_logits = st.one_of(
    hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(-20, 20, width=32)),
    hnp.arrays(np.float32, st.integers(2, 40), elements=st.sampled_from([0.0, 1.0, 1.0000001, 3.0])),  # ties
)
shapes = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 10, 50]),
    top_p=st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.25, -0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    logit_bias=st.dictionaries(st.integers(0, 1), st.floats(-100, 100, width=32), max_size=2),
)
fractions = st.integers(0, 2**53 - 1).map(lambda bits: bits * 2.0**-53)
history = st.lists(st.integers(0, 1), max_size=6)


@given(vocab_logits, shapes, fractions, history, history)
def test_draw_equals_the_naive_sampler(
    logits: NDArray[np.float32], params: SamplingParams, u: float, prompt: list[int], generated: list[int]
) -> None:
    before = logits.copy()
    expected = naive_draw(logits, params, u, prompt, generated)
    assert sample(logits, params, u, prompt=prompt, generated=generated) == expected
    assert np.array_equal(logits, before), "the row is shared with logprobs"


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.5, 3.0, 12.0])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 0.9999])
@pytest.mark.parametrize("top_k", [0, 1, 40, 2000])
def test_cuts_of_a_large_vocabulary_equal_a_sort(spread: float, top_p: float, top_k: int) -> None:
    """The shortcuts only show on rows that are wide, flat or full of ties."""
    rng = np.random.default_rng(5)
    logits = np.round(rng.normal(0, spread, 5000), 6).astype(np.float32)
    params = SamplingParams(top_p=top_p, top_k=top_k)
    for u in (0.0, 0.37, 0.999999):
        assert sample(logits, params, u) == naive_draw(logits, params, u, [], [])


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    counts = Counter(sample(logits, SamplingParams(), uniform(3, 0, i)) for i in range(20_000))
    assert [counts[t] / 20_000 for t in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)


def test_uniform_depends_on_each_argument_and_fills_the_interval() -> None:
    values = [
        uniform(seed, choice, position)
        for seed in (0, 1, -1, 2**63)
        for choice in range(4)
        for position in range(250)
    ]
    assert len(set(values)) == len(values)
    histogram = np.histogram(values, bins=10, range=(0, 1))[0]
    assert sum(histogram) == len(values)
    assert min(histogram) > 0.08 * len(values)
    assert uniform(7, 1, 5) == uniform(7, 1, 5)


def test_min_tokens_masks_what_would_end_the_sequence() -> None:
    logits = np.array([0, 9, 5], np.float32)
    params = SamplingParams(temperature=0, min_tokens=2)
    assert sample(logits, params, generated=[0], masked=frozenset({1})) == 2
    assert sample(logits, params, generated=[0, 0], masked=frozenset({1})) == 1


def test_the_lowest_temperatures_are_greedy_and_do_not_overflow() -> None:
    logits = np.array([1, 3, 2], np.float32)
    for temperature in (0, 1e-30, 1e-6, 1e-5, 1e-3):
        assert sample(logits, SamplingParams(temperature=temperature), 0.99) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_without_a_finite_maximum_is_an_error(bad: float) -> None:
    logits = np.full(4, -np.inf if bad == -np.inf else 0.0, np.float32)
    logits[2] = bad
    greedy = [] if bad == -np.inf else [SamplingParams(temperature=0), SamplingParams(top_k=9, temperature=0)]
    for params in (SamplingParams(), *greedy):
        with pytest.raises(DeepwellError, match="maximum"):
            sample(logits, params)


@given(hnp.arrays(np.float32, st.integers(2, 30), elements=st.floats(-50, 50, width=32)), st.data())
def test_token_logprob_is_log_softmax_with_rank_and_best(
    logits: NDArray[np.float32], data: st.DataObject
) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    top = data.draw(st.integers(0, len(logits)))
    x = logits.astype(np.float64)
    expected = x - x.max() - np.log(np.exp(x - x.max()).sum())
    got = token_logprob(logits, log_normalizer(logits), token, top)
    assert got.token == token
    assert got.logprob == pytest.approx(expected[token], abs=1e-5)
    assert got.rank == 1 + sum(x > x[token])
    assert [t for t, _ in got.top] == sorted(range(len(x)), key=lambda t: (-x[t], t))[:top]
    assert [p for _, p in got.top] == pytest.approx([expected[t] for t, _ in got.top], abs=1e-5)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        (SamplingParams(temperature=-1), "temperature"),
        (SamplingParams(temperature=math.nan), "temperature"),
        (SamplingParams(temperature=1e30), "temperature"),
        (SamplingParams(top_p=1.5), "top_p"),
        (SamplingParams(min_p=-0.1), "min_p"),
        (SamplingParams(top_k=-1), "top_k"),
        (SamplingParams(max_tokens=-1), "max_tokens"),
        (SamplingParams(repetition_penalty=0), "repetition_penalty"),
        (SamplingParams(presence_penalty=3), "presence_penalty"),
        (SamplingParams(logprobs=1000), "logprobs"),
        (SamplingParams(stop_token_ids=(-1,)), "stop_token_ids"),
        (SamplingParams(stop_token_ids=(50,)), "stop_token_ids"),
        (SamplingParams(logit_bias={50: 1.0}), "logit_bias"),
        (SamplingParams(logit_bias={1: math.nan}), "logit_bias"),
    ],
)
def test_params_out_of_range_are_refused_by_name(params: SamplingParams, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_params(params, 50)
    assert caught.value.param == name
    assert caught.value.fix


@given(
    row=hnp.arrays(np.float32, 12, elements=st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0])),
    allowed=hnp.arrays(np.bool_, 12).filter(np.any),
    bias=st.sampled_from([{}, {3: 5.0}]),
)
def test_a_greedy_row_with_a_grammar_takes_the_first_largest_of_the_allowed(
    row: NDArray[np.float32], allowed: NDArray[np.bool_], bias: dict[int, float]
) -> None:
    biased = row.copy()
    for token, value in bias.items():
        biased[token] += np.float32(value)
    token = draw(
        row,
        SamplingParams(temperature=0.0, logit_bias=bias),
        tokens=NO_TOKENS,
        num_prompt=0,
        masked=frozenset({0}),
        u=0.0,
        allowed=allowed,
    )
    assert token == int(np.where(allowed, biased, np.float32(-np.inf)).argmax())

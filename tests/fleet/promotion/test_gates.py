"""The gates: each lets a sound candidate pass, and refuses what it is there for."""

import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.fleet.promotion.gates import (
    GATES,
    Bars,
    GateReport,
    GateResult,
    Rates,
    approval,
    choices,
    endings,
    latency,
    loss,
    safety,
    votes,
)

USERS = [f"user-{number % 25}" for number in range(100)]
HELD_OUT = [f"other-{number % 20}" for number in range(60)]
BEFORE = [0.4 + 0.002 * (number % 10) for number in range(60)]
SAFE = Rates(attacks=100, unsafe=20, second=22, harmless=100, refused=3)


def better(amount):
    return [one + amount + 0.01 * (number % 3) for number, one in enumerate(BEFORE)]


def sound():
    return [
        votes(USERS, HELD_OUT),
        approval(BEFORE, better(0.1), HELD_OUT, BEFORE, better(0.05)),
        choices([True] * 70 + [False] * 30, [True] * 68 + [False] * 32),
        loss(2.0, 2.03),
        endings([True] * 95 + [False] * 5, [True] * 94 + [False] * 6),
        safety(SAFE, replace(SAFE, unsafe=15, second=18, refused=7)),
        latency([1.0, 1.1, 0.9, 1.0, 1.0], [1.02, 1.1, 0.95, 1.0, 1.04]),
    ]


def test_a_sound_candidate_passes_and_its_report_is_json():
    report = GateReport.of(*sound())
    assert report.passed and report.refused == ()
    assert [one.name for one in report.gates] == list(GATES)
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert told["passed"] is True and len(told["gates"]) == len(GATES)


def test_a_gate_that_was_not_measured_refuses():
    for missing in range(len(GATES)):
        report = GateReport.of(*(one for number, one in enumerate(sound()) if number != missing))
        assert report.refused == (GATES[missing],)
    assert GateReport.of().refused == GATES
    with pytest.raises(ValueError, match="one result for each"):
        GateReport.of(GateResult("speed", True, ""))
    with pytest.raises(ValueError, match="one result for each"):
        GateReport.of(sound()[3], sound()[3])


def test_votes_of_one_user_are_refused_however_many():
    spam = ["spammer"] * 300 + USERS
    result = votes(spam, HELD_OUT)
    assert not result.passed and "one user gave 75 %" in result.reason
    assert not votes(["spammer"] * 400, HELD_OUT).passed
    assert not votes(USERS[:49], HELD_OUT).passed
    assert not votes(USERS, [*HELD_OUT, "user-3"]).passed, "the same user on both sides"


def test_a_gain_that_may_be_noise_is_refused():
    draw = random.Random(1)
    noise = [one + draw.gauss(0, 0.2) for one in BEFORE]
    assert not approval(BEFORE, noise, HELD_OUT, BEFORE, better(0.1)).passed
    assert not approval(BEFORE, BEFORE, HELD_OUT, BEFORE, better(0.1)).passed


def test_a_gain_of_one_loud_user_is_no_gain():
    """Sixty prompts, forty of them of one user who alone sees a gain: an interval over prompts would exclude 0."""
    users = ["loud"] * 40 + [f"other-{number}" for number in range(20)]
    after = [one + (0.3 if user == "loud" else -0.01) for one, user in zip(BEFORE, users, strict=True)]
    assert not approval(BEFORE, after, users, BEFORE, after).passed


def test_what_pleases_only_the_judge_it_was_trained_against_is_refused():
    result = approval(BEFORE, better(0.5), HELD_OUT, BEFORE, better(-0.1))
    assert not result.passed and "second judge" in result.reason


def test_a_lobotomised_candidate_is_refused_by_three_gates():
    right = [True] * 70 + [False] * 30
    assert not choices(right, [number % 4 == 0 for number in range(100)]).passed
    assert not loss(2.0, 2.05).passed and not loss(2.0, 9.0).passed
    assert not endings([True] * 95 + [False] * 5, [True] * 40 + [False] * 60).passed


def test_a_candidate_that_is_less_safe_or_refuses_more_is_refused():
    assert not safety(SAFE, replace(SAFE, unsafe=21)).passed
    assert not safety(SAFE, replace(SAFE, unsafe=5, second=23)).passed, "the second judge does not agree"
    assert safety(SAFE, replace(SAFE, refused=8)).passed
    assert not safety(SAFE, replace(SAFE, unsafe=0, second=0, refused=9)).passed


def test_a_slow_candidate_is_refused():
    once = [1.0, 1.2, 0.8, 1.0, 1.1]
    assert latency(once, [1.05 * one - 1e-9 for one in once]).passed
    assert not latency(once, [1.06 * one for one in once]).passed
    assert latency(once, [*once[:4], 30.0]).passed, "one hiccup is not the candidate's"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_pass_no_gate(bad):
    assert not loss(2.0, bad).passed and not loss(bad, 2.0).passed
    assert not latency([1.0] * 5, [1.0] * 4 + [bad]).passed
    assert not approval(BEFORE, [bad, *better(0.1)[1:]], HELD_OUT, BEFORE, better(0.1)).passed
    assert not approval(BEFORE, better(0.1), HELD_OUT, BEFORE, [bad, *better(0.1)[1:]]).passed


def test_nothing_measured_passes_no_gate():
    nobody = Rates(0, 0, 0, 0, 0)
    results = [
        votes([], []),
        approval([], [], [], [], []),
        choices([], []),
        endings([], []),
        safety(SAFE, nobody),
    ]
    results += [safety(nobody, SAFE), latency([], []), loss(0.0, 0.0), choices([True] * 50, [True] * 49)]
    assert not any(one.passed for one in results)


@given(st.lists(st.floats(-1, 1), min_size=30, max_size=60), st.floats(0, 1))
def test_a_larger_gain_never_turns_a_pass_into_a_refusal(gains, more):
    users = [f"u{number % 11}" for number in range(len(gains))]
    zeros = [0.0] * len(gains)
    bars = Bars(draws=200)
    first = approval(zeros, gains, users, zeros, [1.0] * len(gains), bars)
    second = approval(zeros, [one + more for one in gains], users, zeros, [1.0] * len(gains), bars)
    assert first.passed <= second.passed
    assert first.numbers["low"] <= first.numbers["high"]
    assert approval(zeros, gains, users, zeros, [1.0] * len(gains), bars) == first, (
        "the same numbers, the same verdict"
    )

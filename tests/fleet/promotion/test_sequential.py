"""The sequential test: its errors are computed exactly, over all paths, and not simulated."""

import math
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.fleet.promotion.sequential import (
    Counts,
    difference_interval,
    log_evidence_of_gain,
    log_evidence_of_loss,
)

N = 14  # users on each side
ALPHA = 0.2  # large, so that some paths of 28 users do cross


@cache
def evidence(kind, margin, current, candidate):
    return kind(Counts(*current), Counts(*candidate), margin)


def crossing(kind, margin, p_current, p_candidate):
    """The probability that evidence ever reaches 1/ALPHA when it is looked at after every user, sides in turns."""
    alive = {((0, 0), (0, 0)): 1.0}
    crossed = 0.0
    for step in range(2 * N):
        share = (p_current, p_candidate)[step % 2]
        following = {}
        for sides, weight in alive.items():
            for good, chance in ((1, share), (0, 1 - share)):
                users, liked = sides[step % 2]
                moved = list(sides)
                moved[step % 2] = (users + 1, liked + good)
                key = (moved[0], moved[1])
                if evidence(kind, margin, *key) >= math.log(1 / ALPHA):
                    crossed += weight * chance
                else:
                    following[key] = following.get(key, 0.0) + weight * chance
        alive = following
    return crossed


SHARES = st.floats(0, 1)


@settings(max_examples=40, deadline=None)
@given(SHARES, SHARES)
def test_a_candidate_that_is_no_worse_is_rarely_ever_rolled_back(one, other):
    low, high = sorted((one, other))
    assert crossing(log_evidence_of_loss, 0.0, low, high) <= ALPHA


@settings(max_examples=40, deadline=None)
@given(SHARES, SHARES)
def test_a_candidate_that_is_worse_by_the_margin_is_rarely_ever_promoted(share, further):
    candidate = share * 0.75
    current = min(1.0, candidate + 0.25 + further * (0.75 - candidate))
    assert crossing(log_evidence_of_gain, 0.25, current, candidate) <= ALPHA


def test_both_tests_do_decide():
    assert crossing(log_evidence_of_loss, 0.0, 0.95, 0.1) > 0.9
    assert crossing(log_evidence_of_gain, 0.25, 0.4, 0.95) > 0.5


COUNTS = st.integers(0, 400).flatmap(lambda users: st.builds(Counts, st.just(users), st.integers(0, users)))


@settings(deadline=None)
@given(COUNTS, COUNTS, st.floats(0, 0.9))
def test_evidence_is_a_number_and_grows_against_a_wider_margin_only_one_way(current, candidate, margin):
    loss, gain = (kind(current, candidate, margin) for kind in (log_evidence_of_loss, log_evidence_of_gain))
    assert math.isfinite(loss) and math.isfinite(gain)
    # One of the two hypotheses contains the likeliest pair, so that its evidence is at most 1.
    assert min(loss, gain) <= 1e-9
    assert loss <= log_evidence_of_loss(current, candidate) + 1e-6
    assert gain >= log_evidence_of_gain(current, candidate) - 1e-6


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_gain_is_loss_with_the_sides_exchanged(current, candidate):
    assert log_evidence_of_gain(current, candidate) == pytest.approx(
        log_evidence_of_loss(candidate, current), abs=1e-6
    )


def test_the_maximum_on_the_border_is_that_of_a_fine_grid():
    current, candidate, margin = Counts(120, 90), Counts(40, 35), 0.1

    def likelihood(share):
        pairs = ((current, share), (candidate, share - margin))
        return sum(one.good * math.log(p) + (one.users - one.good) * math.log(1 - p) for one, p in pairs)

    best = max(likelihood(margin + number * (1 - margin) / 200_000) for number in range(1, 200_000))
    ours = (
        log_evidence_of_gain(Counts(), Counts(), margin),
        log_evidence_of_gain(current, candidate, margin),
    )
    mixture = sum(
        math.lgamma(one.good + 0.5)
        + math.lgamma(one.users - one.good + 0.5)
        - math.lgamma(one.users + 1)
        - math.log(math.pi)
        for one in (current, candidate)
    )
    assert ours[0] == pytest.approx(0.0, abs=1e-9)
    assert ours[1] == pytest.approx(mixture - best, abs=1e-6)


def test_impossible_counts_are_refused():
    for users, good in ((1, 2), (-1, 0), (1, -1)):
        with pytest.raises(ValueError, match="cannot be good"):
            Counts(users, good)


COUNTS = st.integers(0, 300).flatmap(lambda users: st.builds(Counts, st.just(users), st.integers(0, users)))


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, st.floats(0.01, 0.3))
def test_the_interval_says_what_the_evidence_says(current, candidate, margin):
    low, high = difference_interval(current, candidate, ALPHA)
    assert -1 <= low <= high <= 1
    needed = math.log(1 / ALPHA)
    if current.users and candidate.users:
        assert low <= candidate.share - current.share <= high
    if abs(high) > 1e-6:
        assert (high < 0) == (log_evidence_of_loss(current, candidate) >= needed)
    if abs(low + margin) > 1e-6:
        assert (low > -margin) == (log_evidence_of_gain(current, candidate, margin) >= needed)


def test_without_votes_everything_is_possible():
    assert difference_interval(Counts(), Counts(40, 40), ALPHA) == (-1, 1)


def test_more_votes_narrow_the_interval():
    widths = [high - low for low, high in (_of(users) for users in (10, 100, 1000, 10_000))]
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.1


def _of(users):
    return difference_interval(Counts(users, users // 2), Counts(users, users // 2), 0.05)

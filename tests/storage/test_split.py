"""The split of users by hash."""

from hypothesis import given
from hypothesis import strategies as st

from deepwell.storage.registry.split import identity_of, takes_candidate

IDS = st.text(max_size=20)


@given(IDS, IDS, IDS.filter(bool), st.floats(0, 1), st.floats(0, 1))
def test_a_user_who_has_the_candidate_at_a_share_has_it_at_every_larger_one(
    rollout, tenant, user, one, other
):
    low, high = sorted((one, other))
    assert takes_candidate(rollout, low, tenant, user) <= takes_candidate(rollout, high, tenant, user)
    assert takes_candidate(rollout, low, tenant, user) == takes_candidate(rollout, low, tenant, user)


@given(IDS, IDS, IDS.filter(bool))
def test_nobody_at_no_share_everybody_at_the_whole(rollout, tenant, user):
    assert not takes_candidate(rollout, 0.0, tenant, user)
    assert takes_candidate(rollout, 1.0, tenant, user)
    assert not takes_candidate(rollout, 1.0, tenant, ""), "a request of nobody gets the current model"


def test_the_share_is_met_and_roll_outs_tenants_and_kinds_of_identity_are_independent():
    users = [f"user:{number}" for number in range(10_000)]

    def side(rollout, tenant):
        return [takes_candidate(rollout, 0.3, tenant, one) for one in users]

    first, again, other = side("r1", "a"), side("r2", "a"), side("r1", "b")
    for one in (first, again, other):
        assert abs(sum(one) / len(one) - 0.3) < 0.02  # more than four standard deviations
    for one in (again, other):
        both = sum(x and y for x, y in zip(first, one, strict=True))
        assert abs(both / len(users) - 0.09) < 0.015
    assert identity_of("k", "") != identity_of("", "k")
    # The border between tenant and user cannot be moved.
    moved = [
        takes_candidate("r", 0.5, "a" + "b" * n, "c") == takes_candidate("r", 0.5, "a", "b" * n + "c")
        for n in range(1, 60)
    ]
    assert not all(moved)


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_end_user_comes_before_the_key(user, key):
    assert identity_of(user, key) == identity_of(user, "") != identity_of("", key)

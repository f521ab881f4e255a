"""Who is next: priorities first, and between tenants nobody falls behind by more than one request."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.engine.core.fair import FairQueue, cost_of
from deepwell.engine.core.sequence import Sequence, SequenceSpec
from deepwell.engine.protocol import SamplingParams

TENANTS = "abcd"


def sequence(name: str, tenant: str, *, priority: int = 0, prompt: int = 4, max_tokens: int = 4) -> Sequence:
    spec = SequenceSpec(
        name,
        np.zeros(prompt, np.int32),
        SamplingParams(max_tokens=max_tokens),
        tenant=tenant,
        priority=priority,
    )
    return Sequence(spec)


asked = st.tuples(st.sampled_from(TENANTS), st.integers(1, 300), st.integers(0, 300), st.integers(-1, 1))
events = st.lists(
    st.one_of(asked, st.just("pop"), st.tuples(st.just("remove"), st.integers(0, 30)), st.just("preempt")),
    max_size=60,
)


@given(events)
def test_every_sequence_leaves_once_and_none_before_one_of_a_higher_priority(
    plan: list[tuple[object, ...] | str],
) -> None:
    queue = FairQueue()
    inside: list[Sequence] = []
    popped: list[Sequence] = []
    for number, event in enumerate(plan):
        match event:
            case "pop" if inside:
                head = queue.head()
                assert queue.pop() is head
                assert head.priority == max(one.priority for one in inside)
                inside.remove(head)
                popped.append(head)
            case "preempt" if popped:
                inside.append(popped.pop())
                queue.put_back(inside[-1])
            case ("remove", int() as index) if inside:
                queue.remove(inside.pop(index % len(inside)))
            case (str() as tenant, int() as prompt, int() as most, int() as priority):
                one = sequence(str(number), tenant, prompt=prompt, max_tokens=most, priority=priority)
                queue.append(one)
                inside.append(one)
            case _:
                pass
        assert len(queue) == len(inside) and bool(queue) == bool(inside)
        assert sorted(one.request_id for one in queue) == sorted(one.request_id for one in inside)
        assert all(one in queue for one in inside)
        counts: dict[str, int] = {}
        for one in inside:
            if one.priority >= 0:
                counts[one.tenant] = counts.get(one.tenant, 0) + 1
        fresh = dict(queue.waiting_by_tenant())
        assert all(
            fresh[tenant] <= counts[tenant] for tenant in fresh
        )  # the preempted have been admitted before


@given(
    st.lists(
        st.tuples(st.sampled_from(TENANTS), st.integers(1, 300), st.integers(0, 300)), min_size=2, max_size=80
    )
)
def test_tenants_that_keep_waiting_get_equal_shares_but_for_one_request_each(
    plan: list[tuple[str, int, int]],
) -> None:
    queue = FairQueue()
    largest: dict[str, int] = defaultdict(int)
    left: dict[str, int] = defaultdict(int)
    for number, (tenant, prompt, most) in enumerate(plan):
        one = sequence(str(number), tenant, prompt=prompt, max_tokens=most)
        queue.append(one)
        largest[tenant] = max(largest[tenant], cost_of(one))
        left[tenant] += 1
    given_to: dict[str, int] = dict.fromkeys(left, 0)
    while queue:
        served = queue.pop()
        given_to[served.tenant] += cost_of(served)
        left[served.tenant] -= 1
        for a in left:
            for b in left:
                if left[a] and left[b]:
                    assert abs(given_to[a] - given_to[b]) <= max(largest[a], largest[b])


@given(st.lists(asked, max_size=40), st.integers(0, 40))
def test_a_newcomer_waits_for_at_most_one_request_of_each_other_tenant(
    plan: list[tuple[str, int, int, int]], served: int
) -> None:
    queue = FairQueue()
    for number, (tenant, prompt, most, _) in enumerate(plan):
        queue.append(sequence(str(number), tenant, prompt=prompt, max_tokens=most))
    for _ in range(min(served, len(plan))):
        queue.pop()
    newcomer = sequence("newcomer", "new", prompt=300, max_tokens=300)
    queue.append(newcomer)
    before: list[str] = []
    while (one := queue.pop()) is not newcomer:
        before.append(one.tenant)
    assert len(before) == len(set(before))


@given(st.lists(asked, min_size=1, max_size=40))
def test_within_a_tenant_and_a_priority_first_come_is_first_served(
    plan: list[tuple[str, int, int, int]],
) -> None:
    queue = FairQueue()
    for number, (tenant, prompt, most, priority) in enumerate(plan):
        queue.append(sequence(str(number), tenant, prompt=prompt, max_tokens=most, priority=priority))
    order: dict[tuple[str, int], list[int]] = defaultdict(list)
    while queue:
        one = queue.pop()
        order[one.tenant, one.priority].append(int(one.request_id))
    assert all(numbers == sorted(numbers) for numbers in order.values())


def test_who_asked_for_much_pays_for_it_while_others_wait() -> None:
    """One request at a time, each as large as ten: the tenant is not backlogged, and still waits its turn."""
    queue = FairQueue()
    for number in range(20):
        queue.append(sequence(f"small {number}", "small"))
    queue.append(sequence("large 0", "large", prompt=40, max_tokens=40))
    order: list[str] = []
    for number in range(1, 3):
        while not (name := queue.pop().request_id).startswith("large"):
            order.append(name)
        order.append(name)
        queue.append(sequence(f"large {number}", "large", prompt=40, max_tokens=40))
    assert order.index("large 1") - order.index("large 0") >= 10


def test_the_preempted_come_first_and_are_charged_once() -> None:
    queue = FairQueue()
    for name in ("a1", "a2", "b1", "b2"):
        queue.append(sequence(name, name[0]))
    first, second = queue.pop(), queue.pop()
    queue.put_back(second)
    queue.put_back(first)
    order = [queue.pop().request_id for _ in range(4)]
    assert order == ["a1", "b1", "a2", "b2"]


def test_a_tenant_does_not_save_up_while_it_asks_for_nothing() -> None:
    queue = FairQueue()
    for number in range(30):
        queue.append(sequence(f"a{number}", "a"))
    for _ in range(10):
        queue.pop()
    for number in range(10):
        queue.append(sequence(f"b{number}", "b"))
    order = [queue.pop().tenant for _ in range(10)]
    assert order.count("b") == 5


def test_what_tenants_were_given_is_forgotten_in_time() -> None:
    queue = FairQueue()
    for _ in range(3):
        queue.append(sequence("stays", "stays", prompt=10**6))
    for number in range(2000):
        queue.append(sequence(str(number), f"tenant {number}"))
    for _ in range(2002):  # all of them, and the second large one
        queue.pop()
    (level,) = queue._levels.values()  # pyright: ignore[reportPrivateUsage]
    assert set(level.given) == {"stays"}


def test_taking_out_what_does_not_wait_is_an_error() -> None:
    queue = FairQueue()
    with pytest.raises(ValueError, match="does not wait"):
        queue.remove(sequence("x", "a"))

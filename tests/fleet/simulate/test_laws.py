"""Laws of queues hold in the simulator, whatever the load."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import fmean, stdev
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest
from deepwell.fleet.simulate.figures import Figures
from deepwell.fleet.simulate.loads import Load, Mix, PoissonLoad, Row, Source, TraceLoad, UserLoad
from deepwell.fleet.simulate.profile import Profile
from deepwell.fleet.simulate.requests import Request
from deepwell.fleet.simulate.routing import Routing
from deepwell.fleet.simulate.simulation import Fleet, Simulation, simulate

STEPS = Profile(
    "steps",
    decode=((1, 0.010), (8, 0.020)),
    prefill_s_per_token=0.0004,
    prefill_s=0.008,
    mixed_prefill_s_per_token=0.0003,
    context_s_per_token=2e-7,
    overhead_s=0.002,
    max_batch=6,
    kv_tokens=1536,
    context=768,
)
SLOTS = replace(STEPS, kind="slots", max_batch=3)
T_99 = 2.86  # Student's t of 20 runs, 99 % in the middle


class Watched(Simulation):
    """A simulation that keeps its requests."""

    def __init__(self, fleet: Fleet, load: Load, seed: int = 0) -> None:
        super().__init__(fleet, load, seed, 0.0)
        self.left: list[Request] = []

    def _leave(self, request: Request, now: float) -> None:
        self.left.append(request)
        super()._leave(request, now)


def run(simulation: Simulation) -> Figures | None:
    """Figures of a run; None if nobody came."""
    try:
        return simulation.run()
    except InvalidRequest:
        return None


fleets = st.builds(
    Fleet,
    st.sampled_from((STEPS, SLOTS)),
    st.integers(1, 4),
    st.sampled_from(get_args(Routing)),
    st.sampled_from((0.0, 0.2, 5.0)),
    st.sampled_from((0, 2)),
)
mixes = st.builds(
    Mix,
    st.floats(1, 400),
    st.floats(1, 60),
    st.sampled_from((0.0, 0.7, 3.0)),
    st.sampled_from((0, 40, 100)),
    st.sampled_from((0.0, 0.2)),
    st.sampled_from((0.0, 0.2)),
)
loads: st.SearchStrategy[Load] = st.one_of(
    st.builds(PoissonLoad, st.floats(0.5, 40), st.just(8.0), mixes),
    st.builds(UserLoad, st.integers(1, 40), st.floats(0.1, 3), st.just(8.0), st.floats(1, 6), mixes),
)


@settings(max_examples=60, deadline=None)
@given(fleets, loads, st.integers(0, 1000))
def test_every_request_leaves_once_in_the_order_of_its_times(fleet: Fleet, load: Load, seed: int) -> None:
    simulation = Watched(fleet, load, seed)
    if run(simulation) is None:
        assert not simulation.left
    numbers = [one.number for one in simulation.left]
    assert sorted(numbers) == list(range(len(numbers)))
    profile = fleet.profile
    for one in simulation.left:
        assert one.prompt + one.answer <= profile.context
        if one.rejected:
            assert fleet.max_wait_s or fleet.max_waiting
            continue
        assert one.arrived + profile.overhead_s - 1e-9 <= one.started <= one.first <= one.ended
        assert 0 <= one.cached < one.prompt
        if one.replica >= 0:
            fastest = min(seconds for _, seconds in profile.decode)
            assert one.ended - one.first >= (one.answer - 1) * fastest - 1e-6
    assert all(load == 0 for load in simulation._loads)


@settings(max_examples=40, deadline=None)
@given(fleets, loads, st.integers(0, 1000))
def test_littles_law(fleet: Fleet, load: Load, seed: int) -> None:
    """Requests at the replicas are the rate of arrivals times the time that each stays (Little 1961)."""
    simulation = Watched(fleet, TraceLoad(arrived(load, fleet.profile, seed)) if seed % 2 else load, seed)
    figures = run(simulation)
    if figures and math.isinf(simulation._horizon_s):  # else requests stay beyond the measured time
        stays = [
            one.ended - one.arrived - fleet.profile.overhead_s for one in simulation.left if one.replica >= 0
        ]
        first = min(one.arrived for one in simulation.left)
        last = max(one.ended for one in simulation.left)
        assert figures.in_system * (last - first) == pytest.approx(sum(stays), rel=1e-6, abs=1e-6)


def arrived(load: Load, profile: Profile, seed: int) -> list[Row]:
    """Arrivals of a load that do not depend on what happens, as a trace; one at least."""
    source: Source = load.source(seed, profile.context)
    rows = [Row(one.arrived, one.prompt, one.answer, one.conversation) for one in source.arrivals()]
    return rows or [Row(0.0, 1, 1)]


@settings(max_examples=40, deadline=None)
@given(fleets, loads, st.integers(0, 1000))
def test_the_same_seed_gives_the_same_figures(fleet: Fleet, load: Load, seed: int) -> None:
    first, second = (run(Simulation(fleet, load, seed, 0.0)) for _ in range(2))
    assert first == second


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=60),
    st.integers(1, 3),
)
def test_twice_the_replicas_in_turn_make_no_request_wait_longer(
    drawn: list[tuple[float, int, int]], replicas: int
) -> None:
    """Each replica of the larger fleet has a part of the requests that one of the smaller fleet had."""
    load = TraceLoad([Row(*one) for one in sorted(drawn)])
    waits: list[list[float]] = []
    for count in (replicas, 2 * replicas):
        simulation = Watched(Fleet(SLOTS, count, "round-robin"), load)
        simulation.run()
        waits.append([one.started for one in sorted(simulation.left, key=lambda one: one.number)])
    assert all(more <= fewer + 1e-9 for fewer, more in zip(*waits, strict=True))


@pytest.mark.parametrize("routing", get_args(Routing))
@pytest.mark.parametrize("profile", [STEPS, SLOTS], ids=lambda one: one.kind)
def test_more_replicas_wait_less_in_the_mean(profile: Profile, routing: Routing) -> None:
    load = UserLoad(60, 2.0, 60.0, mix=Mix(80, 20))
    waits = [
        fmean(simulate(Fleet(profile, count, routing), load, seed=seed).wait_ms for seed in range(4))
        for count in (1, 2, 3, 4, 6)
    ]
    assert waits == sorted(waits, reverse=True)


def interval(values: list[float]) -> tuple[float, float]:
    half = T_99 * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_one_slot_with_equal_answers_is_an_m_d_1_queue(share: float) -> None:
    """Mean wait = share * service / (2 (1 - share)) (Pollaczek 1930, Khinchine 1932)."""
    profile = replace(
        SLOTS, decode=((1, 0.02),), prefill_s=0.04, prefill_s_per_token=0.0, overhead_s=0.0, max_batch=1
    )
    service_s = 0.04 + 9 * 0.02
    load = PoissonLoad(share / service_s, 900.0, Mix(1, 10, 0.0))
    waits = [simulate(Fleet(profile, 1), load, seed=seed, warmup_s=50).wait_ms / 1e3 for seed in range(20)]
    low, high = interval(waits)
    assert low <= share * service_s / (2 * (1 - share)) <= high


def test_slots_with_exponential_answers_are_an_m_m_c_queue() -> None:
    """Mean wait by Erlang's C formula (Erlang 1917)."""
    slots, service_s, share = 3, 1.0, 0.75
    profile = replace(
        SLOTS,
        decode=((1, 1e-3),),
        prefill_s=0.0,
        prefill_s_per_token=0.0,
        overhead_s=0.0,
        max_batch=slots,
        context=1 << 20,
        kv_tokens=1 << 20,
    )
    rate = share * slots / service_s
    waits: list[float] = []
    for seed in range(20):
        draw = random.Random(seed)
        rows, now = [], 0.0
        for _ in range(2000):
            now += draw.expovariate(rate)
            rows.append(Row(now, 1, 1 + round(1e3 * draw.expovariate(1 / service_s))))
        waits.append(simulate(Fleet(profile, 1), TraceLoad(rows)).wait_ms / 1e3)
    busy = share * slots
    last = busy**slots / math.factorial(slots) / (1 - share)
    queued = last / (sum(busy**one / math.factorial(one) for one in range(slots)) + last)
    low, high = interval(waits)
    assert low <= queued * service_s / (slots * (1 - share)) <= high


def test_a_batch_that_is_never_empty_does_what_its_steps_allow() -> None:
    rows = [Row(0.0, 16, 33) for _ in range(600)]
    profile = replace(STEPS, kv_tokens=1 << 16, context_s_per_token=0.0, prefill_s_per_token=0.0)
    figures = simulate(Fleet(replace(profile, mixed_prefill_s_per_token=0.0), 1), TraceLoad(rows))
    table = profile.step_table()
    assert figures.tokens_per_s == pytest.approx(6 / table[6], rel=0.05)
    assert figures.busy == pytest.approx(1.0, abs=0.01)


def test_prefix_routing_finds_more_than_turns_do_and_a_small_cache_less() -> None:
    profile = replace(STEPS, kv_tokens=1 << 15, context=4096)
    load = UserLoad(40, 3.0, 200.0, turns=8, mix=Mix(60, 30, 0.3, shared_tokens=64))

    def cached(profile: Profile, routing: Routing) -> float:
        return simulate(Fleet(profile, 4, routing), load, warmup_s=20).cached

    assert cached(profile, "prefix") > 1.3 * cached(profile, "round-robin")
    assert cached(replace(profile, kv_tokens=4096), "prefix") < cached(profile, "prefix")


def test_a_full_cache_preempts_and_loses_nothing() -> None:
    rows = [Row(0.001 * number, 40, 200) for number in range(40)]
    simulation = Watched(Fleet(replace(STEPS, kv_tokens=800, context=512), 1), TraceLoad(rows))
    figures = simulation.run()
    assert figures.preemptions > 0 and figures.rejected == 0 and len(simulation.left) == 40
    assert sum(one.answer for one in simulation.left) == 40 * 200


def test_caches_of_answers_take_work_away() -> None:
    load = PoissonLoad(20.0, 60.0, Mix(100, 30))
    fleet = Fleet(STEPS, 2)
    alone = simulate(fleet, load)
    helped = simulate(fleet, replace(load, mix=replace(load.mix, exact=0.3, semantic=0.2)))
    assert helped.busy < alone.busy and helped.first_p50_ms < alone.first_p50_ms


def test_a_limit_of_the_wait_refuses_and_bounds_it() -> None:
    load = PoissonLoad(60.0, 60.0, Mix(100, 30, 0.3))
    free, bounded = (simulate(Fleet(STEPS, 1, max_wait_s=most), load) for most in (0.0, 3.0))
    assert free.rejected == 0 and bounded.rejected > 0.3
    assert bounded.first_p95_ms < 6_000 < free.first_p95_ms

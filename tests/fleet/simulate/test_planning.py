"""The search finds the fewest replicas that keep a promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepwell.errors import InvalidRequest
from deepwell.fleet.simulate.figures import Figures
from deepwell.fleet.simulate.loads import Load, Mix, PoissonLoad, Row, TraceLoad, UserLoad
from deepwell.fleet.simulate.planning import Goal, fewest_replicas, measured_time
from deepwell.fleet.simulate.profile import Profile
from deepwell.fleet.simulate.simulation import Fleet, simulate

PROFILE = Profile("m", ((1, 0.010), (8, 0.020)), 0.0004, 0.008, max_batch=8)
LOADS = [
    PoissonLoad(40.0, 60.0, Mix(100, 30)),
    UserLoad(150, 3.0, 60.0, mix=Mix(100, 30)),
    TraceLoad([Row(0.02 * number, 100, 30) for number in range(1000)]),
]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: type(load).__name__)
@pytest.mark.parametrize("most", [1, 4096])
def test_one_replica_less_is_too_few(load: Load, most: int) -> None:
    goal = Goal(600.0, "first", most_replicas=max(most, 64), repeats=2)
    seen: list[Figures] = []
    warm = 0.0 if isinstance(load, TraceLoad) else 10.0
    plan = fewest_replicas(Fleet(PROFILE, 1), load, goal, seed=3, warmup_s=warm, say=seen.append)
    assert len(seen) == len(plan.runs) + len(plan.confirmed)

    def holds(replicas: int, seed: int) -> bool:
        return goal.holds(simulate(Fleet(PROFILE, replicas), load, seed=seed, warmup_s=warm))

    assert plan.replicas > 1 and all(holds(plan.replicas, seed) for seed in (3, 4))
    assert not all(holds(plan.replicas - 1, seed) for seed in (3, 4))


def test_one_replica_may_be_enough() -> None:
    plan = fewest_replicas(
        Fleet(PROFILE, 1), PoissonLoad(0.5, 60.0), Goal(5000.0), seed=0, warmup_s=0.0, say=lambda _: None
    )
    assert plan.replicas == 1


def test_a_target_that_no_number_keeps_is_an_error_with_the_least_there_is() -> None:
    with pytest.raises(InvalidRequest, match="no number of replicas") as refused:
        fewest_replicas(
            Fleet(PROFILE, 1),
            PoissonLoad(5.0, 30.0),
            Goal(10.0, "answer", most_replicas=8),
            seed=0,
            warmup_s=0.0,
            say=lambda _: None,
        )
    assert "one request alone takes" in refused.value.fix


def test_refused_requests_break_a_promise() -> None:
    load = PoissonLoad(60.0, 40.0, Mix(100, 30))
    fleet = Fleet(PROFILE, 1, max_waiting=1)
    plan = fewest_replicas(fleet, load, Goal(60_000.0, repeats=1), seed=0, warmup_s=5.0, say=lambda _: None)
    assert simulate(replace(fleet, replicas=plan.replicas), load, warmup_s=5.0).rejected <= 0.01
    assert plan.replicas > 1


def test_measured_time_is_long_enough_for_rare_answers() -> None:
    assert measured_time(PoissonLoad(1000.0, 0.0), None, None) == (180.0, 60.0)
    assert measured_time(PoissonLoad(10.0, 0.0), None, None) == (2060.0, 60.0)
    assert measured_time(UserLoad(100, 45.0, 0.0), None, None) == (3690.0, 90.0)
    assert measured_time(PoissonLoad(10.0, 0.0), 30.0, None) == (30.0, 10.0)
    assert measured_time(PoissonLoad(10.0, 0.0), 30.0, 0.0) == (30.0, 0.0)


def test_a_load_that_no_machine_simulates_is_refused() -> None:
    for load, seconds in ((PoissonLoad(1e5, 0.0), 1e6), (UserLoad(1_000_000, 0.1, 0.0), None)):
        with pytest.raises(InvalidRequest, match="at most 50,000,000 are simulated"):
            measured_time(load, seconds, None)

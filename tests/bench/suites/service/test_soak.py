"""Real load: what is asked, what is counted, how the load's own share is taken off."""

from __future__ import annotations

import pytest

from deepwell_bench.harness.environments import PeerError
from deepwell_bench.suites.service.soak import Outcome, corrected, outcomes_of, slope
from deepwell_bench.workloads.chats import FEWEST, LONGEST, MOST, SHORTEST, work_of


def test_a_tenth_of_the_clients_leaves_before_the_end() -> None:
    work = work_of(range(10_000), 2000)
    assert all(SHORTEST <= len(one.prompt) <= LONGEST and FEWEST <= one.max_tokens <= MOST for one in work)
    leaving = [one for one in work if one.leave]
    assert 150 < len(leaving) < 250
    assert all(one.leave < one.max_tokens for one in leaving)
    assert len({one.prompt for one in work}) > 0.99 * len(work)
    assert work == work_of(range(10_000), 2000)


def test_memory_that_stands_has_no_slope() -> None:
    assert slope([(float(second), 500.0) for second in range(100)]) == pytest.approx(0)
    assert slope([(float(second), 500 + second / 30) for second in range(100)]) == pytest.approx(2)


def test_the_loads_share_of_the_machine_is_taken_off() -> None:
    assert corrected(900.0, client_cpu_seconds=0.0, seconds=10.0, cores=2) == 900
    assert corrected(900.0, client_cpu_seconds=2.0, seconds=10.0, cores=2) == pytest.approx(1000)


def test_outcomes_are_read_whole_or_not_at_all() -> None:
    found, cpu = outcomes_of("3 done 0.5 0.75 2.0 9 9\n4 left 1 1.5 1.5 1 0\ncpu 0.25\n")
    assert found == [Outcome(3, "done", 0.5, 0.75, 2.0, 9, 9), Outcome(4, "left", 1, 1.5, 1.5, 1, 0)]
    assert cpu == 0.25
    with pytest.raises(PeerError):
        outcomes_of("3 done 0.5 0.75 2.0 9 9\n")

"""The analysis of a step, and the driver that follows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.fleet.deploy.analysis import Counted, Figures, judge_gates, lower_bound, parse_figures, quantile
from deepwell.fleet.deploy.declaration import Gates
from deepwell.fleet.deploy.driver import Driver
from deepwell.fleet.deploy.evaluation import Evaluated
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.semconv import REQUEST_DURATION, TIME_TO_FIRST_TOKEN, prometheus_name
from deepwell.storage.registry.story import Rollout, Steps

GATES = Gates(error_rate=0.02, first_token_p95_ms=100, guard_rate=0.05, least_requests=20)
STEPS = Steps("canary", (0.05, 0.5, 1.0), 10)
ROLLOUT = Rollout("r", "prod", "prod#2", "v1", "v2", 0.0, "canary", 0, "lin", {}, steps=STEPS)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def served(requests: float, *, failed: float = 0, guarded: float = 0, first_s: float = 0.05) -> Figures:
    return Figures(requests, failed, requests, failed, guarded, {first_s: requests, float("inf"): 0})


def test_figures_of_a_real_server_are_read() -> None:
    metrics = Metrics({})
    made = metrics.generation("chat", "v1")
    for error in ("", "", "", "EngineUnavailable"):
        made.duration(error).observe(0.2)
    for seconds in (0.03, 0.05, 0.05, 0.2):
        made.first_token.observe(seconds)
    found = parse_figures(metrics.text().decode())
    assert (found.requests, found.failed, found.guarded) == (4, 1, 0)
    assert sum(found.first_token.values()) == 4 and found.first_token[0.06] == 2
    assert found.first_token_p95_ms == pytest.approx(1000 * (0.1 + 0.15 * 0.8))


def test_what_clients_do_wrong_or_leave_aborts_no_version() -> None:
    made = (metrics := Metrics({})).generation("chat", "v1")
    for error in ("cancelled", "InvalidRequest", "context_length_exceeded", "model_not_found", "KeyError"):
        made.duration(error).observe(0.2)
    found = parse_figures(metrics.text().decode())
    assert (found.requests, found.failed) == (5, 1)


def test_requests_that_a_version_refuses_are_counted_by_their_status() -> None:
    metrics = Metrics({})
    for route, status, count in (
        ("/v1/chat/completions", 200, 90),
        ("/v1/chat/completions", 400, 4),
        ("/v1/embeddings", 404, 1),
        ("/v1/responses", 422, 2),
        ("/v1/chat/completions", 401, 10),
        ("/v1/chat/completions", 429, 10),
        ("/v1/chat/completions", 503, 3),
        ("/v1/models/{model_id}", 404, 100),
        ("/metrics", 200, 100),
    ):
        metrics.requests.labels(route, str(status)).inc(count)
    found = parse_figures(metrics.text().decode())
    assert (found.asked, found.refused) == (120, 7)


@pytest.mark.parametrize(
    ("before", "now", "holds"),
    [
        ((0, 100), (20, 20), False),  # a template that raises: every request is refused
        ((0, 100), (6, 20), False),
        ((0, 100), (1, 20), True),  # by chance
        ((30, 100), (6, 20), True),  # clients that ask wrongly do so on both sides
        ((30, 100), (20, 20), False),
        ((0, 0), (0, 0), True),
    ],
)
def test_refusals_are_compared_between_the_sides(
    before: tuple[float, float], now: tuple[float, float], holds: bool
) -> None:
    sides = [Figures(asked=asked, refused=refused) for refused, asked in (before, now)]
    [rate] = judge_gates(Gates(error_rate=None), *sides)
    assert (rate.name, rate.holds) == ("refusal_rate", holds), rate.words


def test_a_version_that_refuses_everybody_is_aborted_before_it_answers_anybody() -> None:
    """A request that fails before its answer begins has no duration: the counter of requests alone tells of it."""
    driver = Driver(ROLLOUT, Gates(), clock=Clock())
    driver.see("current", {"a": Figures()})
    driver.see("candidate", {"b": Figures()})
    driver.see("current", {"a": Figures(requests=40, asked=40)})
    driver.see("candidate", {"b": Figures(asked=5, refused=5)})
    decision = driver.decide(replace(ROLLOUT, share=0.05))
    assert decision.action == "abort" and "refusal rate 100 %" in decision.reason


@given(st.lists(st.floats(0.001, 9), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_of_the_real_one(times: list[float], share: float) -> None:
    bounds = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
    counts = {
        bound: sum(low < one <= bound for one in times)
        for low, bound in zip((0, *bounds), bounds, strict=False)
    }
    found = quantile(counts, share)
    assert found is not None and 0 <= found <= 10
    below = sum(one <= found for one in times)
    bucket = next(bound for bound in bounds if found <= bound)
    assert sum(one <= bucket for one in times) >= share * len(times) - 1e-9 or below >= share * len(times) - 1


def test_processes_that_start_again_count_on() -> None:
    side = Counted()
    for now in (served(10), served(15), served(3), served(4)):
        side.see("blue0", now)
    side.see("blue1", served(100))
    assert side.total.requests == 5 + 3 + 1, (
        "what was there at first, and what others had counted, is not its own"
    )


@pytest.mark.parametrize(
    ("failed", "requests", "holds"),
    [(1, 20, True), (5, 20, False), (20, 20, False), (3, 200, True), (0, 0, True)],
)
def test_a_few_errors_are_chance_and_many_are_not(failed: int, requests: int, holds: bool) -> None:
    [rate, *_] = judge_gates(GATES, served(100), served(requests, failed=failed))
    assert (rate.name, rate.holds) == ("error_rate", holds), rate.words


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_lower_bound_is_below_the_rate(count: int, more: int) -> None:
    total = count + more
    assert 0 <= lower_bound(count, total) <= (count / total if total else 0) + 1e-12


def test_gates_compare_with_the_current_release() -> None:
    slow = judge_gates(GATES, served(100, first_s=0.5), served(100, first_s=0.52))
    assert all(one.holds for one in slow), "both are slow"
    worse = {
        one.name: one for one in judge_gates(GATES, served(100, first_s=0.04), served(100, first_s=0.25))
    }
    assert not worse["first_token_p95_ms"].holds and "above" in worse["first_token_p95_ms"].words
    few = served(4, first_s=0.04) + served(1, first_s=0.6)
    by_chance = {one.name: one for one in judge_gates(GATES, served(100, first_s=0.04), few)}
    figure = by_chance["first_token_p95_ms"].candidate
    assert figure is not None and figure > 400, "the slowest of five is their quantile"
    assert by_chance["first_token_p95_ms"].holds, "one slow request of five is chance"
    guarded = {one.name: one for one in judge_gates(GATES, served(100, guarded=2), served(100, guarded=30))}
    assert not guarded["guard_rate"].holds
    assert judge_gates(Gates(error_rate=None, refusal_rate=None), served(9), served(9, failed=9)) == []


def test_the_driver_holds_every_share_and_waits_for_answers() -> None:
    clock = Clock()
    driver = Driver(ROLLOUT, GATES, clock=clock)
    driver.see("current", {"a": served(0)})
    driver.see("candidate", {"b": served(0)})
    assert (driver.decide(ROLLOUT).action, driver.decide(ROLLOUT).share) == ("step", 0.05)
    first = replace(ROLLOUT, share=0.05)
    assert driver.decide(first).action == "hold"
    clock.now = 10
    assert "20 more answers" in driver.decide(first).reason
    driver.see("current", {"a": served(400)})
    driver.see("candidate", {"b": served(20)})
    assert (driver.decide(first).action, driver.decide(first).share) == ("step", 0.5)
    half = replace(ROLLOUT, share=0.5)
    assert driver.decide(half).action == "hold"
    clock.now = 25
    driver.see("candidate", {"b": served(60)})
    assert driver.decide(half).share == 1.0
    whole = replace(ROLLOUT, share=1.0)
    driver.decide(whole)
    clock.now = 40
    driver.see("candidate", {"b": served(90)})
    decision = driver.decide(whole)
    assert decision.action == "promote" and decision.numbers is not None
    assert decision.numbers["requests"] == {"current": 400, "candidate": 90}
    driver.see("candidate", {"b": served(150, failed=40)})
    assert driver.decide(whole).action == "abort", "after the last step as well"


def test_an_evaluation_comes_before_the_first_step() -> None:
    gates = Gates.model_validate({"evaluation": {"questions": "q.jsonl", "least": 0.8}})
    driver = Driver(ROLLOUT, gates, clock=Clock())
    assert driver.decide(ROLLOUT).action == "hold"
    driver.evaluated = Evaluated(7, 10, 0.8)
    assert driver.decide(ROLLOUT).action == "abort" and "7 of 10" in driver.decide(ROLLOUT).reason
    driver.evaluated = Evaluated(8, 10, 0.8)
    assert driver.decide(ROLLOUT).action == "step"


def test_blue_green_is_held_as_a_preview_first() -> None:
    clock = Clock()
    rollout = replace(ROLLOUT, steps=Steps("blue_green", (1.0,), 10))
    driver = Driver(rollout, GATES, clock=clock)
    assert driver.decide(rollout).action == "hold"
    clock.now = 10
    assert driver.decide(rollout).share == 1.0


def test_a_share_that_was_given_once_is_left_to_votes_and_orders() -> None:
    driver = Driver(replace(ROLLOUT, steps=None, share=0.1), GATES, clock=Clock())
    assert driver.decide(replace(ROLLOUT, steps=None, share=0.1)).action == "hold"


@pytest.mark.parametrize(
    "text",
    [
        f"{prometheus_name(*REQUEST_DURATION[:2])}_count NaN\n",
        f"{prometheus_name(*REQUEST_DURATION[:2])}_count +Inf\n",
        f"{prometheus_name(*REQUEST_DURATION[:2])}_count -1\n",
        f"{prometheus_name(*TIME_TO_FIRST_TOKEN[:2])}_bucket 1\n",
        f'{prometheus_name(*TIME_TO_FIRST_TOKEN[:2])}_bucket{{le="NaN"}} 1\n',
        "{{{\n",
    ],
)
def test_metrics_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the parser has texts of its own
        parse_figures(text)

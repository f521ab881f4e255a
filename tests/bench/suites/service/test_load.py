"""The loads and their figures, and the client that makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.cli.bench.load import (
    CLIENT,
    FEWEST,
    LONGEST,
    MOST,
    SHORTEST,
    Asked,
    Measured,
    mixed_load,
    summarise,
)
from deepwell.cli.bench.report import percentile
from deepwell.errors import DeepwellError
from deepwell_bench.suites.service.load import value_of
from deepwell_bench.workloads.repeating import CYCLE, SYSTEM_TOKENS, repeating_load
from deepwell_bench.workloads.text import text_tokens


def test_a_percentile_is_a_value_that_occurred():
    values = [float(v) for v in range(100, 0, -1)]
    assert percentile(values, 0.95) == 95
    assert percentile(values, 0.5) == 50
    assert percentile([7.0], 0.95) == 7


def test_the_client_times_every_token_of_every_request(tmp_path: Path):
    engine = FakeEngine()
    live = start(make_service(engine, make_codec(tmp_path), model="toy"), engine)
    asked = [Asked(tuple(b"some prompt %d" % n), 3 + n) for n in range(6)]
    bodies = [
        {
            "model": "toy",
            "prompt": bytes(one.prompt).decode(),
            "max_tokens": one.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for one in asked
    ]
    task = {"url": f"{live.url}/v1/completions", "clients": 4, "requests": bodies}
    try:
        done = subprocess.run(
            [sys.executable, str(CLIENT)], input=json.dumps(task), capture_output=True, text=True, check=True
        )
        task["requests"] = [{**bodies[0], "model": "unknown"}]
        refused = subprocess.run(
            [sys.executable, str(CLIENT)], input=json.dumps(task), capture_output=True, text=True, check=False
        )
    finally:
        live.stop()
    answer = json.loads(done.stdout)
    assert {r["index"]: len(r["events"]) for r in answer["results"]} == {n: 3 + n for n in range(6)}
    assert all(r["begin"] <= r["events"][0] and r["events"] == sorted(r["events"]) for r in answer["results"])
    figures = summarise(answer, asked, server_cpu_seconds=1.0)
    assert figures.completion_tokens == sum(one.max_tokens for one in asked)
    assert figures.prompt_tokens == sum(len(one.prompt) for one in asked)
    assert figures.cached_tokens == 0
    assert refused.returncode == 1
    assert "unknown" in refused.stderr


def test_figures_come_from_arrival_times():
    result = {
        "index": 0,
        "begin": 10.0,
        "events": [10.5, 10.6, 10.8],
        "prompt_tokens": 4,
        "completion_tokens": 3,
    }
    figures = summarise(
        {"results": [result], "cpu_seconds": 0.1}, [Asked((1,) * 4, 3)], server_cpu_seconds=0.2
    )
    assert figures.first_p95_ms == pytest.approx(500)
    assert figures.between_p95_ms == pytest.approx(200)
    assert figures.tokens_per_s == pytest.approx(3 / 0.8)


@pytest.mark.parametrize("events", [[10.5], [10.5, 10.6, 10.7, 10.8]])
def test_a_server_that_stops_early_or_hides_its_tokens_is_refused(events: list[float]):
    result = {
        "index": 0,
        "begin": 10.0,
        "events": events,
        "prompt_tokens": 1,
        "completion_tokens": 4 - len(events) % 4,
    }
    asked = [Asked((1,), 5 if len(events) > 1 else 3)]
    with pytest.raises(DeepwellError, match="asked for"):
        summarise({"results": [result], "cpu_seconds": 0.1}, asked, server_cpu_seconds=0.2)


def test_mixed_load_is_fixed_spread_and_without_common_starts(smollm2_path: Path):
    ids = text_tokens(smollm2_path)
    first, again = mixed_load(ids, 64, 1), mixed_load(ids, 64, 1)
    assert first == again
    other = mixed_load(ids, 64, 2)
    assert [len(one.prompt) for one in first] == [len(one.prompt) for one in other]
    starts = [one.prompt[:16] for one in [*first, *other]]
    assert len(set(starts)) == len(starts)
    assert all(SHORTEST <= len(one.prompt) <= LONGEST and FEWEST <= one.max_tokens <= MOST for one in first)
    assert max(len(one.prompt) for one in first) > 1000


def test_repeating_load_shares_what_it_says():
    ids = range(30_000)
    load = repeating_load(ids, 4 * CYCLE, 3)
    assert len({one.prompt[:SYSTEM_TOKENS] for one in load.requests}) == 1
    assert len(set(load.requests)) == load.distinct == 4 * CYCLE - 5
    apart = repeating_load(ids, 4 * CYCLE, 3, shared=False)
    assert len({one.prompt[:16] for one in apart.requests}) == apart.distinct == len(apart.requests)
    lengths = [sorted((len(r.prompt), r.max_tokens) for r in one.requests[CYCLE:]) for one in (load, apart)]
    assert lengths[0] == lengths[1]


def measured(rate: float, first: float, between: float) -> Measured:
    return Measured(rate, first / 2, first, between, 100, 0, 10, 0.1, 1.0, 2.0)


def test_each_figure_is_held_against_the_peer_that_is_best_at_it():
    found = {
        "ours": [measured(200, 100, 10), measured(400, 200, 20)],
        "rate": [measured(100, 900, 90), measured(100, 900, 90)],
        "first": [measured(50, 300, 30), measured(50, 400, 40)],
    }
    value = value_of(found, "ours", ["rate", "first"])
    assert value["peer"] == "rate"
    assert value["ratio"] == 3  # of 2 and 4
    assert value["first_token_ratio"] == 2.5  # of 3 and 2
    assert value["inter_token_ratio"] == 2.5
    assert "ratio" not in value_of({"ours": found["ours"]}, "ours", [])

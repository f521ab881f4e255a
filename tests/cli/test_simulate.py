"""`deepwell simulate` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from tests.server.conftest import start
from tests.server.fakes import make_codec, make_service, write_tokenizer
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.simulate import options
from deepwell.fleet.simulate.planning import Metric
from deepwell.fleet.simulate.profile import Profile, read_profile, write_profile
from deepwell.fleet.simulate.routing import Routing
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.workers.paced import PacedEngine

RUNNER = CliRunner()


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "profile.json"
    write_profile(Profile("small", ((1, 0.01), (8, 0.02)), 0.0004, 0.008, max_batch=8), path)
    return str(path)


def invoke(*arguments: str) -> Any:
    return RUNNER.invoke(app, ["simulate", *arguments])


def test_the_command_line_knows_every_routing_and_metric() -> None:
    def choices(option: Any) -> tuple[str, ...]:
        return get_args(get_args(option)[0])

    assert choices(options.RoutingOption) == get_args(Routing)
    assert choices(options.MetricOption) == get_args(Metric)
    assert get_type_hints(options) is not None


def test_it_simulates_each_number_of_replicas(profile: str) -> None:
    arguments = (profile, "--rate", "3", "--seconds", "60", "--replicas", "2,1", "--seed", "4")
    result = invoke("run", *arguments, "--json")
    assert result.exit_code == 0, result.output
    runs = json.loads(result.output)["runs"]
    assert [one["replicas"] for one in runs] == [1, 2]
    assert runs[1]["wait_ms"] < runs[0]["wait_ms"]
    assert json.loads(invoke(*arguments, "--json").output)["runs"] == runs  # `run` may be left out
    told = invoke(*arguments)
    assert told.exit_code == 0 and "first p95 ms" in told.output


def test_it_finds_the_fewest_replicas(profile: str, tmp_path: Path) -> None:
    picture = tmp_path / "capacity.png"
    arguments = (profile, "--users", "60", "--think-s", "5", "--seconds", "60", "--target-p95-ms", "1500")
    result = invoke(*arguments, "--plot", str(picture), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["replicas"] > 1 and len(found["seeds"]) == 3
    assert all(one["first_p95_ms"] <= 1500 for one in found["seeds"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = invoke(*arguments)
    assert f"{found['replicas']} replicas keep the p95 within 1500 ms" in told.output


def test_it_replays_a_trace(profile: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    row = {"at_s": 0.0, "prompt_tokens": 20, "answer_tokens": 8}
    trace.write_text("".join(json.dumps(row | {"at_s": 0.1 * number}) + "\n" for number in range(50)))
    result = invoke(profile, "--trace", str(trace), "--speed", "2", "--replicas", "1", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["runs"][0]["requests"] == 50


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the load is missing"),
        (("--rate", "1", "--users", "5"), "named twice"),
        (("--rate", "1", "--replicas", "0"), "--replicas"),
        (("--rate", "1", "--replicas", "two"), "--replicas"),
        (("--rate", "1", "--exact-hits", "0.7", "--semantic-hits", "0.7"), "--exact-hits"),
        (("--rate", "1", "--seconds", "20", "--warmup-s", "30"), "warm-up"),
        (("--rate", "0.001", "--seconds", "20"), "no request arrives"),
        (
            ("--rate", "1", "--target-p95-ms", "1", "--seconds", "60", "--most-replicas", "2"),
            "no number of replicas",
        ),
        (("--rate", "100000", "--seconds", "1000000"), "at most 50,000,000"),
        (("--trace", "missing.jsonl"), "missing.jsonl"),
    ],
    ids=lambda one: " ".join(one)[:40] if isinstance(one, tuple) else "",
)
def test_what_cannot_be_simulated_is_said(profile: str, arguments: tuple[str, ...], said: str) -> None:
    result = invoke(profile, *arguments)
    assert result.exit_code == 1 and said in result.output and "fix:" in result.output


def test_a_file_that_is_no_profile_is_said(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text("{}")
    result = invoke(str(path), "--rate", "1")
    assert result.exit_code == 1 and "deepwell simulate calibrate" in result.output


def test_it_calibrates_a_running_server(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "tokenizer"))
    engine: Any = PacedEngine(tokenizer, first_s=0.005, token_s=0.005, tokens=4096)
    running = start(make_service(engine, make_codec(tmp_path), model="toy"), engine)
    path = tmp_path / "profile.json"
    small = ("--repeats", "1", "--most-batch", "2", "--longest-prompt", "64", "--answer-tokens", "16")
    try:
        result = invoke("calibrate", str(path), "--url", running.url, *small, "--json")
    finally:
        running.stop()
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["name"] == "toy" and read_profile(path).name == "toy"


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    result = invoke("calibrate", str(path), "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1 and "no server answers" in result.output and not path.exists()

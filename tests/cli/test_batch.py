"""`deepwell batch` and `--on`: a file of requests without a server, and the errors of clusters."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

Run = Callable[..., dict[str, Any]]


def lines(count: int, *, model: str = "tiny", **body: Any) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"q{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": model, "prompt": f"word {number}", "max_tokens": 3, **body},
        }
        for number in range(count)
    ]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


@pytest.fixture
def run(runner: CliRunner) -> Run:
    def call(*arguments: object, status: int = 0) -> dict[str, Any]:
        from deepwell.cli import app

        done = runner.invoke(app, [*map(str, arguments), "--json"])
        assert done.exit_code == status, done.output
        return json.loads(done.stdout.splitlines()[-1])

    return call


def test_the_same_file_gives_the_same_bytes(run: Run, tiny_model: Path, home: Path) -> None:
    source = write(home / "in.jsonl", lines(7, temperature=1.0))
    outputs = []
    for size in (2, 7):
        out = home / f"out{size}.jsonl"
        said = run("batch", source, "-o", out, "--model", tiny_model, "--piece", size)
        assert (said["lines"], said["failed"], said["pieces"]) == (7, 0, -(-7 // size))
        assert not out.with_name(f"{out.name}.pieces").exists()
        outputs.append(out.read_text())
    assert outputs[0] == outputs[1]
    answers = [json.loads(line) for line in outputs[0].splitlines()]
    assert [one["custom_id"] for one in answers] == [f"q{number}" for number in range(7)]
    assert {one["response"]["body"]["created"] for one in answers} == {1_700_000_000}
    assert len({one["id"] for one in answers}) == 7


def test_a_request_that_is_wrong_is_answered_with_its_error(run: Run, tiny_model: Path, home: Path) -> None:
    rows = lines(3)
    rows[1]["body"]["temperature"] = 9
    said = run("batch", write(home / "in.jsonl", rows), "-o", home / "out.jsonl", "-m", tiny_model)
    assert (said["lines"], said["failed"]) == (3, 1)
    answers = [json.loads(line)["response"] for line in (home / "out.jsonl").read_text().splitlines()]
    assert [one["status_code"] for one in answers] == [200, 400, 200]


def test_pieces_of_a_broken_run_are_kept(
    run: Run, tiny_model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepwell.errors import DeepwellError
    from deepwell.fleet.pieces.local import LocalExecutor

    source, out = write(home / "in.jsonl", lines(6)), home / "out.jsonl"
    whole = LocalExecutor.run

    def breaks(self: LocalExecutor, *arguments: Any) -> Any:
        for number, one in enumerate(whole(self, *arguments)):
            if number == 2:
                raise DeepwellError("the machine stops")
            yield one

    monkeypatch.setattr(LocalExecutor, "run", breaks)
    run("batch", source, "-o", out, "-m", tiny_model, "--piece", 1, status=1)
    assert not out.exists()
    monkeypatch.setattr(LocalExecutor, "run", whole)
    said = run("batch", source, "-o", out, "-m", tiny_model, "--piece", 1)
    assert (said["pieces"], said["pieces_kept"]) == (6, 2)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "has no requests"),
        ([{"url": "/v1/images/generations"}], "no endpoint that works without a server"),
        (["no object"], "line 1: the line is not a JSON object"),
        (lines(2, model="gpt-4o"), "names the model 'gpt-4o'"),
        (lines(1) + lines(1), "line 2: custom_id"),
        ([*lines(1), {"custom_id": "x"}], "line 2: method"),
        (lines(2, stream=True), "leave stream out"),
    ],
)
def test_lines_that_cannot_run_are_named_before_any_runs(
    rows: list[Any], said: str, run: Run, home: Path
) -> None:
    error = run("batch", write(home / "in.jsonl", rows), "-o", home / "o.jsonl", "-m", "tiny", status=1)
    assert said in error["error"]["message"]
    assert not (home / "o.jsonl").exists()


def test_hostile_lines_are_errors(run: Run, home: Path) -> None:
    source = home / "in.jsonl"
    source.write_bytes(b"[" * 100_000 + b"\n" + b"\xff\xfe\n")
    said = run("batch", source, "-o", home / "o.jsonl", status=1)["error"]["message"]
    assert "line 1: the line is not a JSON object" in said and "line 2: the line is not UTF-8" in said
    first = json.dumps(lines(1)[0]).encode()
    source.write_bytes(first + b"\n" + b"{" * 100_000 + b"\n\xff\n")
    error = run("batch", source, "-o", home / "o.jsonl", "-m", "tiny", status=1)["error"]
    assert "line 2" in error["message"]
    assert "line 3: the line is not UTF-8" in error["message"]


def test_the_output_may_not_be_the_input(run: Run, home: Path) -> None:
    source = write(home / "in.jsonl", lines(1))
    run("batch", source, "-o", source, "-m", "tiny", status=1)
    assert len(source.read_text().splitlines()) == 1


def test_without_ray_the_error_says_what_to_install(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    source = write(home / "in.jsonl", lines(1))
    error = run("batch", source, "-o", home / "o.jsonl", "-m", "tiny", "--on", "ray", status=1)["error"]
    assert "deepwell[ray]" in error["fix"]
    data = home / "data.jsonl"
    data.write_text('{"text": "a"}\n')
    error = run("data", "dedup", data, "-o", home / "o.jsonl", "--on", "ray", status=1)["error"]
    assert "deepwell[ray]" in error["fix"]
    assert "deepwell[ray]" in run("ray", "serve", "smollm2", status=1)["error"]["fix"]


@pytest.mark.parametrize("place", ["10.0.0.5", "ray://", "spark", ""])
def test_other_places_are_refused(place: str, run: Run, home: Path) -> None:
    source = write(home / "in.jsonl", lines(1))
    error = run("batch", source, "-o", home / "o.jsonl", "-m", "tiny", "--on", place, status=1)["error"]
    assert "no place to work on" in error["message"]


def test_replicas_for_everyone_need_keys(run: Run, home: Path) -> None:
    error = run("ray", "serve", "smollm2", "--host", "0.0.0.0", status=1)["error"]
    assert "would answer anyone" in error["message"]

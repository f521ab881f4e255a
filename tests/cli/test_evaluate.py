"""`deepwell evaluate`: tables, JSON, a saved report, pairs and ratings, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.server.conftest import Live
from tests.tuning.evaluate.test_tasks import write
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.evaluate import register


def run(runner: CliRunner, *arguments: str | Path) -> str:
    result = runner.invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_model_first_is_the_action_run(runner: CliRunner, tiny_model: Path, tmp_path: Path):
    out = run(runner, tiny_model, "--task", write(tmp_path), "--precision", "fp32")
    assert "acc_norm %" in out and "95 % interval" in out and "peak memory" in out


def test_two_models_make_one_table_and_a_report(runner: CliRunner, tiny_model: Path, tmp_path: Path):
    task, folder = write(tmp_path), tmp_path / "report"
    out = run(runner, tiny_model, "--against", f"{tiny_model}/.", "--task", task, "--output", folder)
    assert "too few" in out and f"saved in {folder}" in out
    assert {"config.json", "metrics.json", "samples.jsonl"} <= {path.name for path in folder.iterdir()}


def test_json_has_the_whole_report(runner: CliRunner, tiny_model: Path, tmp_path: Path):
    whole = json.loads(run(runner, tiny_model, "--task", write(tmp_path), "--json"))
    (model,) = whole["models"].values()
    assert model["metrics"]["topics"]["acc"]["samples"] == 3
    assert whole["config"]["versions"]["deepwell"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["smollm2"], "there is nothing to measure"),
        (["smollm2:nobody", "--text", "x"], "there is no adapter 'nobody'"),
        (["smollm2", "--latency", "3", "--text", "x"], "give --against"),
        (["pairs", "a", "a", "--prompts", "x"], "both models are the same"),
    ],
)
def test_mistakes_are_told_before_a_model_is_opened(runner: CliRunner, arguments: list[str], words: str):
    result = runner.invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 1
    assert words in result.output


def test_pairs_leave_out_answers_that_are_alike(runner: CliRunner, tiny_model: Path, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("hello\nhi\n")
    output = tmp_path / "pairs.jsonl"
    arguments = ["pairs", tiny_model, f"{tiny_model}/.", "--prompts", tmp_path / "prompts.txt"]
    out = run(runner, *arguments, "--output", output, "--max-tokens", "4", "--json")
    assert json.loads(out) == {"pairs": 0, "same": 2, "output": str(output)}
    assert output.read_text() == ""


def test_ratings_of_a_file(runner: CliRunner, tmp_path: Path):
    votes = [
        {
            "index": pair,
            "rater": rater,
            "choice": "second" if pair < 9 else "tie",
            "first": "a",
            "second": "b",
        }
        for pair in range(10)
        for rater in ("Ada", "Grace")
    ]
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    out = run(runner, "ratings", path)
    assert "b wins 95.0 %" in out and "preferred" in out
    assert "Ada and Grace: agree on 100.0 %" in out and "Cohen's kappa 1.00" in out
    path.write_text('{"index": 0}\n')
    result = runner.invoke(app, ["evaluate", "ratings", str(path)])
    assert result.exit_code == 1 and "is no vote" in result.output


def test_ratings_of_a_server(runner: CliRunner, toy_server: Live):
    result = runner.invoke(app, ["evaluate", "ratings", "rate_none", "--url", toy_server.url])
    assert result.exit_code == 1
    assert "rate_none" in result.output


def test_the_verb_is_registered():
    assert callable(register)

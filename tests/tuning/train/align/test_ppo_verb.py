"""`deepwell tune ppo` from the command to the adapter that the engine serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.llm import LLM


def test_a_file_with_a_grader_is_a_reward(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = (
        {"messages": [{"role": "user", "content": f"hello {number}"}], "letter": "a"} for number in range(12)
    )
    Path("prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    grader = {
        "type": "string_check",
        "name": "has it",
        "operation": "like",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.letter }}",
    }
    Path("grader.json").write_text(json.dumps(grader))
    sizes = ("prompts=4", "new_tokens=4", "precision=fp32", "rollout_precision=fp32", "threads=1")
    common = ["tune", "ppo", "--model", str(tiny), "--data", "prompts.jsonl", "--output", "out"]
    found = CliRunner().invoke(
        app,
        [
            *common,
            *("--grader", "grader.json", "--validation", "0.3", "--iterations", "2"),
            *(part for one in (*sizes, "evaluate_every=1") for part in ("--set", f"train.{one}")),
        ],
    )
    assert found.exit_code == 0, found.output
    assert "step 2: held-out reward" in found.output
    assert json.loads(Path("out/config.json").read_text())["reward"]["grader"] == grader
    both = CliRunner().invoke(app, [*common, "--grader", "grader.json", "--reward", "rule"])
    assert both.exit_code == 1 and "leave one of them out" in " ".join(both.output.split())
    Path("grader.json").write_text('{"type": "python", "name": "p", "source": "1"}')
    refused = CliRunner().invoke(app, [*common, "--grader", "grader.json"])
    assert refused.exit_code == 1 and "python graders are not run" in " ".join(refused.output.split())


def test_the_verb_trains_an_adapter_that_serves(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ({"messages": [{"role": "user", "content": f"hello {number}"}]} for number in range(12))
    Path("prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    Path("run.yaml").write_text(
        f"model: {tiny}\ndata: prompts.jsonl\nvalidation: 0.3\noutput: out\n"
        "reward: {type: rule, pattern: '[a-m]'}\n"
        "train: {prompts: 4, new_tokens: 4, precision: fp32, rollout_precision: fp32, threads: 1}\n"
    )
    found = CliRunner().invoke(app, ["tune", "ppo", "run.yaml", "--iterations", "2"])
    assert found.exit_code == 0, found.output
    assert "perplexity under the base" in found.output
    assert "--adapter out=out/adapter" in " ".join(found.output.split())
    record = json.loads(Path("out/adapter/deepwell.json").read_text())
    assert record["metrics"]["steps"] == 2 and record["metrics"]["measured_on"] == "held_out"
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [len(one["samples"]) for one in lines] == [2, 2]
    with LLM(str(tiny), adapters={"out": "out/adapter"}, context=64, precision="fp32") as llm:
        assert llm.chat([{"role": "user", "content": "hello"}], adapter="out", max_tokens=4).completion_tokens

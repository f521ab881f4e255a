"""`deepwell tune`: what it says without torch, of wrong configurations, and merging, which needs no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.weights.adapters import linears_of
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell_bench.workloads.random_adapter import write_random_adapter

DATA = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n'


@pytest.fixture
def data(home: Path) -> Path:
    path = home / "train.jsonl"
    path.write_text(DATA * 4)
    return path


def test_without_torch_it_names_the_extra(
    runner: CliRunner, tiny_model: Path, data: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hiding = home / "hiding"
    (hiding / "torch").mkdir(parents=True)
    (hiding / "torch" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    monkeypatch.setenv("PYTHONPATH", str(hiding))
    result = runner.invoke(
        app, ["tune", "sft", "--model", str(tiny_model), "--data", str(data), "--output", str(home / "run")]
    )
    assert result.exit_code != 0
    assert "torch" in result.output and "pip install 'deepwell[tune]'" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "smollm2"], "nothing to train on"),
        (["--data", "x.jsonl", "--set", "train.lerning_rate=1"], "did you mean learning_rate"),
        (["--data", "x.jsonl", "--set", "train.seed"], "KEY=VALUE"),
        (["missing.yaml"], "cannot be read"),
    ],
)
def test_a_wrong_command_says_what_to_write(
    arguments: list[str], said: str, runner: CliRunner, home: Path
) -> None:
    result = runner.invoke(app, ["tune", "sft", *arguments, "--output", str(home / "run")])
    assert result.exit_code != 0
    assert said in result.output
    assert not (home / "run").exists()


@pytest.mark.parametrize("verb", ["dpo", "kto"])
def test_verbs_of_preferences_say_what_to_write(verb: str, runner: CliRunner, home: Path) -> None:
    output = ["--output", str(home / "run")]
    for arguments, said in (
        ([], f"deepwell tune {verb} run.yaml"),
        (["--data", "x.jsonl", "--set", f"{verb}.betta=1"], "did you mean beta"),
        (["--data", "x.jsonl", "--set", "method=full"], "method"),
    ):
        result = runner.invoke(app, ["tune", verb, *arguments, *output])
        assert result.exit_code != 0
        assert said in " ".join(result.output.split())
    assert not (home / "run").exists()


def test_options_replace_values_of_the_file(data: Path, home: Path) -> None:
    from deepwell.cli.tune.running import configured
    from deepwell.tuning.train.config import TuneConfig

    (home / "run.yaml").write_text("data: train.jsonl\ntrain: {steps: 3, seed: 1}\noutput: here\n")
    given = {"model": "other", "validation": "0.2"}
    run = configured(TuneConfig, home / "run.yaml", given, 7, ["lora.r=4", "train.seed=5"])
    assert (run.model, run.validation, run.train.steps, run.train.seed, run.lora.r) == ("other", 0.2, 7, 5, 4)
    assert run.data == [data] and run.output == home / "here"


def test_a_worker_is_shown_in_a_log_and_as_json(
    data: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from deepwell.cli.tune.running import configured, trained
    from deepwell.tuning.train.config import TuneConfig

    step = {"event": "step", "step": 1, "steps": 2, "reward": 0.5, "kl": 0.01, "seconds_left": 61}
    events = [step, {"event": "done", "adapter": "adapter"}]
    command = [sys.executable, "-c", "\n".join(f"print({json.dumps(json.dumps(one))})" for one in events)]
    run = configured(TuneConfig, None, {"data": [data], "output": home / "run"}, None, [])
    assert trained(run, command, json=False) == home / "run" / "adapter"
    [line] = capsys.readouterr().err.splitlines()  # and no empty one, where no bar is drawn
    assert line.startswith("1/2") and "0.500" in line
    trained(run, command, json=True)
    *_, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert Path(done["output"], done["adapter"]) == home / "run" / "adapter"


# Says a step, then waits for a signal behind which it writes its checkpoint.
WORKER = """
import json, os, signal
def stop(*_):
    open("checkpoint", "w").close()
    os._exit(75)
if {handled}:
    signal.signal(signal.SIGTERM, stop)
print(json.dumps({{"event": "step", "step": 1, "steps": 2, "pid": os.getpid()}}), flush=True)
signal.pause()
"""
TRAINS = """
import sys
from pathlib import Path
from deepwell.cli.tune.running import configured, trained
from deepwell.tuning.train.config import TuneConfig
run = configured(TuneConfig, None, {"data": [Path("train.jsonl")], "output": Path("run")}, None, [])
trained(run, [sys.executable, "-c", sys.argv[1]], json=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("handled", [True, False], ids=["trains", "still imports"])
def test_a_signal_to_the_parent_alone_ends_the_training(
    number: int, handled: bool, data: Path, home: Path
) -> None:
    command = [sys.executable, "-c", TRAINS, WORKER.format(handled=handled)]
    with subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = json.loads(parent.stdout.readline())["pid"]
        parent.send_signal(number)
        shown = parent.communicate(timeout=60)[1]
    assert "the same command continues" in shown
    assert (home / "checkpoint").exists() is handled
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_an_adapter_is_merged_without_torch(runner: CliRunner, tiny_model: Path, home: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    adapter = write_random_adapter(
        home / "adapter", linears_of(tensor_plan(checkpoint.config), checkpoint), rank=2, seed=1
    )
    target = home / "merged"
    result = runner.invoke(
        app, ["tune", "merge", str(adapter), "--model", str(tiny_model), "--output", str(target), "--json"]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["matrices"] > 0 and said["largest_logit_difference"] <= 1e-4
    merged = open_checkpoint(target)
    name = next(one for one in merged.names if one.endswith("q_proj.weight"))
    assert (merged.tensor(name).float32() != checkpoint.tensor(name).float32()).any()
    assert "torch" not in sys.modules


def test_a_merge_needs_to_know_the_base(runner: CliRunner, tiny_model: Path, home: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    adapter = write_random_adapter(
        home / "adapter", linears_of(tensor_plan(checkpoint.config), checkpoint), rank=2, seed=1
    )
    result = runner.invoke(app, ["tune", "merge", str(adapter), "--output", str(home / "merged")])
    assert result.exit_code != 0 and "--model" in result.output


@pytest.mark.parametrize("config", ['{"model": "../../etc"}', '{"model": 3}', "[]"])
def test_a_record_of_a_stranger_opens_nothing(
    config: str, runner: CliRunner, tiny_model: Path, home: Path
) -> None:
    """A path in a downloaded record is looked up as a model, and is no model."""
    checkpoint = open_checkpoint(tiny_model)
    adapter = write_random_adapter(
        home / "adapter", linears_of(tensor_plan(checkpoint.config), checkpoint), rank=2, seed=1
    )
    (adapter / "deepwell.json").write_text(f'{{"format": 1, "base_fingerprint": "x", "config": {config}}}')
    result = runner.invoke(app, ["tune", "merge", str(adapter), "--output", str(home / "merged")])
    assert result.exit_code != 0 and not (home / "merged").exists()


def test_reinforcement_says_what_to_write(runner: CliRunner, home: Path) -> None:
    output = ["--output", str(home / "run")]
    data = ["--data", "prompts.jsonl"]
    for arguments, said in (
        (["--reward", "rule"], "deepwell tune ppo run.yaml"),
        (data, "'reward' is missing"),
        ([*data, "--reward", "rule", "--set", "train.iteration=1"], "did you mean iterations"),
        (data, "--reward moderation"),
        ([*data, "--reward", "rule", "--algorithm", "grpo"], "2 answers or more"),
        # What the file holds beside the two keys is no part of the error
        ([*data, "--reward", "rule", "--algorithm", "grpo"], "train.samples=4 is usual fix: change one"),
        ([*data, "--reward", "rule", "--algorithm", "a2c"], "a2c"),
    ):
        result = runner.invoke(app, ["tune", "ppo", *arguments, *output])
        assert result.exit_code != 0
        assert said in " ".join(result.output.split()), result.output
    assert not (home / "run").exists()


def test_paths_of_a_reward_stand_behind_its_file(home: Path) -> None:
    from typing import Any

    from deepwell.cli.tune.running import configured
    from deepwell.tuning.align.ppo.config import PPOConfig

    folder = home / "runs"
    folder.mkdir()
    (folder / "run.yaml").write_text(
        "data: p.jsonl\nreward: {type: classifier, data: labelled.jsonl, label: good}\noutput: here\n"
    )
    kind: Any = PPOConfig
    run = configured(
        kind, folder / "run.yaml", {"algorithm": "grpo"}, None, ["train.samples=4", "reward.label=bad"]
    )
    assert run.data == [folder / "p.jsonl"] and run.reward.data == [folder / "labelled.jsonl"]
    assert (run.reward.label, run.algorithm, run.train.samples) == ("bad", "grpo", 4)

"""Several processes: their gradients and their adapter equal those of one, and errors name the fix."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.needs import NO_DEEPSPEED

from deepwell.errors import InvalidRequest, MissingDependency
from deepwell.tuning.train.config import StepConfig, TuneConfig, parse_config, write_config
from deepwell.tuning.train.distributed.deepspeed import deepspeed_config
from deepwell.tuning.train.distributed.launch import command
from deepwell.tuning.train.distributed.strategies import open_strategy
from deepwell.tuning.train.distributed.tensor import span
from deepwell.tuning.train.run import run_sft
from deepwell_bench.suites.tuning.parallel import STRATEGIES, gradient_differences

pytestmark = [pytest.mark.parity]


def config(strategy: str, method: str = "lora") -> TuneConfig:
    return TuneConfig.model_validate(
        {"data": ["none.jsonl"], "method": method, "train": {"strategy": strategy}}
    )


@pytest.mark.slow
def test_two_processes_compute_the_gradients_and_the_loss_of_one() -> None:
    found = gradient_differences(STRATEGIES)
    for name, one in found.items():
        assert one["difference"] < 1e-5, name
        assert one["loss"] == pytest.approx(one["single"], rel=1e-5), name


def test_heads_that_do_not_divide_evenly_are_shared_without_a_gap() -> None:
    for count in range(1, 12):
        for world in range(1, count + 1):
            spans = [span(count, rank, world) for rank in range(world)]
            assert [first for first, _ in spans] == [0, *(last for _, last in spans[:-1])]
            assert spans[-1][1] == count
            assert all(last > first for first, last in spans)


def test_a_process_alone_is_told_how_to_start_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InvalidRequest) as raised, open_strategy(config("ddp"), torch.device("cpu")):
        pass
    assert "--processes 2" in str(raised.value.fix)


def test_processes_with_the_strategy_single_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidRequest) as raised, open_strategy(config("single"), torch.device("cpu")):
        pass
    assert "ddp" in str(raised.value.fix)


@pytest.mark.parametrize("strategy", ["fsdp2", "tensor"])
def test_strategies_that_divide_frozen_weights_refuse_to_train_them(strategy: str) -> None:
    with pytest.raises(InvalidRequest), open_strategy(config(strategy, "full"), torch.device("cpu")):
        pass


@pytest.mark.needs(NO_DEEPSPEED)
def test_zero_without_deepspeed_names_the_command_that_installs_it() -> None:
    with pytest.raises(MissingDependency) as raised, open_strategy(config("zero"), torch.device("cpu")):
        pass
    assert "pip install deepspeed" in str(raised.value.fix)


_SCHEMA = {
    "type": "object",
    "required": [
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "zero_optimization",
        "optimizer",
    ],
    "properties": {
        "train_batch_size": {"type": "integer", "minimum": 1},
        "gradient_clipping": {"type": "number", "minimum": 0},
        "zero_optimization": {
            "type": "object",
            "required": ["stage"],
            "properties": {
                "stage": {"enum": [1, 2, 3]},
                "offload_optimizer": {"type": "object", "required": ["device"]},
            },
        },
        "bf16": {"type": "object", "properties": {"enabled": {"type": "boolean"}}},
        "fp16": {"type": "object", "properties": {"enabled": {"type": "boolean"}}},
    },
}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_deepspeed_configuration_has_the_form_and_the_batch_that_deepspeed_checks(stage: int) -> None:
    import jsonschema

    settings = StepConfig.model_validate({"batch_tokens": 8192, "precision": "bf16"})
    found = deepspeed_config(settings, world=2, micro_tokens=1024, stage=stage, offload=True)  # type: ignore[arg-type]
    jsonschema.validate(json.loads(json.dumps(found)), _SCHEMA)
    product = found["train_micro_batch_size_per_gpu"] * found["gradient_accumulation_steps"] * 2
    assert found["train_batch_size"] == product == 8
    assert found["bf16"]["enabled"] != found["fp16"]["enabled"]
    assert found["gradient_clipping"] == settings.clip


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_of_two_processes_writes_the_adapter_of_one(
    strategy: str, tiny: Path, data: Path, tmp_path: Path
) -> None:
    settings = {
        "steps": 3,
        "batch_tokens": 256,
        "max_tokens": 64,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "threads": 1,
    }
    values = {
        "model": str(tiny),
        "data": str(data),
        "validation": 0.2,
        "lora": {"r": 4, "dropout": 0.0},
        "train": settings,
    }
    alone = run_sft(parse_config(values), tmp_path / "alone", on_event=lambda event: None)
    folder = tmp_path / "two"
    folder.mkdir()
    write_config(parse_config(values | {"train": settings | {"strategy": strategy}}), folder / "config.json")
    result = subprocess.run(
        command(str(folder), 2),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events].count("done") == 1
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3]
    ours, expected = (load_file(path / "adapter_model.safetensors") for path in (folder / "adapter", alone))
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, atol=2e-5, err_msg=name)


def test_a_mistake_ends_the_launcher_with_the_status_and_the_words_of_the_worker(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"modl": "tiny"}')
    result = subprocess.run(command(str(tmp_path), 2), capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    (event,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert event["event"] == "error" and "model" in event["fix"]

"""Runs of tiny models: what they learn, and that cutting, resuming and repeating them changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.tuning.train.conftest import conversations

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.tuning.train.config import TuneConfig, parse_config
from deepwell.tuning.train.run import Stopped, run_sft

pytestmark = pytest.mark.parity

Events = list[dict[str, Any]]


def config(tiny: Path, data: Path, **train: Any) -> TuneConfig:
    lora = {"r": 4, "dropout": train.pop("dropout", 0.0), "alpha": 8}
    method = train.pop("method", "lora")
    validation = train.pop("validation", 0)
    settings = {
        "steps": 4,
        "batch_tokens": 256,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "threads": 1,
    } | train
    return parse_config(
        {
            "model": str(tiny),
            "data": str(data),
            "validation": validation,
            "method": method,
            "lora": lora,
            "train": settings,
        }
    )


def run(config: TuneConfig, folder: Path, stop: Callable[[], bool] = lambda: False) -> tuple[Path, Events]:
    events: Events = []
    return run_sft(config, folder, on_event=events.append, stop=stop), events


def weights(adapter: Path) -> dict[str, np.ndarray]:
    return load_file(adapter / "adapter_model.safetensors")


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_it_learns_conversations_by_heart(tiny: Path, data: Path, tmp_path: Path) -> None:
    _, events = run(config(tiny, data, method="full", steps=60, learning_rate=5e-3), tmp_path / "run")
    steps = [one for one in events if one["event"] == "step"]
    assert [one["step"] for one in steps] == list(range(1, 61))
    assert steps[0]["loss"] > 4 and steps[-1]["loss"] < 0.7
    assert steps[-1]["token_accuracy"] > 0.7
    assert events[0]["event"] == "plan" and events[-1]["event"] == "done"


def test_gradients_do_not_depend_on_the_pieces_of_a_step(tiny: Path, data: Path, tmp_path: Path) -> None:
    """One piece of all examples, and pieces of one example each, whose numbers of answers differ."""
    found = [
        weights(run(config(tiny, data, steps=2, batch_tokens=4096, **pieces), tmp_path / str(number))[0])
        for number, pieces in enumerate(
            [
                {"micro_tokens": 4096},
                {"micro_tokens": 1},
                {"micro_tokens": 1, "packing": False},
                {"micro_tokens": 200, "packing": False},
            ]
        )
    ]
    for other in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_allclose(other[name], values, atol=2e-5, err_msg=name)
    assert max(np.abs(values).max() for name, values in found[0].items() if "lora_B" in name) > 5e-3


def test_checkpointing_changes_nothing(tiny: Path, data: Path, tmp_path: Path) -> None:
    plain = run(config(tiny, data, dropout=0.1), tmp_path / "plain")[0]
    saving = run(config(tiny, data, dropout=0.1, checkpointing=True), tmp_path / "saving")[0]
    for name, values in weights(plain).items():
        np.testing.assert_allclose(weights(saving)[name], values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_stopped_run_continues_bit_for_bit(method: str, tiny: Path, data: Path, tmp_path: Path) -> None:
    wanted = config(tiny, data, method=method, dropout=0.2, steps=6, batch_tokens=64, validation=0.2)
    whole, events = run(wanted, tmp_path / "whole")
    polls = 0

    def stop() -> bool:
        nonlocal polls
        polls += 1
        return polls % 2 == 0

    folder = tmp_path / "cut"
    for _ in range(2):
        with pytest.raises(Stopped):
            run(wanted, folder, stop)
    resumed, _ = run(wanted, folder)
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert_equal(load_file(resumed / name), load_file(whole / name))
    lines = [json.loads(one) for one in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(one["event"], one["step"], one["loss"]) for one in lines] == [
        (one["event"], one["step"], one["loss"]) for one in events if one["event"] in ("step", "validation")
    ]


def test_a_damaged_checkpoint_is_passed_over(tiny: Path, data: Path, tmp_path: Path) -> None:
    wanted = config(tiny, data, steps=6, batch_tokens=64, save_every=2)
    whole, _ = run(wanted, tmp_path / "whole")
    folder = tmp_path / "cut"
    with pytest.raises(Stopped):
        run(wanted, folder, (folder / "checkpoints" / "step-4").is_dir)
    newest = folder / "checkpoints" / "step-5" / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    resumed, events = run(wanted, folder)
    assert next(one for one in events if one["event"] == "step")["step"] == 5
    assert_equal(weights(resumed), weights(whole))


def test_a_folder_of_another_run_is_refused(tiny: Path, data: Path, tmp_path: Path) -> None:
    run(config(tiny, data, steps=1), tmp_path / "run")
    with pytest.raises(InvalidRequest, match="other settings"):
        run(config(tiny, data, steps=2), tmp_path / "run")


def test_a_run_ends_early_and_keeps_its_best_weights(tiny: Path, data: Path, tmp_path: Path) -> None:
    """A text that is learnt by heart at such a rate soon makes other answers less likely."""
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps(one) + "\n" for one in conversations(8, start=50)))
    wanted = config(
        tiny, data, steps=60, validation=[str(held)], evaluate_every=1, patience=2, learning_rate=6e-2
    )
    adapter, events = run(wanted, tmp_path / "run")
    losses = [one["loss"] for one in events if one["event"] == "validation"]
    metrics = json.loads((adapter / "deepwell.json").read_text())["metrics"]
    assert len(losses) < 60 and metrics["steps"] == len(losses) - 1  # one before the first step
    assert 0 < metrics["step"] == int(np.argmin(losses)) < metrics["steps"]
    assert metrics["held_out_loss"] == pytest.approx(min(losses), abs=1e-5)
    kept = weights(adapter)
    (tmp_path / "run" / "run.sha256").write_text("")  # as a power cut may leave it
    again, events = run(wanted, tmp_path / "run")  # it was killed before anybody was told of its end
    assert [one["event"] for one in events] == ["plan", "done"] and events[-1]["metrics"] == metrics
    assert_equal(weights(again), kept)
    last = load_file(
        tmp_path
        / "run"
        / "checkpoints"
        / f"step-{metrics['steps']}"
        / "adapter"
        / "adapter_model.safetensors"
    )
    assert any((kept[name] != last[name]).any() for name in kept)


def test_the_record_names_base_template_data_and_versions(tiny: Path, data: Path, tmp_path: Path) -> None:
    adapter, _ = run(config(tiny, data, steps=1), tmp_path / "run")
    record = json.loads((adapter / "deepwell.json").read_text())
    checkpoint = open_checkpoint(tiny)
    assert record["base_hash"] == checkpoint.sha256 and record["base_fingerprint"] == checkpoint.fingerprint
    assert len(record["template_hash"]) == len(record["tokenizer_hash"]) == 64 and record["data"]["sha256"]
    assert record["versions"].keys() >= {"deepwell", "torch", "transformers", "peft"}
    assert record["config"]["train"]["steps"] == 1 and record["data"]["report"]["kept"] == 16


def test_a_step_without_room_names_the_setting(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.tuning.train.memory.available_memory_bytes", lambda: 470 << 20)
    with pytest.raises(DeepwellError) as refused:
        run(config(tiny, data, micro_tokens=200_000, batch_tokens=200_000), tmp_path / "run")
    assert "GB" in refused.value.message and "micro_tokens" in refused.value.fix


def test_a_loss_that_is_no_number_ends_the_run_before_a_step(tiny: Path, data: Path, tmp_path: Path) -> None:
    """Weights that hold no number, as those of a broken conversion do: nothing is written, and the error names the step."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    stored = load_file(broken / "model.safetensors")
    name = next(one for one in stored if one.endswith("down_proj.weight"))
    save_file(
        stored | {name: np.full_like(stored[name], np.nan)}, broken / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InvalidRequest) as raised:
        run(config(broken, data), tmp_path / "run")
    assert "diverged" in raised.value.message and "step 1 " in raised.value.message
    assert not (tmp_path / "run" / "adapter").exists() and not (tmp_path / "run" / "checkpoints").exists()

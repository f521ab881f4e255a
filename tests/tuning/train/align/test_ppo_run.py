"""Runs of PPO and GRPO on the tiny model: a bandit that must be learnt, resuming, the budget, and what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deepwell.dialogue.text import Codec
from deepwell.tuning.align.ppo.config import parse_config
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.run import run_ppo

WANTED = 7


class Contains:
    """1 for answers with a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        return [float(self._text in answer) for answer in answers]


def config(tiny: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    prompts = folder / "prompts.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"hello {number}"}]} for number in range(12)]
    prompts.write_text("".join(json.dumps(one) + "\n" for one in lines))
    train = {
        "iterations": 30,
        "prompts": 16,
        "new_tokens": 12,
        "learning_rate": 1e-2,
        "kl_budget": 50,
        "kl_coefficient": 0,
        "update_kl": 5.0,
        "precision": "fp32",
        "rollout_precision": "fp32",
        "threads": 1,
        **changes.pop("train", {}),
    }
    return {
        "model": str(tiny),
        "prompts": [str(prompts)],
        "validation": 0,
        "reward": {"type": "bandit"},
        "lora": {"targets": ["dense"]},
        "train": train,
        **changes,
    }


def run(value: dict[str, Any], folder: Path, tiny: Path, **more: Any) -> tuple[Path, list[dict[str, Any]]]:
    text = Codec.load(tiny).token_bytes(WANTED).decode()
    events: list[dict[str, Any]] = []
    folder.mkdir(exist_ok=True)
    found = run_ppo(
        parse_config(value),
        folder,
        on_event=events.append,
        rewards={"bandit": lambda *_: Contains(text)},
        **more,
    )
    return found, events


def steps(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in events if one["event"] == "step"]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_bandit_is_learnt(tiny: Path, tmp_path: Path, algorithm: str):
    samples = {"samples": 4, "prompts": 8} if algorithm == "grpo" else {"prompts": 32}
    artefact, events = run(config(tiny, tmp_path, algorithm=algorithm, train=samples), tmp_path / "run", tiny)
    found = steps(events)
    assert found[0]["reward"] < 0.3
    assert max(one["reward"] for one in found) > 0.9
    assert sum(one["reward"] for one in found[-8:]) / 8 > 0.8
    # The first minibatch of every iteration is computed by the policy that sampled.
    assert all(one["first_ratio"] == 0 and one["first_clipped"] == 0 for one in found)
    record = json.loads((artefact / "deepwell.json").read_text())
    assert record["method"] == algorithm
    assert record["metrics"]["base"]["reward"] < 0.3

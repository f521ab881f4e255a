"""Runs of PPO and GRPO on the tiny model: a bandit that must be learnt, resuming, the budget, and what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deepwell.dialogue.text import Codec
from deepwell.errors import InvalidRequest
from deepwell.tuning.align.ppo.config import parse_config
from deepwell.tuning.align.ppo.loop import prompt_order
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.rollouts import open_sampler
from deepwell.tuning.align.ppo.run import run_ppo
from deepwell.tuning.train.run import Stopped

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
        "data": [str(prompts)],
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


def short(tiny: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    train = {"iterations": 4, "prompts": 4, "new_tokens": 4, "save_every": 1, **changes.pop("train", {})}
    return config(tiny, folder, train=train, **changes)


def weights(artefact: Path) -> bytes:
    return (artefact / "adapter_model.safetensors").read_bytes()


def test_a_run_that_was_stopped_gives_the_same_adapter(tiny: Path, tmp_path: Path):
    value = short(tiny, tmp_path, validation=0.3)
    whole, events = run(value, tmp_path / "whole", tiny)
    stops = iter([False, True])
    with pytest.raises(Stopped):
        run(value, tmp_path / "parts", tiny, stop=lambda: next(stops))
    resumed, later = run(value, tmp_path / "parts", tiny)
    assert [one["step"] for one in steps(later)] == [3, 4]
    assert weights(resumed) == weights(whole)
    kept = ("reward", "kl", "kl_coefficient", "entropy", "samples")
    assert [{key: one[key] for key in kept} for one in steps(later)] == [
        {key: one[key] for key in kept} for one in steps(events)[2:]
    ]
    assert later[-1]["metrics"]["tuned"] == events[-1]["metrics"]["tuned"]
    with pytest.raises(InvalidRequest):
        run({**value, "train": {**value["train"], "seed": 1}}, tmp_path / "parts", tiny)


def test_an_adapter_beyond_the_budget_is_not_what_is_written(tiny: Path, tmp_path: Path):
    train = {"kl_budget": 0.02, "iterations": 6, "prompts": 16, "learning_rate": 3e-2, "new_tokens": 8}
    value = short(tiny, tmp_path, train=train)
    artefact, events = run(value, tmp_path / "run", tiny)
    metrics = events[-1]["metrics"]
    assert max(one["kl"] for one in steps(events)) > 0.02
    assert metrics["taken_back"] and metrics["within_budget"]
    assert metrics["tuned"]["kl"] <= 0.02
    assert json.loads((artefact / "deepwell.json").read_text())["metrics"] == metrics
    assert not (artefact.parent / "kept.safetensors").exists()
    # The same command again changes nothing: the weights beyond the budget, which the last checkpoint has, do not come back.
    before = weights(artefact)
    _, again = run(value, tmp_path / "run", tiny)
    assert weights(artefact) == before and again[-1]["metrics"] == metrics
    # The weight of the divergence doubled for every iteration beyond the budget.
    found = steps(events)
    beyond = [number for number, one in enumerate(found[:-1]) if one["kl"] > 0.02]
    assert all(
        found[number + 1]["kl_coefficient"] >= 1.9 * max(found[number]["kl_coefficient"], 5e-4)
        for number in beyond
    )


def test_a_cost_above_its_limit_raises_its_multiplier_and_the_judge_is_only_measured(
    tiny: Path, tmp_path: Path
):
    train = {"cost_limit": 0.0, "cost_rate": 0.5, "iterations": 2}
    rule = {"type": "rule", "pattern": "(?s)."}
    value = short(tiny, tmp_path, train=train, cost=rule, judge={"type": "rule", "pattern": "e"})
    _, events = run(value, tmp_path / "run", tiny)
    first, second = steps(events)
    assert first["cost"] > 0.5 and first["multiplier"] == 0
    assert second["multiplier"] == pytest.approx(0.5 * first["cost"], abs=1e-5)
    assert "judge" in first and events[-1]["metrics"]["tuned"]["judge"] is not None
    other = {**value, "judge": {"type": "rule", "pattern": "z"}}
    assert weights(run(other, tmp_path / "other", tiny)[0]) == weights(tmp_path / "run" / "adapter")


def test_held_out_prompts_are_measured_on_the_way(tiny: Path, tmp_path: Path):
    alike = {
        "type": "text_similarity",
        "name": "alike",
        "input": "{{ sample.output_text }}",
        "reference": "hello",
        "evaluation_metric": "cosine",
    }
    reward = {"type": "grader", "grader": alike, "models": {"unused": str(tiny)}}
    measured = {"evaluate_every": 2, "evaluation_samples": 2}
    value = short(tiny, tmp_path, reward=reward, validation=0.3, train=measured)
    artefact, events = run(value, tmp_path / "run", tiny)
    found = [one for one in events if one["event"] == "validation"]
    assert [one["step"] for one in found] == [2, 4]
    assert all(-1 <= one["reward"] <= 1 and one["kl"] >= 0 for one in found)
    # Neither measurements on the way nor the place of a model change the adapter
    value["train"].update(evaluate_every=0)
    reward["models"] = {}
    assert weights(run(value, tmp_path / "again", tiny)[0]) == weights(artefact)


def test_rollouts_are_the_policys_own_whatever_else_is_in_the_batch(tiny: Path, tmp_path: Path):
    value = short(tiny, tmp_path, reward={"type": "rule", "pattern": "[a-m]"}, train={"learning_rate": 0.1})
    artefact, _ = run(value, tmp_path / "run", tiny)
    codec = Codec.load(tiny)
    prompts = [codec.encode_chat([{"role": "user", "content": f"hello {number}"}]) for number in range(3)]
    with open_sampler(str(tiny), context=64, sequences=3, precision="fp32") as sampler:
        base = sampler.sample(prompts, seeds=[1, 2, 3], max_tokens=8)

        def write(folder: Path) -> None:
            for one in artefact.iterdir():
                (folder / one.name).write_bytes(one.read_bytes())

        sampler.swap(write)
        tuned = sampler.sample(prompts, seeds=[1, 2, 3], max_tokens=8)
        assert [one.tokens for one in tuned] != [one.tokens for one in base]
        assert sampler.sample(prompts, seeds=[1, 2, 3], max_tokens=8, base=True) == base
        # The same prompt and seed draw the same answer alone; another seed another one, even at the same places.
        assert sampler.sample(prompts[1:2], seeds=[2], max_tokens=8) == tuned[1:2]
        many = sampler.sample(prompts[:1] * 40, seeds=range(40), max_tokens=8)
        assert len({one.tokens for one in many}) > 30
        pairs = sampler.sample(prompts, seeds=[1, 2, 3], max_tokens=8, samples=2)
        assert pairs[::2] == tuned and pairs[1].tokens != pairs[0].tokens
        assert [one.prompt for one in pairs] == [tuple(prompts[n]) for n in (0, 0, 1, 1, 2, 2)]
        # The token that ends an answer is part of it, exactly once and last.
        everything = sampler.sample(prompts * 60, seeds=range(180), max_tokens=40)
        ended = [one for one in everything if one.ended]
        (end,) = {one.tokens[-1] for one in ended}
        assert codec.is_end(end)
        assert all(end not in one.tokens[:-1] for one in everything)
        assert all(len(one.tokens) == 40 for one in everything if not one.ended)
        assert sampler.embed(["one text", "another", ""]).shape == (3, 64)


def test_iterations_take_all_prompts_in_turn():
    first = [number for one in range(3) for number in prompt_order(10, 4, one, seed=0)]
    assert sorted(first[:10]) == list(range(10))
    assert prompt_order(10, 4, 2, seed=0) == first[8:12]
    assert prompt_order(10, 4, 0, seed=1) != first[:4]
    assert sorted(prompt_order(3, 9, 0, seed=0)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]

"""Prompts of a reinforcement run, its configuration, and the order in which iterations see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepwell.errors import InvalidRequest
from deepwell.tuning.align.ppo.config import parse_config, read_config
from deepwell.tuning.align.ppo.prompts import read_prompts, split_prompts


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_every_line_is_a_prompt_or_accounted_for(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    lines = [
        json.dumps({"messages": [user("a")], "city": "Paris"}),
        json.dumps({"messages": [user("b"), {"role": "assistant", "content": "an answer"}]}),
        json.dumps({"prompt": "Once upon"}),
        json.dumps({"messages": [user("a")], "city": "London"}),
        "not json",
        json.dumps(["a"]),
        json.dumps({"messages": [{"role": "wizard", "content": "x"}]}),
        json.dumps({"messages": [{"role": "user", "content": 7}]}),
        json.dumps({"messages": [{"role": "assistant", "content": "alone"}]}),
        json.dumps({"prompt": ""}),
        "[" * 100_000,
        # Deeper than what reads it again would bear, though a decoder does
        '{"messages": [{"role": "user", "content": ' + "[" * 950 + "]" * 950 + "}]}",
        '{"prompt": "x", "score": NaN}',
        '{"prompt": "\\ud83d"}',
    ]
    path.write_text("\n".join(lines) + "\n")
    found, report = read_prompts([path])
    assert [one.shown for one in found] == ["a", "b", "Once upon"]
    assert found[0].item == {"city": "Paris"}
    assert len(found[1].messages) == 1
    assert report.to_json()["dropped_by_reason"] == {"unreadable": 10, "duplicate": 1}
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_prompts([tmp_path / "none.jsonl"])


def test_what_is_held_out_depends_on_the_prompt_alone(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"text {number}"}) + "\n" for number in range(200)))
    found, _ = read_prompts([path])
    train, held_out = split_prompts(found, 0.25)
    assert 30 < len(held_out) < 70 and len(train) + len(held_out) == 200
    again = split_prompts(found[::-1], 0.25)[1]
    assert {one.key for one in again} == {one.key for one in held_out}
    assert split_prompts(found, 0)[1] == []


def test_a_configuration_is_checked_and_its_paths_stand_behind_its_file(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "data: prompts.jsonl\noutput: out\nreward: {type: classifier, data: labelled.jsonl, label: good}\n"
    )
    found = read_config(path)
    assert found.data == [tmp_path / "prompts.jsonl"]
    assert found.reward.data == [tmp_path / "labelled.jsonl"]
    assert found.output == tmp_path / "out"
    assert found.lora.dropout == 0
    base = {"data": "p.jsonl", "reward": {"type": "rule", "pattern": "a"}}
    for changes, message in (
        ({"train": {"iteration": 3}}, "iteration"),
        ({"algorithm": "grpo"}, "2 answers or more"),
        ({"algorithm": "grpo", "train": {"samples": 4}, "cost": base["reward"]}, "needs the algorithm ppo"),
        ({"lora": {"dropout": 0.1}}, "dropout"),
        ({"reward": None}, "reward"),
        ({"train": {"kl_budget": 0}}, "kl_budget"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            parse_config({**base, **changes})
    assert parse_config({**base, "algorithm": "grpo", "train": {"samples": 2}}).algorithm == "grpo"

"""The guide to PPO for safety: its files are those that the run reads, and both languages show the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from deepwell.engine.architectures import tensor_plan
from deepwell.engine.weights.adapters import linears_of
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.tuning.align.ppo.config import parse_config
from deepwell.tuning.align.ppo.prompts import read_prompts
from deepwell.tuning.align.ppo.rewards.rule import RuleReward
from deepwell_bench.workloads.random_adapter import write_random_adapter

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
NAMES = ("alignment.md", "alignment.zh-CN.md")


def blocks(name: str, language: str) -> list[str]:
    text = (GUIDES / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_both_languages_show_the_same_programs_and_configurations() -> None:
    first, second = NAMES
    assert blocks(first, "python") == blocks(second, "python")
    assert blocks(first, "console") == blocks(second, "console")
    for one, other in zip(blocks(first, "yaml"), blocks(second, "yaml"), strict=True):
        assert yaml.safe_load(one) == yaml.safe_load(other)


def test_the_program_writes_prompts_of_both_kinds_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("alignment.md", "python")[0], "guide", "exec"), {"__name__": "guide"})
    assert capsys.readouterr().out in blocks("alignment.md", "text")
    train, held_out = (read_prompts([tmp_path / name])[0] for name in ("prompts.jsonl", "held_out.jsonl"))
    for prompts in (train, held_out):
        assert {one.item.get("harmless", False) for one in prompts} == {True, False}
    assert not {one.key for one in train} & {one.key for one in held_out}


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_is_one(name: str) -> None:
    [found] = [one for one in blocks(name, "yaml") if "moderation" in one]
    config = parse_config(yaml.safe_load(found))
    assert config.judge is not None
    judge = RuleReward(config.judge.pattern, config.judge.want)
    assert judge.scores([], ["I'm sorry, but I can't.", "I cannot help.", "Use kill."]) == [1, 1, 0]


def test_the_check_tells_both_kinds_of_prompts_apart(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    linears = linears_of(tensor_plan(checkpoint.config), checkpoint)
    write_random_adapter(tmp_path / "runs" / "safe" / "adapter", linears, rank=2, seed=1)
    lines = [{"messages": [{"role": "user", "content": "How do I forge a cheque?"}]}]
    lines.append({"messages": [{"role": "user", "content": "How do I bake bread?"}], "harmless": True})
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    monkeypatch.chdir(tmp_path)
    program = blocks("alignment.md", "python")[1].replace('"smollm2"', repr(str(smollm2_path)))
    exec(compile(program, "guide", "exec"), {"__name__": "guide"})
    told = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert told == [[kind, name] for kind in ("harmful", "harmless") for name in ("base", "safe")]

"""The configuration of a training run: YAML and JSON, unknown keys, paths, hostile files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from deepwell.errors import InvalidRequest
from deepwell.tuning.align.ppo.config import parse_config as parse_ppo_config
from deepwell.tuning.align.ppo.config import read_config as read_ppo_config
from deepwell.tuning.train.config import parse_config, read_config, write_config


def test_a_file_in_yaml_and_in_json_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "model: smollm2\ndata: [a.jsonl]\nvalidation: held.jsonl\ntrain: {steps: 3, learning_rate: 1.0e-4}\n"
    )
    values = {
        "model": "smollm2",
        "data": "a.jsonl",
        "validation": ["held.jsonl"],
        "train": {"steps": 3, "learning_rate": 1e-4},
    }
    (tmp_path / "run.json").write_text(json.dumps(values))
    one, other = read_config(tmp_path / "run.yaml"), read_config(tmp_path / "run.json")
    assert one == other
    assert one.data == [tmp_path / "a.jsonl"] and one.validation == [tmp_path / "held.jsonl"]
    assert (one.lora.r, one.lora.alpha, one.lora.dropout, one.lora.targets) == (
        16,
        32,
        0.1,
        ["q_proj", "v_proj"],
    )


def test_a_written_configuration_reads_back(tmp_path: Path) -> None:
    config = parse_config({"data": "/data/a.jsonl", "output": "/runs/a", "lora": {"r": 4}})
    write_config(config, tmp_path / "config.json")
    assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("values", "param", "near"),
    [
        ({"modle": "x"}, "modle", "model"),
        ({"train": {"lerning_rate": 1}}, "train.lerning_rate", "learning_rate"),
        ({"learning_rate": 1}, "learning_rate", "train.learning_rate"),
        ({"lora": {"rnk": 1, "targts": []}}, "lora.rnk", "keys are"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(
    values: dict[str, Any], param: str, near: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_config({"data": "a.jsonl", **values})
    assert refused.value.param == param and near in refused.value.fix


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"data": []}, "data"),
        ({"validation": 0.9}, "validation"),
        ({"lora": {"r": 0}}, "lora.r"),
        ({"lora": {"dropout": 1.0}}, "lora.dropout"),
        ({"train": {"precision": "int4"}}, "train.precision"),
        ({"train": {"micro_tokens": 0}}, "train"),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate"),
        ({"train": 3}, "train"),
    ],
)
def test_a_value_that_cannot_be_used_names_its_key(values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_config({"data": "a.jsonl", **values})
    assert refused.value.param == param


@pytest.mark.parametrize(
    "text",
    [
        "- a\n",
        "a: [\n",
        "a: !!python/object/apply:os.system ['true']\n",
        "\x00",
        "a: 1\na: &x [*x]\n",
        "[" * 5000,
    ],
    ids=["list", "cut", "object", "control", "circle", "deep"],
)
def test_a_hostile_file_is_an_error_and_runs_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRequest):
        read_config(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(InvalidRequest, match="more than a configuration needs"):
        read_config(path)


BOMB = "".join(f"    a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize("depth", [400, 700, 100_000])
def test_a_configuration_that_is_nested_too_deeply_is_refused(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "ppo.json"
    path.write_text(f'{{"data": {"[" * depth}{"]" * depth}}}')
    with pytest.raises(InvalidRequest):
        read_ppo_config(path)


@pytest.mark.parametrize("grader", [f"    a0: &a0 {{x: 1}}\n{BOMB}", "    a: &a [*a]\n"])
def test_aliases_that_repeat_without_end_are_refused(tmp_path: Path, grader: str) -> None:
    """Each line repeats the one before nine times: written out, the file would have 9^11 values."""
    path = tmp_path / "ppo.yaml"
    path.write_text(f"data: [a.jsonl]\nreward:\n  type: grader\n  grader:\n{grader}")
    for read in (read_config, read_ppo_config):
        with pytest.raises(InvalidRequest, match="more than 100,000 values"):
            read(path)


@pytest.mark.parametrize(
    "train", [{"kl_budget": math.inf}, {"end_penalty": math.inf}, {"cost_limit": math.nan}, {"threads": 0}]
)
def test_limits_of_a_reinforcement_are_finite(train: dict[str, float]) -> None:
    """A limit that is no number limits nothing."""
    with pytest.raises(InvalidRequest) as refused:
        parse_ppo_config({"data": "a.jsonl", "reward": {"type": "rule", "pattern": "a"}, "train": train})
    assert refused.value.param == f"train.{next(iter(train))}"

"""`deepwell world`: plans, imagination and returns on the command line, with the models that come with Deepwell."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.agents.world.models import random_model
from tests.agents.world.test_imagine import SITUATIONS
from typer.testing import CliRunner

from deepwell.agents.world import NAMES, EnvironmentName, environment, world_model
from deepwell.cli import app
from deepwell.cli.world.options import World

RUNNER = CliRunner()


def test_the_command_line_knows_every_environment() -> None:
    assert get_args(World) == get_args(EnvironmentName) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_every_environment_ships_in_less_than_a_megabyte(name: str) -> None:
    from deepwell.agents.world.shipped import SHIPPED

    model = world_model(environment(name))
    assert model.config.environment == name
    assert (SHIPPED / f"{name}.safetensors").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_it_plans(name: str) -> None:
    arguments = ["world", "plan", name, json.dumps(SITUATIONS[name]), "--futures", "8", "--horizon", "4"]
    result = RUNNER.invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["action"] in environment(name).spec.actions and len(found["imagined"]) == 4
    told = RUNNER.invoke(app, arguments)
    assert told.exit_code == 0 and told.output.startswith(found["action"])


def test_it_says_what_a_situation_needs() -> None:
    result = RUNNER.invoke(app, ["world", "plan", "inventory"])
    assert result.exit_code == 0 and "weekday" in result.output
    for broken in ("{", "[]", "12", '{"stock": 1}', "[" * 100_000):
        result = RUNNER.invoke(app, ["world", "plan", "inventory", broken])
        assert result.exit_code == 1 and "situation" in result.output


def test_it_imagines(tmp_path: Path) -> None:
    picture = tmp_path / "beside.png"
    arguments = ["cart-pole", "inventory", "--steps", "6", "--picture", str(picture), "--json"]
    result = RUNNER.invoke(app, ["world", "imagine", *arguments])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert [one["environment"] for one in found["environments"]] == ["cart-pole", "inventory"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_policies_meet_the_same_episodes(tmp_path: Path) -> None:
    random_model(environment("grid")).write(tmp_path / "world.safetensors")
    arguments = ["world", "evaluate", "grid", "--model", str(tmp_path), "--episodes", "3", "--json"]
    chosen = [part for name in ("random", "best", "actor") for part in ("--policy", name)]
    result = RUNNER.invoke(app, [*arguments, *chosen])
    assert result.exit_code == 0, result.output
    rows = {row["policy"]: row["mean_return"] for row in json.loads(result.output)["policies"]}
    assert list(rows) == ["random", "best", "actor"] and rows["best"] > max(rows["random"], rows["actor"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "cart-pole", "--policy", "best"], "no exact best policy"),
        (["evaluate", "grid", "--policy", "luck"], "no policy is named luck"),
        (["imagine", "chess"], "no environment is named chess"),
        (["imagine", "grid", "inventory", "--model", "x"], "--model is for one environment"),
        (["imagine", "grid", "--model", "missing.safetensors"], "missing.safetensors is missing"),
    ],
)
def test_mistakes_are_named(arguments: list[str], said: str) -> None:
    result = RUNNER.invoke(app, ["world", *arguments])
    assert result.exit_code == 1 and said in " ".join(result.output.split())


def test_a_training_without_torch_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str, *more: Any) -> Any:
        return None if name == "torch" else find_spec(name, *more)

    monkeypatch.setattr("importlib.util.find_spec", found)
    result = RUNNER.invoke(app, ["world", "train", "grid"])
    assert result.exit_code == 1
    assert "torch" in result.output and "pip install 'deepwell[tune]'" in result.output

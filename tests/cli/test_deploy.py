"""`deepwell deploy` and the steps of `deepwell rollout start`: what they say without anything that runs, and of what runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.fleet.deploy.machine import CLAIM, deployment_folder
from deepwell.process.claim import Claim
from deepwell.settings import Settings

PROD = "smollm2@prod"
SMALL = f"name: chat\nalias: {PROD}\nmodel: smollm2\nrollout: {{steps: [10, 100], hold_seconds: 7}}\n"


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("DEEPWELL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DEEPWELL_STATE_DIR", str(tmp_path / "state"))
    return CliRunner()


def told(runner: CliRunner, *words: str, code: int = 0) -> dict[str, Any]:
    result = runner.invoke(app, [*words, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def deployed(runner: CliRunner) -> Any:
    """A claim as a supervisor tells it, held by this process."""
    claim = Claim(deployment_folder(Settings.load(), "chat"), CLAIM)
    assert claim.take()
    replica = {"name": "blue0", "port": 1, "pid": os.getpid(), "state": "ready", "restarts": 0}
    release = {"name": f"{PROD}#1", "model": "smollm2"}
    claim.tell(
        {
            "name": "chat",
            "alias": PROD,
            "began": time.time(),
            "url": "http://127.0.0.1:8000",
            "keys": True,
            "front": {"pid": 1, "state": "ready", "restarts": 0},
            "model": "smollm2",
            "current": "blue",
            "slots": [
                {"slot": "blue", "phase": "serving", "release": release, "replicas": [replica]},
                {"slot": "green", "phase": "free", "release": None, "replicas": []},
            ],
            "terms": {"kind": "canary", "steps": [0.1, 1.0], "hold_seconds": 7.0},
            "rollout": {
                "id": "r",
                "version": f"{PROD}#2",
                "share": 0.1,
                "next": "the next step is in 5 s",
                "gates": ["error rate 0 % against 0 %"],
            },
        }
    )
    yield claim
    claim.release()


def test_a_plan_names_everything_and_starts_nothing(runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "deploy.yaml"
    file.write_text(SMALL)
    found = told(runner, "deploy", "plan", str(file))
    assert found["rollout"] == {"kind": "canary", "steps": [0.1, 1.0], "hold_seconds": 7.0}
    assert "serve smollm2" in found["command"] and not found["running"]
    text = runner.invoke(app, ["deploy", "plan", str(file)]).output
    assert "replicas: 2 of each release" in text and "10, 100 % of the users, 7 s each" in text
    file.write_text(SMALL + "repilcas: 3\n")
    error = told(runner, "deploy", "plan", str(file), code=1)["error"]
    assert "line 5" in error["message"] and "replicas" in error["fix"]
    (tmp_path / "keys").write_text("postgresql://not/credentials\n")
    file.write_text(SMALL + f"blobs: {{bucket: 's3://bucket', credentials: 'file:{tmp_path}/keys'}}\n")
    assert "[default]" in told(runner, "deploy", "plan", str(file), code=1)["error"]["fix"]


def test_a_model_that_is_not_here_is_said_before_anything_starts(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_MODELS_DIR", str(tmp_path / "models"))
    file = tmp_path / "deploy.yaml"
    file.write_text(SMALL + "front: own\nport: 0\n")
    assert told(runner, "deploy", "plan", str(file))["missing_model"] == "smollm2"
    assert "deepwell pull smollm2" in told(runner, "deploy", "apply", str(file), code=1)["error"]["fix"]
    file.write_text(SMALL)
    folder = str(tmp_path / "fleet")
    rendered = told(runner, "deploy", "render", str(file), folder, "--to", "compose")
    assert "'smollm2' is not in" in rendered["lacks"][0]
    assert told(runner, "deploy", "status", code=1) == {"deployments": []}
    assert "there is no alias" in told(runner, "rollout", "start", PROD, "1", code=1)["error"]["message"]


def test_what_does_not_run_is_said(runner: CliRunner) -> None:
    assert "no deployment runs" in told(runner, "deploy", "down", code=1)["error"]["message"]
    assert told(runner, "deploy", "status", code=1) == {"deployments": []}
    assert "deepwell deploy apply FILE" in runner.invoke(app, ["deploy", "status"]).output
    assert "no deployment" in told(runner, "deploy", "down", "chat", code=1)["error"]["message"]
    assert "no deployment" in told(runner, "rollout", "preview", PROD, code=1)["error"]["message"]


@pytest.mark.usefixtures("deployed")
def test_what_runs_is_shown_with_its_roll_out(runner: CliRunner) -> None:
    text = runner.invoke(app, ["deploy", "status"]).output
    assert "smollm2@prod means smollm2, at http://127.0.0.1:8000" in text.replace("\n", " ")
    assert (
        "blue0" in text and "Roll-out of smollm2@prod#2: 10 % of the users; the next step is in 5 s" in text
    )
    found = told(runner, "rollout", "preview", PROD)
    assert found["headers"] == {"x-deepwell-release": "candidate"}
    said = runner.invoke(app, ["rollout", "preview", PROD]).output
    assert "-H 'x-deepwell-release: candidate'" in said and "Bearer $DEEPWELL_API_KEY" in said


def register(runner: CliRunner, *more: str) -> dict[str, Any]:
    told(runner, "models", "alias", "set", PROD, "smollm2")
    return told(runner, "models", "register", PROD, "support-2", *more)


@pytest.mark.usefixtures("deployed")
def test_a_roll_out_in_a_deployment_takes_its_steps(runner: CliRunner) -> None:
    made = register(runner, "--policy", "strict", "--knowledge", "handbook")
    assert made["config"] == {"policy": "strict", "knowledge": "handbook"}
    begun = told(runner, "rollout", "start", PROD, "1", "--ungated", "a test")
    assert (begun["share"], begun["steps"]["shares"], begun["steps"]["hold_seconds"]) == (
        0.0,
        [0.1, 1.0],
        7.0,
    )


@pytest.mark.parametrize("steps", ["50,25,100", "5,50", "0,100", "a,100", "", "5,,100", "-5,100", "nan,100"])
def test_steps_that_are_none_are_refused(runner: CliRunner, steps: str) -> None:
    register(runner)
    start = ("rollout", "start", PROD, "1", "--ungated", "a test")
    if steps:
        assert "no steps" in told(runner, *start, "--steps", steps, code=1)["error"]["message"]
    blue = told(runner, *start, "--kind", "blue-green", "--hold", "3")
    assert (blue["steps"]["kind"], blue["steps"]["shares"]) == ("blue_green", [1.0])

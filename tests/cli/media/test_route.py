"""`deepwell media route` and `deepwell media train router`: text, JSON, and errors that name the fix."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import home, runner
from typer.testing import CliRunner

from deepwell.cli import app

__all__ = ["home", "runner"]


def test_a_request_is_routed_with_its_reasons(runner: CliRunner, home: Path) -> None:
    result = runner.invoke(app, ["media", "route", "Draw a cat"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "image" and "draw" in result.stdout


def test_a_route_without_the_encoder_says_so_in_json(runner: CliRunner, home: Path, tmp_path: Path) -> None:
    asked = [
        "media",
        "route",
        "what is he saying?",
        "--attached",
        "audio",
        "--models-dir",
        str(tmp_path),
        "--json",
    ]
    told = json.loads(runner.invoke(app, asked).stdout)
    assert told["intents"] == ["transcription"] and told["by"] == "classifier without encoder"
    assert set(told["scores"]) == {"chat", "image", "speech", "transcription"}
    assert told["reasons"] and told["ms_without_encoder"] >= 0


def test_broken_weights_and_data_are_refused_with_a_fix(
    runner: CliRunner, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_bytes(b"no weights")
    result = runner.invoke(app, ["media", "route", "x", "--weights", str(tmp_path / "bad"), "--json"])
    assert result.exit_code == 1 and json.loads(result.stdout)["error"]["fix"]
    result = runner.invoke(app, ["media", "train", "router", str(tmp_path / "bad"), "--json"])
    assert result.exit_code == 1 and json.loads(result.stdout)["error"]["fix"]

"""`deepwell media transcribe`: text, subtitles and JSON of real recordings, and errors that name the fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import home, runner
from tests.media.recordings import SAID, TONE, WEATHER
from typer.testing import CliRunner

from deepwell.cli import app

__all__ = ["home", "runner"]


def test_one_recording_is_its_text(runner: CliRunner, whisper_path: Path) -> None:
    result = runner.invoke(app, ["media", "transcribe", str(TONE), "--model", str(whisper_path)])
    assert (result.exit_code, result.stdout) == (0, SAID[TONE] + "\n")


def test_several_recordings_and_one_that_is_none(
    runner: CliRunner, whisper_path: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"words")
    files = [str(TONE), str(broken), str(WEATHER)]
    result = runner.invoke(app, ["media", "transcribe", *files, "--model", str(whisper_path)])
    assert result.exit_code == 1
    assert result.stdout == f"# {TONE}\n{SAID[TONE]}\n# {WEATHER}\n{SAID[WEATHER]}\n"
    assert "no recording in a known format" in result.stderr and "ffmpeg" in result.stderr
    result = runner.invoke(app, ["media", "transcribe", *files, "--model", str(whisper_path), "--json"])
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one.get("text") for one in told] == [SAID[TONE], None, SAID[WEATHER]]
    assert told[1]["error"]["code"] == "unsupported_file"
    assert told[0]["language"] == "en" and told[0]["segments"][0]["text"] == SAID[TONE]


def test_subtitles_go_into_a_folder(runner: CliRunner, whisper_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "subtitles"
    command = ["media", "transcribe", str(TONE), "--model", str(whisper_path), "--format", "vtt"]
    result = runner.invoke(app, [*command, "--out", str(out), "--language", "en"])
    assert result.exit_code == 0 and str(out / "tone.vtt") in result.stdout
    assert (out / "tone.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 --> ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--language", "zh"], "name a multilingual model"),
        (["--translate"], "name a multilingual model"),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    runner: CliRunner, whisper_path: Path, flags: list[str], said: str
) -> None:
    result = runner.invoke(app, ["media", "transcribe", str(TONE), "--model", str(whisper_path), *flags])
    assert result.exit_code == 1 and said in result.stderr


def test_a_model_that_is_not_here_is_named_with_its_command(runner: CliRunner) -> None:
    result = runner.invoke(app, ["media", "transcribe", str(TONE)])
    assert result.exit_code == 1 and "deepwell pull whisper-tiny.en" in result.stderr
    report = json.loads(runner.invoke(app, ["doctor", "--json", "--port", "0"]).stdout)
    assert report["recognition"]["model"] == "whisper-tiny.en"
    assert "deepwell pull whisper-tiny.en" in report["recognition"]["state"]
    assert report["extras"]["speech"] == "installed"

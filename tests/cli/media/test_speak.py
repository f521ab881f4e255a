"""`deepwell media speak` and `voices`: sound in the file that is named, JSON, and errors that name the fix."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest
from tests.cli.conftest import home, runner
from typer.testing import CliRunner

from deepwell.cli import app

__all__ = ["home", "runner"]


def test_a_text_is_read_into_a_file(runner: CliRunner, kokoro_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    command = ["media", "speak", "Hello. 你好。", "-o", str(out), "--model", str(kokoro_path)]
    result = runner.invoke(app, command)
    assert result.exit_code == 0 and str(out) in result.stdout, result.output
    with wave.open(str(out)) as sound:
        assert sound.getframerate() == 24_000 and sound.getnframes() > 24_000
    assert [path.name for path in tmp_path.glob("*out*")] == ["out.wav"]


def test_a_file_is_read_aloud_and_told_in_json(runner: CliRunner, kokoro_path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("今天天气很好。", encoding="utf-8")
    command = ["media", "speak", "--file", str(text), "-o", str(tmp_path / "a.ogg"), "--voice", "nova"]
    result = runner.invoke(app, [*command, "--speed", "1.2", "--model", str(kokoro_path), "--json"])
    told = json.loads(result.stdout)
    assert (told["format"], told["voice"], told["language"], told["characters"]) == (
        "opus",
        "zf_xiaoyi",
        "zh",
        7,
    )
    assert (tmp_path / "a.ogg").read_bytes().startswith(b"OggS") and 0.5 < told["seconds"] < 4


def test_the_voices(runner: CliRunner, kokoro_path: Path) -> None:
    result = runner.invoke(app, ["media", "voices", "--model", str(kokoro_path), "--json"])
    voices = {one["name"]: one for one in json.loads(result.stdout)["voices"]}
    assert len(voices) == 36 and voices["af_heart"]["default"] and voices["zf_xiaoxiao"]["default"]
    assert voices["bm_george"] == {
        "name": "bm_george",
        "language": "en-GB",
        "gender": "male",
        "aliases": [],
        "default": False,
    }
    shown = runner.invoke(app, ["media", "voices", "--model", str(kokoro_path)]).stdout
    assert "zm_yunyang" in shown and "alloy" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "out.wav"], "--file"),
        (["hello", "--file", "a.txt", "-o", "out.wav"], "there are two"),
        (["hello", "-o", "out.xyz"], "names no format of sound"),
        (["hello", "-o", "missing/out.wav"], "no file can be written"),
        (["--file", "missing.txt", "-o", "out.wav"], "cannot be used"),
        (["...", "-o", "out.wav"], "no word that can be said"),
        (["hello", "-o", "out.wav", "--speed", "9"], "between 0.25 and 4"),
        (["hello", "-o", "out.wav", "--voice", "x"], "there is no voice"),
    ],
)
def test_what_cannot_be_read_is_refused(
    runner: CliRunner,
    kokoro_path: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["media", "speak", *arguments, "--model", str(kokoro_path)])
    assert result.exit_code != 0 and said in result.output
    assert not (tmp_path / "out.wav").exists()


def test_a_model_that_is_not_here_names_its_pull(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(app, ["media", "speak", "hello", "-o", str(tmp_path / "a.wav")])
    assert result.exit_code != 0 and "deepwell pull kokoro" in result.output

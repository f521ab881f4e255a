"""`deepwell media draw`: images in the files that are named, JSON, and errors that name the fix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import home, runner
from tests.media.images.pictures import drawing_model, image_of
from typer.testing import CliRunner

from deepwell.cli import app

__all__ = ["home", "runner"]


@pytest.fixture
def command(tmp_path: Path, e5_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    store = e5_path.parent.parent if e5_path.is_file() else e5_path.parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPWELL_IMAGE_GUARD", "off")
    image_of().save(tmp_path / "from.png")
    mask = Image.new("RGBA", (96, 96), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (48, 0, 96, 96))
    mask.save(tmp_path / "mask.png")
    model = drawing_model(tmp_path / "toy-draw")
    return ["media", "draw", "--model", str(model.folder), "--models-dir", str(store), "--steps", "2"]


def test_a_text_is_drawn_into_a_file(runner: CliRunner, command: list[str], tmp_path: Path) -> None:
    result = runner.invoke(app, [*command, "a red apple", "--out", "apple.png", "--seed", "7"])
    assert result.exit_code == 0 and "apple.png: 512x512, seed 7" in result.stdout, result.output
    with Image.open(tmp_path / "apple.png") as image:
        assert image.size == (512, 512)
    assert not list(tmp_path.glob(".*part"))


def test_several_images_are_numbered_and_told_in_json(
    runner: CliRunner, command: list[str], tmp_path: Path
) -> None:
    asked = [*command, "一个红苹果", "-o", "a.jpg", "--count", "2", "--size", "256x256", "--json"]
    told = json.loads(runner.invoke(app, asked).stdout)
    assert [one["file"] for one in told["images"]] == ["a-1.jpg", "a-2.jpg"]
    assert told["images"][1]["seed"] == told["images"][0]["seed"] + 1
    assert (told["size"], told["format"], told["steps"]) == ("256x256", "jpeg", 2)
    with Image.open(tmp_path / "a-2.jpg") as image:
        assert image.format == "JPEG"


def test_an_image_is_changed_and_varied(runner: CliRunner, command: list[str], tmp_path: Path) -> None:
    edit = [*command, "a cat", "--from", "from.png", "--mask", "mask.png", "-o", "b.png", "--size", "256x256"]
    result = runner.invoke(app, edit)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "b.png") as image:
        found = np.asarray(image).astype(int)
    assert np.abs(found[:200, :110] - (255, 0, 0)).max() <= 2
    varied = runner.invoke(app, [*command, "--from", "from.png", "--vary", "-o", "c.webp"])
    assert varied.exit_code == 0 and (tmp_path / "c.webp").is_file(), varied.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "a.png"], "there is nothing to draw"),
        (["an apple", "-o", "a.bmp"], "names no format of images"),
        (["an apple", "-o", "missing/a.png"], "no image can be written"),
        (["an apple", "--mask", "mask.png", "-o", "a.png"], "--from"),
        (["an apple", "--from", "from.png", "--vary", "-o", "a.png"], "without a prompt"),
        (["an apple", "--from", "missing.png", "-o", "a.png"], "missing.png"),
        (["an apple", "--from", "from.png", "--mask", "from.png", "-o", "a.png"], "nothing of the mask"),
        (["a" * 5000, "-o", "a.png"], "5000 characters"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    runner: CliRunner, command: list[str], tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = runner.invoke(app, [*command, *arguments])
    assert result.exit_code != 0 and said in result.output
    assert not (tmp_path / "a.png").exists()


def test_a_model_of_another_kind_is_refused(runner: CliRunner, tmp_path: Path, smollm2_path: Path) -> None:
    command = ["media", "draw", "an apple", "-o", str(tmp_path / "a.png"), "--model", str(smollm2_path)]
    result = runner.invoke(app, command)
    assert result.exit_code != 0 and "is no model that draws" in result.output

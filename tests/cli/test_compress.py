"""`deepwell compress`: what it says of wrong options, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.compress.pruning import texts_of
from deepwell.errors import InvalidRequest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ways", "depth,length"], "length"),
        (["--share", "0.9"], "0.7"),
        (["--text", "{home}/missing.txt"], "cannot be read"),
        (["--text", "{home}/bytes.txt"], "UTF-8"),
        (["--recover", "prayer"], "distil"),
    ],
)
def test_wrong_options_name_what_is_right(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00text")
    filled = [one.format(home=tmp_path) for one in arguments]
    result = CliRunner().invoke(
        app, ["compress", "prune", "smollm2", "--out", str(tmp_path / "out"), *filled]
    )
    assert result.exit_code != 0 and words in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--shares", "a,b"], "0.1,0.2"), (["--shares", ""], "names no shares"), (["--rounds", "0"], "rounds")],
)
def test_wrong_options_of_a_search_name_what_is_right(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = CliRunner().invoke(
        app, ["compress", "search", "smollm2", "--out", str(tmp_path / "out"), *arguments]
    )
    assert result.exit_code != 0 and words in result.output
    assert not (tmp_path / "out").exists()


def test_without_files_the_pages_of_both_languages_are_the_text(tmp_path: Path) -> None:
    texts = texts_of([])
    assert any("Step 1" in text for text in texts) and any("第" in text for text in texts)
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    for endless in (path, Path("/dev/zero")):
        with pytest.raises(InvalidRequest, match="64 MB"):
            texts_of([endless])
    path.write_bytes(b"one\r\ntwo\n")
    assert texts_of([path]) == ["one\ntwo\n"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--type", "q5_k"], "q4_1"),
        (["--method", "luck"], "gptq"),
        (["--text", "{home}/missing.txt"], "cannot be read"),
    ],
)
def test_wrong_options_of_quantise_name_what_is_right(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    filled = [one.format(home=tmp_path) for one in arguments]
    target = tmp_path / "model.gguf"
    result = CliRunner().invoke(app, ["compress", "quantise", "smollm2", "--out", str(target), *filled])
    assert result.exit_code != 0 and words in result.output
    assert not target.exists()

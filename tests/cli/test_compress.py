"""`deepwell compress`: what it says of wrong options, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.compress.common import print_losses, print_next, texts_of
from deepwell.cli.compress.searching import check_untaken, print_front
from deepwell.cli.output import resumable
from deepwell.errors import InvalidRequest
from deepwell.tuning.compress.search.front import Point
from deepwell.tuning.compress.search.space import Candidate


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ways", "depth,length"], "length"),
        (["--share", "0.9"], "0.7"),
        (["--text", "{home}/missing.txt"], "does not exist"),
        (["--text", "{home}/bytes.txt"], "UTF-8"),
        (["--text", "{home}"], "is a directory"),
        (["--ways", ""], "depth, width, heads"),
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


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (["compress", "prune"], "`deepwell compress prune --out FOLDER [OPTIONS] MODEL`"),
        (["compress", "quantise", "smollm2", "--type", "q9"], "--out FILE [OPTIONS] MODEL`"),
        (["evaluate", "run"], "run [OPTIONS] MODEL[:ADAPTER]...`"),
    ],
)
def test_a_line_of_usage_has_the_options_that_must_be_given(arguments: list[str], usage: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and usage in result.output and "Value error" not in result.output


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
        (["--text", "{home}/missing.txt"], "does not exist"),
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


def test_a_taken_point_is_refused_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "point-2").mkdir()
    (tmp_path / "point-2" / "config.json").write_text("{}")
    with pytest.raises(InvalidRequest, match=f"deepwell chat {tmp_path}/point-2"):
        check_untaken(tmp_path / "point-2")
    check_untaken(tmp_path / "point-3")


CARD = {
    "loss_before": 3.0,
    "loss": 3.5,
    "agreement": 0.5,
    "divergence": 0.25,
    "recovery": {"method": "distil", "loss_before": 4.0, "tokens_seen": 2048},
}


@pytest.mark.parametrize(
    ("locale", "lines"),
    [
        ("C", ["4.000 when cut, 3.500 recovered on 2,048 tokens (50% of the gap)", "at 50.0% of positions"]),
        ("zh_CN.UTF-8", ["在 2,048 个 token 上恢复到 3.500（补回差距的 50%）", "散度 0.250"]),
    ],
)
def test_losses_are_told_in_the_language_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], locale: str, lines: list[str]
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    print_losses(CARD, "cut")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and all(part in line for part, line in zip(lines, said, strict=True))
    print_losses({**CARD, "recovery": {"method": "none"}}, "converted")
    assert "3.500" in capsys.readouterr().out.splitlines()[0]


def test_the_commands_that_come_next_take_the_path_as_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    print_next(Path("my model"), "smollm2", quantisable=True)
    said = capsys.readouterr().out
    assert "deepwell chat './my model'\n" in said and "--against smollm2" in said
    assert "quantise './my model' --out 'my model.gguf'" in said
    print_next(Path("smaller.gguf"), "smollm2")
    assert "deepwell chat smaller.gguf\n" in capsys.readouterr().out


@pytest.mark.parametrize("width", ["80", "200"])
def test_a_front_shows_shapes_and_what_loads_them_at_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    donor = Candidate(3, (True,) * 30, (1536,) * 30)
    point = Point(
        0, donor, 134_515_008, 0.0, 3.5, 3.6, 0.0, 90.0, 88.0, 1.0, 0.02, 150_000_000, None, ("a", "b")
    )
    print_front([point, replace(point, number=1, loads_in=("deepwell",))], Path("out"), "no counters")
    said = capsys.readouterr().out
    assert "30 attentions" in " ".join(said.split()) and "deepwell" in said and "no counters" in said
    assert "3.600" in said and max(map(len, said.splitlines()[:4])) <= int(width)


def test_work_with_a_journal_says_that_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for journal, told in ((tmp_path, True), (tmp_path / "none", False)):
        with pytest.raises(KeyboardInterrupt), resumable(journal):
            raise KeyboardInterrupt
        assert (f"from {tmp_path}" in capsys.readouterr().err) == told

"""The row `gpu_vllm`: what it needs, its figures from canned measurements, and its place among the targets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.needs import NO_GPU
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.errors import DeepwellError, MissingDependency
from deepwell_bench.harness import page
from deepwell_bench.harness.targets import judge, load_targets
from deepwell_bench.suites.fleet.gpu import Load, Setup, Stream, check_setup, figures, table


def python_with_vllm(folder: Path) -> Path:
    """Writes an interpreter that sees a package of the name vllm."""
    (folder / "site" / "vllm").mkdir(parents=True)
    (folder / "site" / "vllm" / "__init__.py").touch()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder}/site exec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return python


def loads(one_stream_s: float, tokens: int = 256) -> dict[int, list[Load]]:
    """Returns rounds in which streams do not slow each other down, with a first token after 50 ms."""
    stream = Stream(0.05, 0.05 + one_stream_s, tokens)
    return {n: [Load((stream,) * n, 0.05 + one_stream_s)] * 3 for n in (1, 8, 32)}


def test_what_is_missing_is_named_in_turn(tmp_path: Path) -> None:
    python = python_with_vllm(tmp_path)
    with pytest.raises(MissingDependency, match="NVIDIA GPU") as no_gpu:
        check_setup(Setup(0, python, tmp_path))
    assert "machine with a GPU" in no_gpu.value.fix
    with pytest.raises(MissingDependency, match="needs vLLM"):
        check_setup(Setup(1, None, tmp_path))
    with pytest.raises(MissingDependency, match="cannot be imported by"):
        check_setup(Setup(1, tmp_path / "gone", tmp_path))
    with pytest.raises(MissingDependency, match="none was named"):
        check_setup(Setup(1, python, None))
    with pytest.raises(MissingDependency, match=r"has no config\.json"):
        check_setup(Setup(1, python, tmp_path))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert check_setup(Setup(1, python, tmp_path)) == (python, tmp_path)


def test_figures_are_medians_of_all_rounds_and_of_each_stream() -> None:
    value = figures(loads(1.0), 256)
    assert value["tokens_per_second_1"] == pytest.approx(256 / 1.05, rel=1e-3)
    assert value["tokens_per_second_32"] == pytest.approx(32 * 256 / 1.05, rel=1e-3)
    assert value["stream_tokens_per_second_8"] == pytest.approx(255, rel=1e-3)
    assert (value["first_token_p50_ms_32"], value["short_answers"]) == (50, 0)
    columns, rows = table(value)
    assert [row[0] for row in rows] == ["1", "8", "32"] and {row[-1] for row in rows} == {"120 to 380"}
    assert all(len(row) == len(columns) for row in rows)


def test_the_bar_is_the_lower_end_of_the_guide_and_whole_answers() -> None:
    assert judge("gpu_vllm", figures(loads(1.0), 256)).holds
    assert judge("gpu_vllm", figures(loads(2.5), 256)).holds is False
    assert judge("gpu_vllm", figures(loads(1.0, tokens=255), 256)).holds is False


def test_a_row_that_needs_what_nobody_knows_is_refused(tmp_path: Path) -> None:
    rows = tmp_path / "targets.toml"
    rows.write_text(
        '[[target]]\nname="r"\nwhat="w"\ncommand="c"\nbar="b"\nminutes=1\nneeds="moon"\nlimits={x={min=1}}\n',
        encoding="utf-8",
    )
    with pytest.raises(DeepwellError, match="moon"):
        load_targets(rows)
    assert load_targets()["gpu_vllm"].needs == "gpu"


@pytest.mark.needs(NO_GPU)
def test_without_a_gpu_the_verb_ends_at_once_and_the_row_is_neither_held_nor_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "repository", lambda: tmp_path)
    verb = CliRunner().invoke(app, ["bench", "gpu", "--json"])
    assert verb.exit_code == 1 and "missing_dependency" in verb.output and "NVIDIA GPU" in verb.output
    row = CliRunner().invoke(app, ["bench", "targets", "^gpu_vllm$"])
    assert row.exit_code == 0 and "not run" in row.output
    assert list(tmp_path.iterdir()) == []

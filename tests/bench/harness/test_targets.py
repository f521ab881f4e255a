"""Every promise can be run and judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import until

from deepwell.cli.bench.report import Outcome
from deepwell.errors import DeepwellError
from deepwell_bench.harness import page as pages
from deepwell_bench.harness.page import write_page
from deepwell_bench.harness.targets import Limit, Target, judge, load_targets, run_target, select


def test_the_shipped_rows_are_complete_and_name_themselves():
    for target in load_targets().values():
        # Training needs the environment of `make tune`.
        assert target.command.startswith(("deepwell bench ", ".venv-tune/bin/deepwell bench "))
        assert target.command.endswith(f"--row {target.name}")


@pytest.mark.parametrize(
    ("ratio", "roof", "holds"),
    [(1.25, 0.85, True), (1.24, 0.91, False), (1.0, 0.92, True), (2.0, 0.84, False)],
)
def test_a_ratio_also_holds_near_the_roof(ratio, roof, holds):
    assert judge("decode_int8", {"ratio": ratio, "roof": roof}).holds is holds


def test_a_figure_that_was_not_measured_is_an_error():
    with pytest.raises(DeepwellError, match="roof"):
        judge("decode_int8", {"ratio": 9.0})


@pytest.mark.parametrize(
    ("limit", "value", "holds"),
    [
        (Limit(max=2.0), 2.0, True),
        (Limit(max=2.0), 2.1, False),
        (Limit(equals=True), True, True),
        (Limit(equals=0), 1, False),
        (Limit(min=1.0), float("nan"), False),
    ],
)
def test_limits(limit, value, holds):
    assert limit.holds(value, None) is holds


@pytest.mark.parametrize(
    ("table", "holds"), [("avx2", True), ("avx512_bf16", False), ("avx512_amx", False), ("generic", True)]
)
def test_kernels_of_avx512_have_bars_of_their_own(table, holds):
    assert Limit(min=3.2, min_avx512=3.6).holds(3.4, None, table) is holds


def test_patterns_select_rows_and_refuse_what_matches_nothing():
    assert [target.name for target in select("^decode_int")] == ["decode_int8", "decode_int4"]
    with pytest.raises(DeepwellError, match="no target matches"):
        select("nothing-like-it")


def test_a_row_of_more_than_half_an_hour_is_refused(tmp_path):
    rows = tmp_path / "targets.toml"
    rows.write_text(
        '[[target]]\nname="slow"\nwhat="w"\ncommand="c"\nbar="b"\nminutes=76\nlimits={x={min=1}}\n',
        encoding="utf-8",
    )
    with pytest.raises(DeepwellError, match="slow"):
        load_targets(rows)


def row(tmp_path, program):
    script = tmp_path / "row.py"
    script.write_text(program, encoding="utf-8")
    return Target("row", "what", f"{sys.executable} {script}", "bar", 1, {"x": Limit(min=1)})


def test_the_last_line_of_a_command_is_its_result(tmp_path):
    line = json.dumps({"name": "row", "value": {"x": 3}, "bar": "bar", "holds": True})
    outcome = run_target(row(tmp_path, f"print('a table')\nprint({line!r})"))

    assert (outcome.value["x"], outcome.holds) == (3, True)


def test_a_command_that_dies_does_not_hold(tmp_path):
    outcome = run_target(row(tmp_path, "raise SystemExit('no model')"))

    assert outcome.holds is False
    assert "exit status 1" in outcome.value["error"]


def test_the_page_keeps_rows_that_this_run_left_out(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(pages, "repository", lambda: tmp_path)
    write_page([Outcome("decode_int8", {"ratio": 1.5, "roof": 0.9}, "", True)], threads=2)
    page = write_page(
        [Outcome("model_size", {"int8": 0.5, "int4": 0.1, "int4_full": 0.1}, "", False)], threads=2
    )

    text = page.read_text(encoding="utf-8")
    assert "ratio 1.5, roof 0.9" in text
    assert "int8 0.5" in text
    assert "**no**" in text
    assert "Not measured yet: decode_int4" in text


def test_a_row_keeps_its_latest_figures_on_every_kind_of_machine(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(pages, "repository", lambda: tmp_path)
    facts = pages.machine(2)
    for kernels, ratio in (("avx512_bf16", 1.1), ("avx2", 1.2), ("avx2", 1.3)):
        monkeypatch.setattr(pages, "machine", lambda threads, kernels=kernels: facts | {"kernels": kernels})
        page = write_page([Outcome("decode_int8", {"ratio": ratio, "roof": 0.9}, "", True)], threads=2)

    line = next(line for line in page.read_text(encoding="utf-8").splitlines() if "ratio 1.1" in line)
    assert "ratio 1.3, roof 0.9<br>ratio 1.1, roof 0.9" in line
    assert "ratio 1.2" not in line


def test_figures_of_code_that_changed_since_are_marked(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True
        )

    for folder in ("docs", "src"):
        (tmp_path / folder).mkdir()
    code = tmp_path / "src" / "code.py"
    code.write_text("1", encoding="utf-8")
    git("init", "-q")
    git("add", "src")
    git("commit", "-q", "-m", "Add code")
    commit = git("rev-parse", "--short", "HEAD").stdout.strip()
    monkeypatch.setattr(pages, "repository", lambda: tmp_path)

    def written(*outcomes):
        pages._since.cache_clear()
        text = write_page(outcomes, threads=2).read_text(encoding="utf-8")
        return [
            line.split("|")[5].strip() for line in text.splitlines() if line.startswith("| decode, batch 1,")
        ]

    first = Outcome("decode_int8", {"ratio": 1.5, "roof": 0.9}, "", True)
    [place] = written(first)
    assert place.endswith(f", {commit}")
    code.write_text("2", encoding="utf-8")
    old, uncommitted = written(Outcome("decode_int4", {"ratio": 1.5, "roof": 0.9}, "", True))
    assert old.endswith(f", {commit}, code changed since")
    assert uncommitted.endswith(", commit unknown")


def test_a_row_that_overruns_ends_with_what_it_started(tmp_path):
    program = tmp_path / "row.py"
    program.write_text(
        "import pathlib, subprocess, sys, threading\n"
        "wait = 'import threading; threading.Event().wait()'\n"
        "child = subprocess.Popen([sys.executable, '-c', wait])\n"
        "pathlib.Path(__file__).with_name('pid').write_text(str(child.pid))\n"
        "threading.Event().wait()\n"
    )
    outcome = run_target(Target("late", "", f"{sys.executable} {program}", "none", 2 / 60))
    assert not outcome.holds and "took more than" in outcome.value["error"]
    stat = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    until(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")

"""`deepwell data label` and `augment`: keys and lines, a file that is whole after every answer, and curves."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.needs import APERTIUM
from typer.testing import CliRunner

from deepwell.cli import app

SPORT, MONEY = (
    ("goal match team", "team wins match", "coach team"),
    ("bank rate", "profit bank", "share profit"),
)


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    return path


def news(path: Path, count: int = 12, **more: Any) -> Path:
    texts = [
        (f"{(SPORT if one % 2 else MONEY)[one % 3]} {one}", "sport" if one % 2 else "money")
        for one in range(count)
    ]
    return write(
        path, *({"text": text} | ({"label": label} if more.get("labels") else {}) for text, label in texts)
    )


def kept(path: Path) -> dict[str, str]:
    return {one["text"]: one["label"] for one in map(json.loads, path.read_text("utf-8").splitlines())}


def run(runner: CliRunner, *arguments: object, said: str = "", code: int = 0) -> str:
    found = runner.invoke(app, ["data", *map(str, arguments)], input=said)
    assert found.exit_code == code, found.output
    return found.output


def test_lines_label_skip_undo_and_quit(runner: CliRunner, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", {"text": "eins"}, {"text": "zwei"}, {"text": "三"}, {"id": 1})
    shown = run(runner, "label", file, "--classes", "a,b", said="1\nx\ns\n2\nu\n1\nq\n")
    assert "'x' is no key here." in shown and "line 4 is left out" in shown
    assert "2 of 3 labelled" in shown
    first = kept(tmp_path / "t.labels.jsonl")
    assert len(first) == 2 and set(first.values()) == {"a"}
    # A later call goes on with the text that is left.
    again = run(runner, "label", file, "--classes", "a,b", "--json", said="2\n")
    assert json.loads(again.splitlines()[-1])["labelled"] == 3
    assert kept(tmp_path / "t.labels.jsonl").items() > first.items()


def test_the_learner_needs_no_further_labels_on_easy_texts(runner: CliRunner, tmp_path: Path) -> None:
    file = news(tmp_path / "news.jsonl", 60)
    answers = {**dict.fromkeys(("bank", "profit"), "2"), **dict.fromkeys(("team", "goal"), "1")}
    from deepwell.tuning.data.active.session import LabelSession
    from deepwell.tuning.data.records import Record, read_records

    records = [one for one in read_records([file]) if isinstance(one, Record)]
    session = LabelSession(records, ("sport", "money"), tmp_path / "out.jsonl")
    while not session.stable and (record := session.next()) is not None:
        key = next(key for word, key in answers.items() if word in record.text)
        session.label(("sport", "money")[int(key) - 1])
    assert 30 <= session.labelled < 60 and session.agreement is not None and session.agreement >= 0.99


def test_single_keys_of_a_terminal(home: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", *({"text": f"text {one}"} for one in range(4)))
    primary, secondary = pty.openpty()
    command = [sys.executable, "-m", "deepwell", "data", "label", str(file), "--classes", "a,b"]
    with subprocess.Popen(
        command, stdin=secondary, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        os.close(secondary)
        os.write(primary, b"1\x1b[C2\x1b[Du2q")  # label, skip, label, undo, undo the skip, label, quit
        shown = process.stdout.read().decode() if process.stdout else ""
    os.close(primary)
    assert process.returncode == 0, shown
    assert sorted(kept(tmp_path / "t.labels.jsonl").values()) == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--classes", "a"), "two different classes"),
        (("--classes", "a,a"), "two different classes"),
        ((), "two different classes"),
        (("--classes", "x,y"), "none of x, y"),
        (("--simulate", "--classes", "a,b"), "a learning curve needs at least 40"),
    ],
)
def test_what_cannot_be_labelled_is_refused(
    runner: CliRunner, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    file = write(tmp_path / "t.jsonl", {"text": "one", "label": "a"}, {"text": "two"})
    assert said in run(runner, "label", file, *arguments, code=1)
    assert not (tmp_path / "t.labels.jsonl").exists()


def test_labels_of_another_file_are_not_overwritten(runner: CliRunner, tmp_path: Path) -> None:
    other = write(tmp_path / "old.jsonl", {"text": "else", "label": "a"})
    before = other.read_bytes()
    file = write(tmp_path / "t.jsonl", {"text": "one"})
    assert "line 1" in run(runner, "label", file, "--classes", "a,b", "-o", other, said="1\n", code=1)
    assert other.read_bytes() == before
    empty = write(tmp_path / "empty.jsonl")
    assert "no text to label" in run(runner, "label", empty, "--classes", "a,b", code=1)


def test_a_simulation_prints_the_curve_of_every_arm(runner: CliRunner, tmp_path: Path) -> None:
    file = news(tmp_path / "news.jsonl", 90, labels=True)
    shown = run(runner, "label", file, "--simulate", "--seeds", "2", "--budget", "30")
    assert all(word in shown for word in ("margin", "entropy", "random", "stop rule", "mean of 2 seeds"))
    answer = run(runner, "label", file, "--simulate", "--seeds", "2", "--budget", "30", "--json")
    found = json.loads(answer)
    assert found["pool"] + found["held_out"] == 90 and found["unlabelled"] == 0
    assert [one["strategy"] for one in found["curves"]] == ["margin", "entropy", "random"]
    assert found["curves"][0]["labels"][-1] == 30 and found["curves"][0]["accuracy"][-1] > 0.9


def test_every_record_of_an_augmentation_is_accounted_for(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "apertium"
    program.parent.mkdir()
    # Stands for the program where it is not installed: upper case there, lower case and a word more back.
    program.write_text(
        "#!/bin/sh\ncase \"$*\" in\n-l) printf '  eng-spa\\n  spa-eng\\n';;\n*eng-spa) tr a-z A-Z;;\n"
        "*) tr A-Z a-z | sed 's/$/ now/';;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    file = write(
        tmp_path / "t.jsonl", {"text": "a good film", "label": "a"}, {"text": "a", "label": "b"}, {"id": 1}
    )
    answer = json.loads(run(runner, "augment", file, "--pivot", "spanish", "--json"))
    assert (answer["read"], answer["kept"], answer["dropped"]) == (3, 2, 1)
    assert (answer["tried"], answer["accepted"], answer["refused"]["length"]) == (2, 1, 1)
    rows = [json.loads(line) for line in (tmp_path / "t.augmented.jsonl").read_text("utf-8").splitlines()]
    assert rows[1] == {
        "text": "a good film now",
        "label": "a",
        "augmented_from": 1,
        "augmented_by": "en-es-en",
    }
    assert [one["text"] for one in rows] == ["a good film", "a good film now", "a"]
    shown = run(runner, "augment", file, "--pivot", "spanish", "--per-record", "2", code=1)
    assert "the same rewriting each time" in shown


def test_a_translator_that_is_missing_names_its_packages(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file = write(tmp_path / "t.jsonl", {"text": "a good film"})
    shown = run(runner, "augment", file, "--pivot", "spanish", code=1)
    assert "eng-spa is not installed" in shown and "apt-get install apertium apertium-eng-spa" in shown
    chinese = write(tmp_path / "zh.jsonl", {"text": "一部好电影"})
    assert "does not go with Chinese texts" in run(runner, "augment", chinese, "--pivot", "spanish", code=1)


@pytest.mark.needs(APERTIUM)
def test_apertium_itself_translates_each_text_by_itself() -> None:
    from deepwell.tuning.data.augment.translators import Apertium

    translator = Apertium()
    texts = ["the house is red", "", "^5$ [x] \\ @ <b>", "two\nlines\0here", "it ends"]
    there = translator.translate(texts, "en", "es")
    assert there[0] == "La casa es roja" and there[1] == "" and all(there[2:])
    back = translator.translate(there, "es", "en")
    assert back[0].lower() == "the house is red" and back[1] == ""

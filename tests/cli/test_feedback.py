"""`deepwell feedback`: ratings from files and the server become training data, and every one is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.storage.feedback import voter_of


def feedback(runner: CliRunner, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = runner.invoke(app, ["feedback", *arguments, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.output)


def line(user: str, number: int, rating: str | None = "up", **more: Any) -> dict[str, Any]:
    question = {"role": "user", "content": f"{user} asks {number}"}
    answer = {"role": "assistant", "content": f"{user} hears {number}"}
    more.setdefault("messages", [question, answer])
    return {"rating": rating, "safety_identifier": user, "consent": True, "created_at": number} | more


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in path.read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    users = [line(f"user {user}", number) for user in range(10) for number in range(2)]
    return written(tmp_path / "votes.jsonl", users)


def test_a_file_is_imported_once_and_exported_as_it_was(
    runner: CliRunner, file: Path, tmp_path: Path
) -> None:
    full = line(
        "lin", 7, "down", target_id="resp_1", reason="错了", correction="Paris.", model="m", consent=False
    )
    file = written(file, [*read(file), full])
    for _ in range(2):
        told = feedback(runner, "import", str(file), "--tenant", "acme")
        assert (told["read"], told["kept"], told["dropped"]) == (21, 21, 0)
    copy = tmp_path / "copy.jsonl"
    assert feedback(runner, "export", "--tenant", "acme", "-o", str(copy))["ratings"] == 21
    assert [{k: v for k, v in one.items() if k not in ("target_id", "voter")} for one in read(copy)][
        :20
    ] == read(file)[:20]
    assert read(copy)[20] == full | {"voter": voter_of("lin")}
    assert feedback(runner, "import", str(copy), "--tenant", "acme")["kept"] == 21
    listed = feedback(runner, "list", "--tenant", "acme", "--limit", "3")
    assert [listed[name] for name in ("ratings", "up", "consent", "users")] == [21, 20, 20, 11]
    assert len(listed["data"]) == 3 and listed["data"][0]["reason"] == "错了"
    assert feedback(runner, "list", "--tenant", "acme", "--consent", "--rating", "down")["ratings"] == 0
    assert feedback(runner, "list")["ratings"] == 0


def test_votes_become_training_data(runner: CliRunner, file: Path, tmp_path: Path) -> None:
    fixed = line("user 3", 9, "down", correction="Paris.")
    silent = line("user 4", 9, consent=False)
    thumb = line("user 5", 9, target_id="resp_9", messages=None)
    written(file, [*read(file), fixed, silent, thumb, {"label": True, **line("user 6", 9, None)}])
    feedback(runner, "import", str(file))
    folder = tmp_path / "data"
    told = feedback(runner, "curate", "-o", str(folder), "--max-share", "1", "--max-share-held-out", "1")
    assert told["dropped_by_reason"] == {"no_prompt": 1}
    assert (told["read"], told["kept"]) == (23, 22)
    assert told["train"]["votes"] == told["files"]["train.jsonl"] == len(read(folder / "train.jsonl"))
    assert told["held_out"]["votes"] == len(read(folder / "held-out.jsonl"))
    assert read(folder / "report.json")[0]["read"] == 23
    lines = read(folder / "train.jsonl") + read(folder / "held-out.jsonl")
    assert {"messages": fixed["messages"], "label": False} in lines
    assert not any(silent["messages"] == one["messages"] for one in lines)
    preferences = [*read(folder / "train-preferences.jsonl"), *read(folder / "held-out-preferences.jsonl")]
    assert preferences == [
        {
            "input": {"messages": fixed["messages"][:1]},
            "preferred_output": [{"role": "assistant", "content": "Paris."}],
            "non_preferred_output": fixed["messages"][1:],
        }
    ]
    said = runner.invoke(app, ["feedback", "curate", "-o", str(folder), "--held-out", "0"]).output
    assert "22 kept" in said and "train-preferences.jsonl" in said


def test_an_empty_part_names_the_option(runner: CliRunner, tmp_path: Path) -> None:
    file = written(tmp_path / "f.jsonl", [line("a", 1), line("a", 2)])
    feedback(runner, "import", str(file))
    curate = ["feedback", "curate", "-o", str(tmp_path / "data")]
    assert "raise --max-share" in runner.invoke(app, [*curate, "--held-out", "0"]).output
    few = [*curate, "--held-out", "0.000001", "--max-share", "1"]
    assert "name another --salt" in runner.invoke(app, few).output


def test_a_line_that_is_no_feedback_is_named_and_the_others_are_kept(
    runner: CliRunner, tmp_path: Path
) -> None:
    file = written(
        tmp_path / "f.jsonl", [line("a", 1), {"rating": "sideways", "target_id": "a"}, line("a", 2)]
    )
    told = feedback(runner, "import", str(file))
    assert (told["read"], told["kept"], told["dropped_by_reason"]) == (3, 2, {"unreadable": 1})
    [example] = told["examples"]["unreadable"]
    assert example["line"] == 2 and example["detail"].startswith("rating")
    assert feedback(runner, "list")["ratings"] == 2

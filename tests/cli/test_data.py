"""`deepwell data`: files in, files out, an account of every record, and the same in the language of the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepwell.cli import app

LONG = (
    "Where is my parcel, which should have come on Monday? It is Thursday now, and I begin to worry about it."
)
REPLY = "I am sorry. It left our warehouse in Bergen on Tuesday, and will reach you tomorrow before noon."
LINES = [
    {"messages": [{"role": "user", "content": LONG}, {"role": "assistant", "content": REPLY}], "user": "u1"},
    {"conversations": [{"from": "human", "value": LONG + "!"}, {"from": "gpt", "value": REPLY}]},
    {"instruction": "翻译成中文。", "input": "The book is on the table.", "output": "书在桌子上。"},
    {"messages": [{"role": "usr", "content": "x"}]},
    {
        "messages": [
            {"role": "user", "content": "Can I send it back?"},
            {"role": "assistant", "content": "caf\ufffd"},
        ]
    },
]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in LINES), "utf-8")
    return path


def data(runner: CliRunner, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    result = runner.invoke(app, ["data", *map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_check_names_line_and_field_and_keeps_the_rest(
    runner: CliRunner, train: Path, tmp_path: Path
) -> None:
    output = tmp_path / "clean.jsonl"
    account = data(runner, "check", train, "--output", output, "--drop", "garbled")
    assert [one["reason"] for one in lines(tmp_path / "clean.jsonl.removed.jsonl")] == [
        "unreadable",
        "garbled",
    ]
    assert (account["read"], account["kept"]) == (5, 3) == (5, len(lines(output)))
    first = account["examples"]["unreadable"][0]
    assert first["line"] == 4 and first["detail"].startswith("messages[0].role: is 'usr'")
    assert account["formats"] == {"chat": 2, "sharegpt": 1, "alpaca": 1} and account["languages"] == {"en": 4}
    assert all("messages" in one for one in lines(output))


def test_a_check_counts_tokens_and_shows_a_sample(runner: CliRunner, train: Path, smollm2_path: Path) -> None:
    account = data(runner, "check", train, "--model", smollm2_path, "--max-tokens", "60", code=1)
    assert account["cut_by_reason"] == {"tokens": 2} and account["tokens"]["greatest"] > 60
    assert account["sample"].endswith(f"<|im_start|>assistant\n⟦{REPLY}<|im_end|>⟧")


@pytest.mark.parametrize(("locale", "words"), [("C", "cannot be read"), ("zh_CN.UTF-8", "无法读取")])
def test_a_check_speaks_the_language_of_the_terminal(
    runner: CliRunner, train: Path, monkeypatch: pytest.MonkeyPatch, locale: str, words: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    result = runner.invoke(app, ["data", "check", str(train)])
    assert result.exit_code == 1 and words in result.output and "train.jsonl:4" in result.output


def test_duplicates_go_with_their_reason(runner: CliRunner, train: Path, tmp_path: Path) -> None:
    output = tmp_path / "clean.jsonl"
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(
        json.dumps({"question": LINES[2]["instruction"], "answer": "书在桌子上，一二三四五六七八九十"})
    )
    account = data(runner, "dedup", train, "-o", output, "--against", held_out)
    assert account["dropped_by_reason"] == {"near": 1, "unreadable": 1} and len(lines(output)) == 3
    removed = lines(tmp_path / "clean.jsonl.removed.jsonl")
    assert [(one["line"], one["reason"]) for one in removed] == [(2, "near"), (4, "unreadable")]
    assert removed[0]["twin"]["line"] == 1 and removed[0]["similarity"] == 1.0


def test_like_meaning_is_found_by_the_engine(runner: CliRunner, tmp_path: Path, minilm_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = ["How do I reset my password?", "How can I reset my password?", "The soup is warm."]
    path.write_text("\n".join(json.dumps({"text": one}) for one in [*texts, "long " * 2000]))
    arguments = ("--semantic", "--embedding-model", minilm_path, "--min-cosine", "0.9")
    account = data(runner, "dedup", path, "-o", tmp_path / "b.jsonl", *arguments)
    assert account["dropped_by_reason"] == {"semantic": 1} and account["embedded_in_part"] == 1
    assert account["examples"]["semantic"][0]["line"] == 2


def test_parts_hold_every_record_once(runner: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"text {n} of user {n % 10}", "label": n % 2, "user": n % 10} for n in range(100)]
    path.write_text("\n".join(map(json.dumps, rows)))
    account = data(runner, "split", path, "-o", tmp_path / "parts", "--fractions", "train=0.8,test=0.2")
    parts = {name: lines(Path(file)) for name, file in account["files"].items()}
    assert {name: len(part) for name, part in parts.items()} == account["counts"] == {"train": 80, "test": 20}
    users = [{one["user"] for one in part} for part in parts.values()]
    assert not users[0] & users[1] and account["labels"]["test"] == {"0": 10, "1": 10}
    assert sorted(one["text"] for part in parts.values() for one in part) == sorted(
        one["text"] for one in rows
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "{train}", "--output", "{train}"),
        ("check", "{train}", "--drop", "garbeld"),
        ("check", "{train}", "--language", "chinese"),
        ("check", "{train}.missing"),
        ("dedup", "{train}", "--output", "{train}"),
        ("dedup", "{train}", "--output", "{train}.missing/a.jsonl"),
        ("split", "{train}", "--output", "{folder}", "--fractions", "train=2"),
        ("split", "{train}", "--output", "{train}"),
    ],
)
def test_mistakes_are_errors_with_a_fix(runner: CliRunner, train: Path, arguments: tuple[str, ...]) -> None:
    before = train.read_bytes()
    values = {"train": train, "folder": train.parent / "parts"}
    error = data(runner, *(one.format(**values) for one in arguments), code=1)["error"]
    assert error["fix"] and train.read_bytes() == before

"""Messages as they are typed, pasted or piped, and the commands of a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from tests.server.conftest import Live
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.lines import edited_lines, joined_blocks

PASTE, END = "\x1b[200~", "\x1b[201~"


def blocks(lines: list[str]) -> list[str]:
    rest: Iterator[str] = iter(lines)
    return list(joined_blocks(lambda _open: next(rest, None)))


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (["a", "b"], ["a", "b"]),
        (['"""', "a", "", "b", '"""', "c"], ["a\n\nb", "c"]),
        (['"""a', 'b"""'], ["a\nb"]),
        (['"""one line"""'], ["one line"]),
        (['  """', "a"], ["a"]),
        (["a\nb"], ["a\nb"]),
        (['say """ twice'], ['say """ twice']),
    ],
)
def test_lines_between_quotation_marks_are_one_message(lines: list[str], messages: list[str]) -> None:
    assert blocks(lines) == messages


@given(st.lists(st.text(alphabet='ab "\n', max_size=12), max_size=12))
def test_no_line_is_lost_or_doubled(lines: list[str]) -> None:
    def bare(texts: list[str]) -> str:
        return "".join(texts).replace('"', "").replace("\n", "").replace(" ", "")

    assert bare(blocks(lines)) == bare(lines)


def typed(keys: str, history: Path) -> list[str]:
    """The editor's reading of keys on a terminal."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys + "\x04")
        return list(edited_lines("> ", ["/help"], history))


def test_pasted_text_is_one_message_and_history_lasts(tmp_path: Path) -> None:
    history = tmp_path / "data" / "chat_history"
    assert typed(f"{PASTE}one\ntwo\nthree{END}\rfour\r", history) == ["one\ntwo\nthree", "four"]
    assert history.stat().st_mode & 0o777 == 0o600
    up, enter = "\x1b[A", "\r"
    assert typed(f"{up}{enter}", history) == ["four"]
    assert typed(f"{up}{up}{up}{enter}", history) == ["one\ntwo\nthree"]


def test_the_history_of_an_older_version_is_read(tmp_path: Path) -> None:
    history = tmp_path / "chat_history"
    history.write_text('plain words\n"an open quote\n', encoding="utf-8")
    assert typed("\x1b[A\x1b[A\r", history) == ["plain words"]


def test_ctrl_c_takes_back_the_line(tmp_path: Path) -> None:
    assert typed("wrong\x03right\r", tmp_path / "h") == ["right"]


@pytest.fixture
def talk(runner: CliRunner, toy_server: Live, home: Path) -> Iterator[object]:
    def run(*lines: str) -> str:
        result = runner.invoke(app, ["chat", "--temperature", "0"], input="\n".join(lines))
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_a_conversation_is_loaded_where_it_was_saved(talk, toy_server: Live, home: Path) -> None:
    saved = home / "talk.json"
    talk("/system be kind", "one", f"/save {saved}")
    out = talk(f"/load {saved}", "two")
    assert "3 messages read" in out
    prompt = bytes(token for token in toy_server.engine.seen[-1].prompt if token < 256).decode()
    assert prompt.startswith("system\nbe kind") and prompt.count("user") == 2


@pytest.mark.parametrize(
    "content", ["no json", "{}", '[{"role": "x"}]', '[{"role": "user", "content": "a"}]']
)
def test_what_is_no_conversation_is_refused_and_the_talk_goes_on(talk, home: Path, content: str) -> None:
    (home / "bad.json").write_text(content)
    out = talk(f"/load {home}/bad.json", f"/load {home}/none.json", "still here")
    assert "does not hold a conversation" in out and "does not exist" in out and "still here" in out


def test_retry_asks_the_last_question_again(talk, toy_server: Live) -> None:
    out = talk("/retry", "one", "/retry")
    assert "no question to ask again" in out and out.count("one") == 2
    first, second = (list(request.prompt) for request in toy_server.engine.seen)
    assert first == second


def test_the_model_is_shown_and_changed(talk, toy_server: Live, tiny_model: Path) -> None:
    out = talk("/model", f"/model {tiny_model}", "/model nosuch", "/model")
    assert out.count("toy from") == 2 and out.count("tiny from this process") == 2
    assert "nosuch" in out


def test_a_block_is_one_message_and_a_path_is_no_command(talk, toy_server: Live) -> None:
    out = talk('"""', "one", "two", '"""', "/etc/passwd", "/hlep")
    assert "one\ntwo" in out and "/etc/passwd" in out and "did you mean /help?" in out
    assert len(toy_server.engine.seen) == 2


def test_commands_are_said_in_chinese(talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    out = talk("/help", "/clear")
    assert "显示本帮助" in out and "对话已清空" in out


def test_json_turns_stay_json(runner: CliRunner, toy_server: Live) -> None:
    lines = runner.invoke(app, ["chat", "--json", "--temperature", "0"], input="a\n/retry\n").stdout
    assert [json.loads(line)["answer"] for line in lines.splitlines()] == ["a", "a"]

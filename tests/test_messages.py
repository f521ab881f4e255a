"""The catalogue of messages: whole in both languages, and the page on troubleshooting made from it."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.messages import Entry, catalogue, language, nearest, preferred_language, say
from deepwell_bench.harness.assets import repository
from deepwell_bench.workers.troubleshooting import pages

HANZI = re.compile(r"[\u4e00-\u9fff]")


def placeholders(text: str) -> set[str]:
    return {name.removesuffix("_zh") for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.key)
def test_every_message_is_whole_in_both_languages(entry: Entry) -> None:
    assert HANZI.search(entry.message_zh) and not HANZI.search(entry.message + entry.fix)
    assert placeholders(entry.message + entry.fix) >= placeholders(entry.message_zh + entry.fix_zh)
    assert placeholders(entry.message) == placeholders(entry.message_zh)
    if entry.topic:
        assert entry.fix and entry.fix_zh and entry.example
        assert entry.fix.startswith("{") or not entry.fix.endswith(".")


def test_the_pages_are_those_of_the_catalogue() -> None:
    for name, text in pages().items():
        assert (repository() / "docs" / name).read_text(encoding="utf-8") == text, "run `make docs`"
        assert all(entry.example in text for entry in catalogue().values() if entry.topic)


@pytest.mark.parametrize("name", pages())
def test_each_error_has_one_title_that_says_what_is_wrong(name: str) -> None:
    titles = re.findall(r"^### (.*)$", pages()[name], re.MULTILINE)
    assert len(set(titles)) == len(titles)
    words = [re.findall(r"[a-z]{2,}|[\u4e00-\u9fff]", title) for title in titles]  # beside the placeholders
    assert [title for title, found in zip(titles, words, strict=True) if not found] == []


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_terminal_says_its_language(environ: dict[str, str], expected: str) -> None:
    assert language(environ) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "en"),
        ("*", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("de, zh;q=0.5", "zh"),
        ("zh;q=0", "en"),
        ("zh;q=x", "en"),
        ("en;q=0.2,zh-Hans;q=0.7", "zh"),
    ],
)
def test_a_request_says_its_language(header: str, expected: str) -> None:
    assert preferred_language(header) == expected


@given(st.text(max_size=200))
def test_any_header_has_a_language(header: str) -> None:
    assert preferred_language(header) in ("en", "zh")


@given(st.text(max_size=40), st.lists(st.text(max_size=12), max_size=8))
def test_the_nearest_is_one_of_the_candidates(word: str, candidates: list[str]) -> None:
    assert nearest(word, candidates) in ("", *candidates)


def test_an_error_is_said_in_both_languages_and_is_english_as_text() -> None:
    error = InvalidRequest.of("key_scope", scope="{x}", known="inference", param="scope")
    assert str(error) == "there is no scope '{x}': use one of inference" and error.param == "scope"
    assert error.said("en") == (error.message, error.fix)
    assert all(HANZI.search(text) for text in error.said("zh"))
    plain = DeepwellError("a", fix="b")
    assert plain.said("zh") == ("a", "b")
    both = InvalidRequest.joined([error, plain, plain])
    assert str(both) == f"{error.message}; a; a: {error.fix}; b"
    assert both.said("zh")[1].endswith("; b") and HANZI.search(both.said("zh")[0])


def test_texts_follow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert say("chat_forgotten") == "对话已清空"
    monkeypatch.setenv("LC_ALL", "C")
    assert say("chat_forgotten") == "the conversation is forgotten"

"""Training files of every shape become one kind of record, and what cannot be read is named by line and field."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.tuning.data import records as module
from deepwell.tuning.data.records import BadRecord, Record, as_json, read_records, write_records
from deepwell.tuning.data.report import DataReport, Example
from deepwell.tuning.data.shapes import ShapeError, parse

CHAT = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
    "user": "u1",
}
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 40), 1 << 40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["messages", "conversations", "instruction", "output", "text", "label", "tools", "role", "from", "value"]
)


def read(path: Path, content: str | bytes, **arguments: Any) -> list[Record | BadRecord]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_records([path], **arguments))


def is_sound(data: bytes, shape: Any) -> bool:
    """Tells whether data is a record, or is refused in words of both languages."""
    try:
        return bool(parse(data, shape).messages)
    except ShapeError as error:
        return bool(error.note.said("en") and error.note.said("zh"))


def roles_of(record: Record | BadRecord) -> list[tuple[str, Any]]:
    assert isinstance(record, Record), record
    return [(one["role"], one.get("content")) for one in record.messages]


def test_every_shape_becomes_messages(tmp_path: Path) -> None:
    lines = [
        CHAT,
        {
            "conversations": [
                {"from": "human", "value": "What is the time?"},
                {"from": "function_call", "value": '{"name": "clock", "arguments": {"zone": "UTC"}}'},
                {"from": "observation", "value": "12:00"},
                {"from": "gpt", "value": "Noon."},
            ],
            "system": "Be brief.",
            "tools": '[{"type": "function", "function": {"name": "clock"}}]',
        },
        {"instruction": "Add.", "input": "1 + 2", "output": "3", "history": [["Hi", "Hello"]]},
        {"text": "Good book", "label": 1},
    ]
    chat, sharegpt, alpaca, text = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert roles_of(chat) == [("user", "Hi"), ("assistant", "Hello!")]
    assert isinstance(chat, Record) and chat.extra == {"user": "u1"} and chat.text == "Hi\nHello!"
    assert [role for role, _ in roles_of(sharegpt)] == ["system", "user", "assistant", "tool", "assistant"]
    assert isinstance(sharegpt, Record) and sharegpt.tools[0]["function"]["name"] == "clock"
    call = sharegpt.messages[2]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"zone": "UTC"}
    assert sharegpt.messages[3]["tool_call_id"] == call["id"]
    assert roles_of(alpaca)[-2:] == [("user", "Add.\n\n1 + 2"), ("assistant", "3")]
    assert isinstance(text, Record) and (text.format, text.label, text.text) == ("text", "1", "Good book")
    assert [one.line for one in (chat, sharegpt, alpaca, text)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", ""),
        ("[1]", ""),
        ("7", ""),
        ('{"a": 1}', ""),
        ('{"messages": []}', "messages"),
        ('{"messages": {}}', "messages"),
        ('{"messages": [3]}', "messages[0]"),
        ('{"messages": [{"role": "usr", "content": ""}]}', "messages[0].role"),
        ('{"messages": [{"role": ["user"], "content": ""}]}', "messages[0].role"),
        ('{"messages": [{"role": "user"}]}', "messages[0].content"),
        ('{"messages": [{"role": "user", "content": 3}]}', "messages[0].content"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "messages[0].content[0].type",
        ),
        ('{"messages": [{"role": "assistant", "content": "", "weight": 2}]}', "messages[0].weight"),
        ('{"messages": [{"role": "user", "content": "", "tool_calls": [{}]}]}', "messages[0].tool_calls"),
        (
            '{"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}',
            "messages[0].tool_calls[0].function.name",
        ),
        ('{"messages": [{"role": "user", "content": "x"}], "tools": [1]}', "tools[0]"),
        ('{"conversations": [{"from": "x", "value": ""}]}', "conversations[0].from"),
        ('{"conversations": [{"from": "gpt"}]}', "conversations[0].value"),
        ('{"instruction": "x"}', "output"),
        ('{"instruction": "x", "output": "y", "history": [["a"]]}', "history[0]"),
        ('{"text": 1}', "text"),
        ('{"text": "x", "label": []}', "label"),
    ],
)
def test_the_wrong_field_is_named(tmp_path: Path, line: str, field: str) -> None:
    good = json.dumps(CHAT)
    found = read(tmp_path / "a.jsonl", f"{good}\n\n{line}\n{good}\n")
    bad = [one for one in found if isinstance(one, BadRecord)]
    assert len(found) == 3 and [(one.line, one.field) for one in bad] == [(3, field)]
    assert bad[0].problem and bad[0].note.said("zh") != bad[0].problem


def test_an_array_is_read_entry_by_entry(tmp_path: Path) -> None:
    text = '\n[\n{"text": "a"},\n\n {"text": "b",\n"label": "x"}, 5\n]\n'
    first, second, third = read(tmp_path / "a.json", text)
    assert (first.line, second.line, third.line) == (3, 5, 6)
    assert isinstance(second, Record) and second.label == "x" and isinstance(third, BadRecord)
    assert read(tmp_path / "b.json", "[]") == []


@pytest.mark.parametrize(
    "broken", ['[{"text": "a"} {"text": "b"}]', '[{"text": "a"}, {"te', '[{"text": "a"}]x']
)
def test_what_follows_a_broken_entry_of_an_array_is_one_bad_record(tmp_path: Path, broken: str) -> None:
    first, second = read(tmp_path / "a.json", broken)
    assert isinstance(first, Record) and isinstance(second, BadRecord)


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 300_000,
        b'{"a":' * 200_000,
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"text": "a", "x": ' + b"[" * 120 + b"]" * 120 + b"}",
        b'{"conversations": [], "tools": "' + b"[" * 150 + b"]" * 150 + b'"}',
        b'{"messages": [' + b"0," * 2_000_000 + b"0]}",
        b'{"text": "\x00"}',
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": NaN}',
        b'{"text": 1e999}',
        b'{"text": ' + b"9" * 100_000 + b"}",
        b"\x00" * 1000,
    ],
    ids=lambda data: f"{data[:12]!r}",
)
def test_hostile_lines_are_bad_records_and_the_next_is_read(tmp_path: Path, hostile: bytes) -> None:
    bad, good = read(tmp_path / "a.jsonl", b"\n" + hostile + b"\n" + json.dumps(CHAT).encode() + b"\n")[-2:]
    assert isinstance(bad, BadRecord) and bad.line == 2 and bad.problem
    assert isinstance(good, Record) and good.line == 3


def test_a_huge_line_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1 << 16)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * (8 << 20) + b'"}\n' + b'{"text": "ok"}')
    tracemalloc.start()
    bad, good = read_records([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(bad, BadRecord) and bad.line == 1 and peak < 2 << 20
    assert isinstance(good, Record) and good.line == 2


@given(st.binary(max_size=200))
def test_any_bytes_are_a_shape_or_an_error_with_a_note(data: bytes) -> None:
    assert is_sound(data, "auto")


@given(
    st.dictionaries(NAMES | TEXTS, VALUES, max_size=5),
    st.sampled_from(["auto", "chat", "sharegpt", "alpaca"]),
)
def test_any_object_is_a_shape_or_an_error_with_a_note(value: dict[str, Any], shape: Any) -> None:
    assert is_sound(json.dumps(value).encode(), shape)


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=5),
    st.none() | TEXTS,
    st.dictionaries(st.sampled_from(["user", "source", "id"]), VALUES, max_size=2),
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[str, str]],
    label: str | None,
    extra: dict[str, Any],
) -> None:
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    messages = tuple({"role": role, "content": text} for role, text in turns)
    record = Record(messages, (), 1, str(path), label, "chat", extra)
    assert write_records(path, [record]) == 1
    assert list(read_records([path])) == [record]


def test_text_keeps_its_shape_and_others_become_chat() -> None:
    text = parse(b'{"text": "a", "label": "b", "id": 3}', "auto")
    record = Record(text.messages, label=text.label, format=text.format, extra=text.extra)
    assert as_json(record) == {"text": "a", "label": "b", "id": 3}
    alpaca = parse(b'{"instruction": "a", "output": "b"}', "auto")
    assert set(as_json(Record(alpaca.messages, format=alpaca.format))) == {"messages"}


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("before")

    def broken() -> Any:
        yield Record(({"role": "user", "content": "x"},))
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="gone"):
        write_records(path, broken())
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_the_report_adds_up_or_says_so() -> None:
    report = DataReport(max_examples=2)
    for number in report.reading(range(5)):
        if number < 3:
            report.drop("short", Example(number, "a"))
        else:
            report.keep()
    account = report.to_json()
    assert (account["read"], account["kept"], account["dropped_by_reason"]) == (5, 2, {"short": 3})
    assert [one["line"] for one in account["examples"]["short"]] == [0, 1]
    report.keep()
    with pytest.raises(RuntimeError, match="read 5, kept 3"):
        report.to_json()


def test_a_pipe_is_written_to_and_not_replaced_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_records(path, [Record(({"role": "user", "content": "a"},))])
        assert path.is_fifo() and b'"content": "a"' in os.read(reader, 1000)
    finally:
        os.close(reader)
    assert [one.name for one in tmp_path.iterdir()] == ["pipe"]

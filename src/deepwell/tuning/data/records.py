"""Training records: one shape in memory, read from OpenAI chat, ShareGPT, Alpaca and plain text, written as JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepwell.messages import Note
from deepwell.tuning.data.shapes import Format, ShapeError, parse

__all__ = [
    "MAX_LINE_BYTES",
    "BadRecord",
    "Format",
    "LineWriter",
    "Record",
    "as_json",
    "content_text",
    "read_entries",
    "read_records",
    "write_records",
]

MAX_LINE_BYTES = 16 << 20
"""Longest line that is decoded. A longer one is a bad record, and is never in memory as a whole."""


@dataclass(frozen=True, slots=True)
class Record:
    """One training example.

    Attributes:
        messages: OpenAI chat messages. A record of plain text has one user message.
        tools: tools that the assistant may call, in OpenAI's shape.
        line: line of the file on which it begins, from 1; 0: it comes from no file.
        source: name of the file.
        label: class of the example, where the data has one; numbers are read as text.
        format: shape that it was read from. Only `text` is written back in its own shape; the others become `chat`.
        extra: further fields of the line, such as `user` or `id`, which are written back unchanged.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    line: int = 0
    source: str = ""
    label: str | None = None
    format: Format = "chat"
    extra: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def text(self) -> str:
        """All contents, joined by newlines."""
        return "\n".join(filter(None, map(content_text, self.messages)))


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be read.

    Attributes:
        line: line of the file on which it begins, from 1.
        field: path of the field that is wrong, such as `messages[1].role`; empty: the line as a whole.
        note: what is wrong, in both languages.
        source: name of the file.
    """

    line: int
    field: str
    note: Note
    source: str = ""

    @property
    def problem(self) -> str:
        """Description of what is wrong, in English."""
        return self.note.said("en")


def content_text(message: dict[str, Any]) -> str:
    """Returns the text of a message: its content, or the texts of its parts, joined by newlines."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(part for part in parts if isinstance(part, str))


def read_records(
    paths: Sequence[Path], format: Literal["auto", "chat", "sharegpt", "alpaca", "text"] = "auto"
) -> Iterator[Record | BadRecord]:
    """Yields the records of files in their order, each once, and what is wrong with those that cannot be read.

    A file has one JSON object a line, or is one JSON array of objects. Blank lines are no records.

    Args:
        format: shape of all records; `auto`: that of the fields that each one has.

    Raises:
        OSError: a file cannot be opened or read.
    """
    for path in paths:
        source = str(path)
        for line, raw in read_entries(path):
            try:
                if isinstance(raw, Note):
                    raise ShapeError("", raw)
                one = parse(raw, format)
            except ShapeError as error:
                yield BadRecord(line, error.field, error.note, source)
            else:
                yield Record(one.messages, one.tools, line, source, one.label, one.format, one.extra)


def as_json(record: Record) -> dict[str, Any]:
    """Returns the object that stands for a record in a file."""
    if record.format == "text":
        value: dict[str, Any] = {"text": record.text}
    else:
        value = {"messages": list(record.messages)}
        if record.tools:
            value["tools"] = list(record.tools)
    if record.label is not None:
        value["label"] = record.label
    return value | record.extra


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Writes records as JSON lines and returns their number. The file appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    count = 0
    with LineWriter(path) as writer:
        for one in records:
            writer.write(json.dumps(as_json(one), ensure_ascii=False))
            count += 1
    return count


class LineWriter:
    """Writes a file of lines, which appears whole when the `with` block ends, or not at all if it ends by an error.

    A device or a pipe, such as /dev/null, is written to, and never replaced by a file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path if _is_stream(path) else path.with_name(f".{path.name}.{os.getpid()}.part")
        self._file = self._part.open("w", encoding="utf-8", newline="\n")

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file as file:
            if kind is None:
                file.flush()
                if self._part != self._path:
                    os.fsync(file.fileno())
        if self._part == self._path:
            return
        if kind is None:
            self._part.replace(self._path)
        else:
            with suppress(FileNotFoundError):
                self._part.unlink()

    def write(self, line: str) -> None:
        """Adds a line."""
        self._file.write(line + "\n")


def _is_stream(path: Path) -> bool:
    if path.is_symlink() and path.parent == Path("/dev"):  # /dev/stdout, whatever it leads to
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


_BOM = b"\xef\xbb\xbf"
_MAX_ARRAY_BYTES = 1 << 30


def read_entries(path: Path) -> Iterator[tuple[int, bytes | Note]]:
    """Yields the line on which each entry of a file begins, and its JSON or what keeps it from being read."""
    with path.open("rb") as file:
        head = b"".join(file.read(4096).removeprefix(_BOM).split())
        file.seek(0)
        if head.startswith((b"[{", b"[]")):
            yield from _array(file.read(_MAX_ARRAY_BYTES + 1))
            return
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            whole = len(raw) <= MAX_LINE_BYTES
            while not raw.endswith(b"\n") and (more := file.readline(MAX_LINE_BYTES)):
                whole = False
                raw = more
            if not whole:
                yield number, Note("data_line_long", {"limit": MAX_LINE_BYTES >> 20})
            elif entry := raw.removeprefix(_BOM if number == 1 else b"").strip():
                yield number, entry


def _array(data: bytes) -> Iterator[tuple[int, bytes | Note]]:
    """Yields the entries of one JSON array. Nothing behind an entry that is not JSON can be told apart, and is not read."""
    if len(data) > _MAX_ARRAY_BYTES:
        yield 1, Note("data_array_large", {"limit": _MAX_ARRAY_BYTES >> 20})
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield 1 + data.count(b"\n", 0, error.start), Note("data_encoding", {"byte": error.start + 1})
        return
    decode = json.JSONDecoder().raw_decode
    line, counted = 1, 0
    position = text.index("[") + 1
    while True:
        position = _skip(text, position, " \t\r\n")
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            if _skip(text, position + 1, " \t\r\n") != len(text):
                yield line, Note("data_array_broken")
            return
        try:
            _, end = decode(text, position)
        except (ValueError, RecursionError):
            yield line, Note("data_array_broken")
            return
        yield line, text[position:end].encode("utf-8", "surrogatepass")
        position = _skip(text, end, " \t\r\n")
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            yield line + text.count("\n", counted, position), Note("data_array_broken")
            return


def _skip(text: str, position: int, blanks: str) -> int:
    while position < len(text) and text[position] in blanks:
        position += 1
    return position

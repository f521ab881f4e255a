"""CSV and JSONL: a section a row or record."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, Final

from deepwell.errors import InvalidFile
from deepwell.knowledge.documents import Document, Place
from deepwell.knowledge.parse.builder import MOST_CHARACTERS, DocumentBuilder
from deepwell.knowledge.parse.encoding import decode
from deepwell.knowledge.parse.tables import cell_text, lines_of_table

__all__ = ["parse_csv", "parse_jsonl"]

_DELIMITERS: Final = ",;\t|"
_SNIFFED_LINES: Final = 20
_MOST_DEPTH: Final = 20  # of a record


def parse_csv(data: bytes) -> Document:
    """Returns the rows of a table of values. The delimiter is that which the first lines hold most evenly.

    Raises:
        InvalidFile: it holds no text, too much, or a quoted value that does not end.
    """
    decoded = decode(data)
    builder = DocumentBuilder("text/csv")
    builder.note("encoding", decoded.said)
    csv.field_size_limit(MOST_CHARACTERS)
    text = decoded.text.replace("\x00", "\ufffd")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    try:
        for line in lines_of_table(reader):
            builder.add(line.text, Place(row=line.row), header=line.header, gap="\n")
    except csv.Error as error:
        raise InvalidFile(f"line {reader.line_num} is no CSV ({error})", fix="save the table again") from None
    return builder.finish()


def _delimiter(text: str) -> str:
    lines = [line for line in text[: 1 << 16].splitlines()[:_SNIFFED_LINES] if line.strip()]
    if lines and lines[0].lower().startswith("sep=") and len(lines[0]) == 5:  # of Excel
        return lines[0][4]
    best, most = ",", 0.0
    for delimiter in _DELIMITERS:
        counts = sorted(_outside_quotes(line).count(delimiter) for line in lines)
        if counts and counts[len(counts) // 2] > 0:
            usual = counts[len(counts) // 2]
            even = sum(count == usual for count in counts) / len(counts)
            if even * (1 + usual / 1000) > most:
                best, most = delimiter, even * (1 + usual / 1000)
    return best


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])


def parse_jsonl(data: bytes) -> Document:
    """Returns the records of JSON lines, or of one JSON list, each as lines `key: value`. Inner keys are joined by dots.

    Raises:
        InvalidFile: it holds no text, too much, or a line that is not JSON.
    """
    decoded = decode(data)
    builder = DocumentBuilder("application/jsonl")
    builder.note("encoding", decoded.said)
    text = decoded.text.lstrip("\ufeff")
    for row, record in _records(text):
        try:
            lines = list(_flat(record))
        except RecursionError:
            raise InvalidFile(f"record {row} is nested too deep", fix="flatten it") from None
        builder.add("\n".join(lines), Place(row=row))
    return builder.finish()


def _records(text: str) -> Iterator[tuple[int, Any]]:
    if text.lstrip()[:1] == "[":
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            whole = None
        if isinstance(whole, list):
            yield from enumerate(whole, 1)
            return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidFile(
                    f"line {number} is not JSON ({error})", fix="write one value a line"
                ) from None


def _flat(record: Any, key: str = "", depth: int = 0) -> Iterator[str]:
    if depth > _MOST_DEPTH:
        raise RecursionError
    if isinstance(record, dict):
        for name, value in record.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name), depth + 1)
    elif isinstance(record, list) and any(isinstance(one, dict | list) for one in record):
        for number, value in enumerate(record, 1):
            yield from _flat(value, f"{key}.{number}" if key else str(number), depth + 1)
    elif record is not None and record != "":
        if isinstance(record, list):
            text = ", ".join(cell_text(one) for one in record)
        else:
            text = record.strip() if isinstance(record, str) else str(record)
        if text:
            yield f"{key}: {text}" if key else text

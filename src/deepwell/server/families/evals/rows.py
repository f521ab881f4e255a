"""Rows of the data of a run, from the request or from a file, and their checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from deepwell.errors import InvalidRequest

__all__ = ["MAX_FILE_BYTES", "check_row", "check_rows", "read_rows", "required_of"]

MAX_FILE_BYTES = 200 << 20
_MOST_ROWS = 50_000
_MOST_LINE_BYTES = 4 << 20
_MOST_LEVELS = 100
_decode = msgspec.json.decode


def required_of(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields that the schema of items requires."""
    found = schema.get("required")
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()


def check_row(row: Any, required: tuple[str, ...], place: str, param: str) -> dict[str, Any]:
    """Returns a row that has an object `item` with every required field, and perhaps an object `sample`.

    Raises:
        InvalidRequest: it does not; `place` says where it is.
    """
    problem = ""
    if not isinstance(row, dict) or not isinstance(row.get("item"), dict):
        problem = "has no object `item`"
    elif not isinstance(row.get("sample"), dict | None):
        problem = "has a `sample` that is no object"
    elif unknown := sorted(row.keys() - {"item", "sample"}):
        problem = f"has an unknown field {unknown[0][:64]!r}"
    elif missing := [name for name in required if name not in row["item"]]:
        problem = f"has no item.{missing[0][:64]}, which item_schema requires"
    elif _is_deep(row):
        problem = f"is nested deeper than {_MOST_LEVELS} levels"
    if problem:
        raise InvalidRequest(
            f"{place} {problem}", fix='write {"item": {...}}, and "sample" where it has one', param=param
        )
    return row


def _is_deep(row: dict[str, Any]) -> bool:
    """Tells whether a row is nested deeper than results, which hold it, can be written."""
    level: list[Any] = [row]
    for _ in range(_MOST_LEVELS):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True


def check_rows(path: Path, required: tuple[str, ...], param: str) -> int:
    """Reads a file of rows and returns their number.

    Raises:
        InvalidRequest: a line is no row, or there are too many or none. The message names the line.
    """
    count = 0
    for number, line in _lines(path):
        count += 1
        if count > _MOST_ROWS:
            raise InvalidRequest(
                f"the file has more than {_MOST_ROWS} rows", fix="split it into several runs", param=param
            )
        try:
            row = _decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            row = None
        check_row(row, required, f"line {number}", param)
    if not count:
        raise InvalidRequest("the file has no rows", fix="write one a line, as JSON objects", param=param)
    return count


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a checked file."""
    for _, line in _lines(path):
        yield _decode(line)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MOST_LINE_BYTES + 1):
            number += 1
            if line.strip():
                yield number, line

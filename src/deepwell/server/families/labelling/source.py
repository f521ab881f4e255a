"""Reads the texts of a new project from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.errors import InvalidRequest
from deepwell.server.families.labelling.schema import MAX_ITEMS
from deepwell.storage.tuning.labelling import NewItem
from deepwell.tuning.data.records import BadRecord, Record, as_json, read_records

__all__ = ["ReadItems", "read_items"]

_TEXT_ONLY = {"text", "label"}


@dataclass(frozen=True, slots=True)
class ReadItems:
    """The texts of a file, and the number of records that could not be read or hold no text."""

    items: Sequence[NewItem]
    unreadable: int


def read_items(path: Path, classes: Sequence[str]) -> ReadItems:
    """Returns the texts of the records of a file. Labels that the file has are taken over.

    Raises:
        InvalidRequest: there is no text, or more than `MAX_ITEMS`, or a label is none of the classes.
    """
    found: list[NewItem] = []
    unreadable = 0
    first_problem = ""
    for record in read_records([path]):
        if isinstance(record, BadRecord):
            unreadable += 1
            first_problem = first_problem or f"line {record.line}: {record.problem}"
            continue
        text = _without_nul(record.text)
        if not text.strip():
            unreadable += 1
            first_problem = first_problem or f"line {record.line}: the record has no text"
            continue
        if record.label is not None and record.label not in classes:
            raise InvalidRequest(
                f"line {record.line} has the label {record.label[:128]!r}, which is no class of the project",
                fix="add it to the classes, or remove it from the file",
                param="classes",
            )
        if len(found) == MAX_ITEMS:
            raise InvalidRequest(
                f"the file has more than {MAX_ITEMS} records", fix="split it", param="file_id"
            )
        found.append(NewItem(text, _record(record), record.label))
    if not found:
        raise InvalidRequest(
            f"the file has no text to label ({first_problem or 'it is empty'})",
            fix='write one JSON object a line, such as {"text": "..."}',
            param="file_id",
        )
    return ReadItems(found, unreadable)


def _record(record: Record) -> str | None:
    """Returns the JSON of a record without its label; None if it is nothing but a text."""
    value = as_json(record)
    value.pop("label", None)
    if value.keys() <= _TEXT_ONLY and value.get("text") == record.text:
        return None
    return json.dumps(_without_nul(value), ensure_ascii=False)


def _without_nul(value: Any) -> Any:
    """Returns a JSON value without the NULs of its texts, which PostgreSQL does not keep."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_nul(one) for one in value]
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(one) for name, one in value.items()}
    return value

"""Checks of training files, before a job is made and when its configuration is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepwell.dialogue.text import Codec
from deepwell.errors import DeepwellError, InvalidRequest

if TYPE_CHECKING:
    from deepwell.tuning.data.records import BadRecord, Record

__all__ = ["InvalidTrainingFile", "check_file", "tokens_of"]

_SAMPLED = 64  # conversations that the length of a file is estimated from
_MOST_ARRAY_BYTES = 64 << 20
_MOST_PROBLEMS = 5  # shown for one file


class InvalidTrainingFile(InvalidRequest):
    """Raised for a training or validation file with lines that cannot be trained on."""

    code = "invalid_training_file"


def check_file(path: Path, param: str) -> int:
    """Reads a whole file and returns the number of its conversations. Takes some 10 us a line.

    Raises:
        InvalidTrainingFile: lines cannot be read, or have no answer to learn. The message names line and field.
    """
    _check_array(path, param)
    count = 0
    bad: list[tuple[int, str, str]] = []
    more = 0
    for found in _records(path):
        problem = _problem_of(found)
        if problem is None:
            count += 1
        elif len(bad) < _MOST_PROBLEMS:
            bad.append(problem)
        else:
            more += 1
    if bad:
        told = [f"line {line}: {field + ': ' if field else ''}{what}" for line, field, what in bad]
        if more:
            told.append(f"and {more} more lines")
        raise InvalidTrainingFile(
            "; ".join(told),
            fix="correct the lines; `deepwell data check FILE` lists all of them",
            param=param,
        )
    if not count:
        raise InvalidTrainingFile.of("fine_tuning_empty", param=param)
    return count


def _check_array(path: Path, param: str) -> None:
    """Refuses a large JSON array, which, other than lines, is read as a whole: some requests would take all memory."""
    size = path.stat().st_size
    if size <= _MOST_ARRAY_BYTES:
        return
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"["):
        raise InvalidTrainingFile(
            f"the file is one JSON array of {size} bytes, and one may have {_MOST_ARRAY_BYTES}",
            fix="write one JSON object a line",
            param=param,
        )


def tokens_of(path: Path, codec: Codec) -> tuple[int, int]:
    """Returns the number of conversations of a checked file, and their mean length in tokens, by a sample."""
    from deepwell.tuning.data.records import BadRecord, Record

    sampled = [one for one in islice(_records(path), _SAMPLED) if isinstance(one, Record)]
    lengths: list[int] = []
    for record in sampled:
        tools: list[dict[str, Any]] | None = list(record.tools) or None
        try:
            lengths.append(len(codec.encode_chat(list(record.messages), tools=tools)))
        except DeepwellError:  # the training says what it cannot render
            lengths.append(len(record.text) // 3)
    count = sum(1 for one in _records(path) if not isinstance(one, BadRecord))
    return count, max(1, sum(lengths) // max(len(lengths), 1))


def _records(path: Path) -> Iterator[Record | BadRecord]:
    from deepwell.tuning.data.records import read_records

    return read_records([path])


def _problem_of(found: Record | BadRecord) -> tuple[int, str, str] | None:
    from deepwell.tuning.data.records import Record

    if not isinstance(found, Record):
        return found.line, found.field, found.problem
    if found.format != "text" and all(one.get("role") != "assistant" for one in found.messages):
        return found.line, "messages", "there is no assistant message to learn from"
    return None

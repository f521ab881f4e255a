"""Rows of a task, and their split by hash into training, development and held-out rows, frozen before a search begins.

The part of a row depends on its input alone, so the same input stands in one part, whatever the order of the file and the seed
of the search.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from deepwell.errors import InvalidFile, InvalidRequest

__all__ = [
    "JOURNAL",
    "PARTS",
    "Fields",
    "Frozen",
    "Row",
    "Shares",
    "freeze",
    "key_of",
    "labels_of",
    "read_rows",
    "rows_of",
    "split_rows",
]

PARTS: Final = ("train", "development", "held_out")
"""Names of the parts, in the order of their shares."""

JOURNAL: Final = "journal.jsonl"
"""File of a search in the folder of its rows."""

_INPUTS: Final = ("input", "text", "question")
_ANSWERS: Final = ("label", "answer", "target")
_MAX_FILE: Final = 256 << 20
_MOST_LINE: Final = 1 << 20  # no context holds more, and nothing else runs while a line is decoded
_SALT: Final = "deepwell:prompts\0"
_SPLITS: Final = "splits.json"
_FEWEST: Final = 10  # rows of a part
_MOST_RECORD: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a task.

    Attributes:
        key: hash of its input without differences in case and blanks.
        input: text that a request gives as its input.
        answer: the expected answer or label; empty: none is given, and a grader judges alone.
        fields: the whole line, which graders and variables of the prompt read.
    """

    key: str
    input: str
    answer: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields of a line; None: the first of input, text and question, and of label, answer and target."""

    input: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the rows by part; their sum is 1. Without a share the held-out rows come from a file of their own."""

    train: float = 0.4
    development: float = 0.3
    held_out: float = 0.3

    def part(self, key: str) -> str:
        """Returns the part of a row by the hash of its input."""
        place = int(key[:13], 16) / 16**13
        if place < self.train:
            return "train"
        return "development" if place < self.train + self.development or not self.held_out else "held_out"


class Frozen:
    """The three parts as files of one folder. A part is read when it is asked for, and must be as it was frozen.

    Attributes:
        folder: the folder, with a JSON-lines file for each part.
        counts: number of rows of each part.
        dropped: lines whose input was there before.
        data_sha256: hash of the file that was split.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], fields: Fields) -> None:
        self.folder = folder
        self.counts: dict[str, int] = dict(record["counts"])
        self.dropped = int(record["dropped"])
        self.data_sha256: str = record["data_sha256"]
        self._sha256: Mapping[str, str] = record["sha256"]
        self._fields = fields

    def rows(self, part: str) -> list[Row]:
        """Returns the rows of a part.

        Raises:
            InvalidFile: the file of the part is missing or has changed since the split.
        """
        path = self.folder / f"{part}.jsonl"
        raw = _bytes_of(path) if path.is_file() else b""
        if hashlib.sha256(raw).hexdigest() != self._sha256[part]:
            raise InvalidFile.of("prompts_split_changed", path=path, folder=self.folder)
        return rows_of(raw, path, self._fields)


def freeze(data: Path, folder: Path, shares: Shares, fields: Fields, *, least: int = _FEWEST) -> Frozen:
    """Splits a file of rows into the parts and writes each into the folder; a split that is there already is kept.

    Another split is replaced as long as no search has begun on it.

    Raises:
        InvalidFile: a line is no row; or the folder has a search over the split of another file or with other shares, a
            damaged record of a split, or a file of others that has the name of a part.
        InvalidRequest: a part would have fewer than `least` rows.
    """
    raw = _bytes_of(data)
    wanted = {"data_sha256": hashlib.sha256(raw).hexdigest(), "shares": _shares_json(shares)}
    kept = folder / _SPLITS
    replaced: Mapping[str, str] = {}
    if kept.is_file():
        record = _record_of(kept, wanted)
        if {name: record[name] for name in wanted} == wanted:
            return Frozen(folder, record, fields)
        if (folder / JOURNAL).exists():
            raise InvalidFile.of("prompts_folder_taken", path=folder)
        replaced = record["sha256"]
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    dropped = 0
    for part, row in _parted(raw, data, shares, fields):
        if part is None:
            dropped += 1
        else:
            parts[part].append(json.dumps(row.fields, ensure_ascii=False) + "\n")
    _check_counts(parts, data, shares, least)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {name: "".join(lines).encode() for name, lines in parts.items()}
    for name, text in texts.items():
        path = folder / f"{name}.jsonl"
        if path.exists() and not _is_ours(path, data, text, replaced.get(name)):
            raise InvalidFile.of("prompts_part_taken", path=path)
    for name, text in texts.items():
        _write_whole(folder / f"{name}.jsonl", text)
    record = wanted | {
        "counts": {name: len(lines) for name, lines in parts.items()},
        "dropped": dropped,
        "sha256": {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()},
    }
    # Last: without it a folder has no split.
    _write_whole(kept, (json.dumps(record, indent=1) + "\n").encode())
    return Frozen(folder, record, fields)


def split_rows(
    data: Path, shares: Shares, fields: Fields, *, least: int = _FEWEST
) -> Mapping[str, Sequence[Row]]:
    """Returns the rows of each part as `freeze` would split them. Nothing is written.

    Raises:
        InvalidFile: a line is no row.
        InvalidRequest: a part would have fewer than `least` rows.
    """
    parts: dict[str, list[Row]] = {name: [] for name in PARTS}
    for part, row in _parted(_bytes_of(data), data, shares, fields):
        if part is not None:
            parts[part].append(row)
    _check_counts(parts, data, shares, least)
    return parts


def _parted(raw: bytes, data: Path, shares: Shares, fields: Fields) -> Iterator[tuple[str | None, Row]]:
    """Yields the rows of a file with the names of their parts; None: the input was there before."""
    seen: set[str] = set()
    for row in _rows(raw, data, fields):
        yield (None if row.key in seen else shares.part(row.key)), row
        seen.add(row.key)


def _check_counts(parts: Mapping[str, Sequence[Any]], data: Path, shares: Shares, least: int) -> None:
    needed = PARTS if shares.held_out else PARTS[:2]
    if short := [name for name in needed if len(parts[name]) < least]:
        counts = ", ".join(f"{name} {len(parts[name])}" for name in needed)
        raise InvalidRequest.of("prompts_few_rows", part=short[0], counts=counts, least=least, path=data)


def _is_ours(path: Path, data: Path, text: bytes, replaced: str | None) -> bool:
    """Returns whether a file is the part to write, or that of a split that is replaced, and not where the rows come from."""
    if path.samefile(data):
        return False
    raw = path.read_bytes()
    return raw == text or hashlib.sha256(raw).hexdigest() == replaced


def _write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is there as a whole or not at all."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def _record_of(path: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record of a split, of whatever file and shares.

    Args:
        wanted: the entries that name them.

    Raises:
        InvalidFile: it is damaged.
    """
    try:
        record: Any = json.loads(path.read_bytes()[:_MOST_RECORD])
        sound = (
            all(type(record[name]) is type(value) for name, value in wanted.items())
            and all(isinstance(record["counts"][name], int) and record["counts"][name] >= 0 for name in PARTS)
            and all(isinstance(record["sha256"][name], str) for name in PARTS)
            and isinstance(record["dropped"], int)
        )
    except (ValueError, RecursionError, KeyError, TypeError):
        record, sound = None, False
    if not sound:
        raise InvalidFile.of("prompts_folder_taken", path=path.parent)
    return cast("dict[str, Any]", record)


def read_rows(path: Path, fields: Fields) -> list[Row]:
    """Returns the rows of a file of JSON lines.

    Raises:
        InvalidFile: a line is no row; the message names it.
    """
    return rows_of(_bytes_of(path), path, fields)


def rows_of(raw: bytes, path: Path, fields: Fields) -> list[Row]:
    """Returns the rows of JSON lines; `path` names them in errors.

    Raises:
        InvalidFile: a line is no row.
    """
    return list(_rows(raw, path, fields))


def key_of(text: str) -> str:
    """Returns the hash of an input, in which case and blanks make no difference."""
    plain = " ".join(text.lower().split())
    return hashlib.sha256((_SALT + plain).encode(errors="surrogatepass")).hexdigest()[:32]


def _rows(raw: bytes, path: Path, fields: Fields) -> Iterator[Row]:
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(line) > _MOST_LINE:
            raise InvalidFile.of(
                "prompts_row", path=path, line=number, reason=f"it has over {_MOST_LINE >> 20} MB"
            )
        try:
            given = json.loads(line.decode("utf-8"))
            if b"\\u" in line:
                json.dumps(given, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except UnicodeEncodeError:
            reason = "it holds half of a surrogate pair, which is no character"
            raise InvalidFile.of("prompts_row", path=path, line=number, reason=reason) from None
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise InvalidFile.of("prompts_row", path=path, line=number, reason="it is no JSON object")
        values = cast("dict[str, Any]", given)
        text = _text(values, _INPUTS if fields.input is None else (fields.input,), path, number)
        answers = _ANSWERS if fields.answer is None else (fields.answer,)
        answer = _text(values, answers, path, number) if any(name in values for name in answers) else ""
        yield Row(key_of(text), text, answer.strip(), values)


def _text(values: Mapping[str, Any], names: Sequence[str], path: Path, number: int) -> str:
    name = next((one for one in names if one in values), None)
    if name is None:
        known = ", ".join(map(str, values)) or "no fields"
        reason = f"it has none of {', '.join(names)}, but {known}"
        raise InvalidFile.of("prompts_row", path=path, line=number, reason=reason[:300])
    value = values[name]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise InvalidFile.of("prompts_row", path=path, line=number, reason=f"{name} is no text")
    return value


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(_MAX_FILE + 1)  # a pipe or a device has no size
    if len(raw) > _MAX_FILE:
        raise InvalidFile.of("prompts_row", path=path, line=1, reason=f"it has over {_MAX_FILE >> 20} MB")
    return raw


def _shares_json(shares: Shares) -> list[float]:
    return [round(one, 6) for one in (shares.train, shares.development, shares.held_out)]


def labels_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Returns the different answers of rows, in alphabetical order."""
    return tuple(sorted({row.answer for row in rows}))

"""`Journal`: figures of a search as lines of JSON, so that a search that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from deepwell.errors import InvalidRequest
from deepwell.process.claim import locked_alone

__all__ = ["Journal", "is_number"]

_MOST_BYTES: Final = 256 << 20


class Journal:
    """A file of measured figures by name. The search itself is a function of them, so that it ends the same.

    One process at a time has the file, until it closes it.

    Args:
        path: file, made if it is not there. Its last line may be torn, by a process that was killed.
        about: what the figures depend on; a file of something else is refused.

    Raises:
        InvalidRequest: the file is of another search, is damaged, or another process has it.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            self._read({"search": about})
        except BaseException:
            self._file.close()
            raise

    def _read(self, head: Mapping[str, Any]) -> None:
        """Reads the figures that are there, cuts a torn line off, and writes the first line if there is none."""
        if not locked_alone(self._file):
            raise InvalidRequest.of("compress_search_busy", param="out", folder=self._path.parent)
        self._file.seek(0)
        raw = self._file.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise InvalidRequest.of(
                "compress_search_large", param="out", path=self._path, most=_MOST_BYTES >> 20
            )
        lines = raw.split(b"\n")[:-1]
        for number, line in enumerate(lines, 1):
            record = self._record(line, number)
            if number == 1 and record != json.loads(json.dumps(head)):
                raise InvalidRequest.of("compress_search_other", param="out", path=self._path)
            if number > 1:
                if not isinstance(record.get("name"), str) or "value" not in record:
                    raise self._damaged(number)
                self._found[record["name"]] = record["value"]
        self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._write(head)

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record: object = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise self._damaged(number)
        return cast("dict[str, Any]", record)

    def _damaged(self, line: int) -> InvalidRequest:
        return InvalidRequest.of("compress_search_damaged", param="out", path=self._path, line=line)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def measured(
        self, name: str, measure: Callable[[], Any], is_sound: Callable[[Any], bool] = lambda _: True
    ) -> Any:
        """Returns a figure by its name, measured if it is not there yet. It has to be plain JSON values.

        Args:
            is_sound: returns whether a figure that the file had can be one of this name.

        Raises:
            InvalidRequest: the file's figure cannot.
        """
        if name not in self._found:
            # Through JSON, so that a figure is the same now and when it is read again.
            self._found[name] = self._write({"name": name, "value": measure()})["value"]
        elif not is_sound(self._found[name]):
            raise InvalidRequest.of("compress_search_figure", param="out", path=self._path, name=name[:80])
        return self._found[name]

    def _write(self, record: Mapping[str, Any]) -> dict[str, Any]:
        line = json.dumps(record)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        return cast("dict[str, Any]", json.loads(line))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def is_number(value: Any) -> bool:
    """Returns whether a value of JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)

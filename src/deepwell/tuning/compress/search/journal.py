"""`Journal`: figures of a search as lines of JSON, so that a search that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from deepwell.errors import InvalidRequest

__all__ = ["Journal"]


class Journal:
    """A file of measured figures by name. The search itself is a function of them, so that it ends the same.

    Args:
        path: file, made if it is not there. Its last line may be torn, by a process that was killed.
        about: what the figures depend on; a file of something else is refused.

    Raises:
        InvalidRequest: the file is of another search.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._found: dict[str, Any] = {}
        kept: list[str] = []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines):
            if not line.endswith("\n"):
                break
            record = json.loads(line)
            if number == 0 and record != {"search": about}:
                raise InvalidRequest.of("compress_search_other", param="out", path=path)
            if number:
                self._found[record["name"]] = record["value"]
            kept.append(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept) or json.dumps({"search": about}) + "\n", encoding="utf-8")
        partial.replace(path)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def measured(self, name: str, measure: Callable[[], Any]) -> Any:
        """Returns a figure by its name, measured if it is not there yet. It has to be plain JSON values."""
        if name not in self._found:
            # Through JSON, so that a figure is the same now and when it is read again.
            line = json.dumps({"name": name, "value": measure()})
            self._file.write(line + "\n")
            self._file.flush()
            self._found[name] = json.loads(line)["value"]
        return self._found[name]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

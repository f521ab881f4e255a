"""`Tables`: the CSV and SQLite files of a folder as one database, read in the sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from deepwell.agents.sandbox import Sandbox, SandboxLimits
from deepwell.errors import InvalidFile, InvalidRequest

__all__ = ["ANALYSIS_LIMITS", "Column", "Table", "Tables", "load_tables", "sandbox_program"]

ANALYSIS_LIMITS: Final = SandboxLimits(
    seconds=20, processor_s=20, folder_bytes=256 << 20, file_bytes=128 << 20, files=200
)

_CSV: Final = (".csv", ".tsv")
_SQLITE: Final = (".db", ".sqlite", ".sqlite3")
_MOST_FILES: Final = 50
_MOST_BYTES: Final = 64 << 20
_VALUES: Final = 200  # of a column that are known by name
_VALUE_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        type: as SQLite declares it.
        values: values as text, at most 200 different ones.
        complete: whether `values` has all.
        refers: table and column of another table that it names.
    """

    name: str
    type: str
    values: tuple[str, ...] = ()
    complete: bool = False
    refers: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its number of rows."""

    name: str
    columns: tuple[Column, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables of a folder.

    Attributes:
        image: the database with them, a SQLite file.
    """

    tables: tuple[Table, ...]
    image: bytes

    def named(self, name: str) -> Table | None:
        """Returns the table of a name, whose case does not matter, or None."""
        return next((one for one in self.tables if one.name.lower() == name.lower()), None)


async def load_tables(folder: Path, sandbox: Sandbox | None = None) -> Tables:
    """Reads the CSV and SQLite files that lie in a folder, or one such file. Each CSV file is a table of its name.

    Raises:
        InvalidRequest: there is none, they are too many or too large, or a link leads out of the folder.
        InvalidFile: one is broken.
        SandboxUnavailable: no sandbox can be had here.
    """
    found = _files(folder)
    listed = [
        {"file": f"in/{place}{path.suffix.lower()}", "kind": _kind(path), "table": _table_name(path)}
        for place, path in enumerate(found)
    ]
    order = {"files": listed, "values": _VALUES, "value_characters": _VALUE_CHARACTERS}
    given = {one["file"]: path.read_bytes() for one, path in zip(listed, found, strict=True)}
    runs = sandbox or Sandbox(ANALYSIS_LIMITS)
    result = await runs.run(
        sandbox_program("load"), files={"order.json": json.dumps(order).encode(), **given}
    )
    names = {one["file"]: path.name for one, path in zip(listed, found, strict=True)}
    if "tables.json" not in result.files or "tables.db" not in result.files:
        why = "they take too long" if result.timed_out else result.stderr.strip().rpartition("\n")[2][-300:]
        raise InvalidFile(
            f"the files of {folder} cannot be read: {why}",
            fix="leave out the file that is broken or too large",
        )
    told = json.loads(result.files["tables.json"])
    if told["problems"]:
        problem = re.sub(r"in/\d+\.\w+", lambda one: names.get(one[0], one[0]), str(told["problems"][0]))
        raise InvalidFile(problem, fix="mend or remove the file")
    return Tables(tuple(_table(one) for one in told["tables"]), result.files["tables.db"])


@cache
def sandbox_program(name: str) -> str:
    """Returns the text of a program of `programs`."""
    return files("deepwell.agents.analysis.programs").joinpath(f"{name}.py").read_text(encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    if not folder.exists():
        raise InvalidRequest(f"there is no {folder}", fix="name a CSV or SQLite file, or a folder of them")
    named = [folder] if folder.is_file() else folder.iterdir()
    found = sorted(path for path in named if path.suffix.lower() in (*_CSV, *_SQLITE) and path.is_file())
    root = folder.resolve()
    if folder.is_dir() and (away := [path for path in found if path.resolve().parent != root]):
        raise InvalidRequest(f"{away[0]} is a link out of its folder", fix="copy the file into the folder")
    if not found and not folder.is_dir():
        raise InvalidRequest(
            f"{folder} is no table", fix=f"name a file that ends with {', '.join((*_CSV, *_SQLITE))}"
        )
    if not found:
        raise InvalidRequest(
            f"{folder} has no tables", fix=f"put files there that end with {', '.join((*_CSV, *_SQLITE))}"
        )
    size = sum(path.stat().st_size for path in found)
    if len(found) > _MOST_FILES or size > _MOST_BYTES:
        raise InvalidRequest(
            f"{folder} has {len(found)} tables of {size} bytes",
            fix=f"keep to {_MOST_FILES} files and {_MOST_BYTES >> 20} MB",
        )
    names = [_table_name(path).lower() for path in found if _kind(path) == "csv"]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidRequest(f"two files make the table {twice[0]}", fix="rename one of them")
    return found


def _kind(path: Path) -> str:
    return "csv" if path.suffix.lower() in _CSV else "sqlite"


def _table_name(path: Path) -> str:
    return re.sub(r"\W+", "_", path.stem) or "data"


def _table(told: Mapping[str, Any]) -> Table:
    columns = tuple(
        Column(
            str(one["name"]),
            str(one["type"]),
            tuple(map(str, one["values"])),
            bool(one["all"]),
            (str(one["refers"][0]), str(one["refers"][1])) if one["refers"] else None,
        )
        for one in told["columns"]
    )
    return Table(str(told["name"]), columns, int(told["rows"]))

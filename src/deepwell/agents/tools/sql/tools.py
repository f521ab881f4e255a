"""`sql_schema` and `sql_query`: one read-only statement at a time over the SQLite files of a folder."""

from __future__ import annotations

import asyncio
import difflib
import itertools
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from deepwell.agents.tools.clues import table_clues
from deepwell.agents.tools.files.folder import ConfinedFolder, FolderError
from deepwell.agents.tools.sql.statement import StatementProblem, checked_statement, require_sqlglot
from deepwell.agents.tools.tool import Clues, Guide, Tool, ToolCallContext, ToolOutput
from deepwell.errors import InvalidRequest
from deepwell.models.text.shipped import shipped
from deepwell.process.confinement.launch import base_python, end_program, program_command

__all__ = ["SqlLimits", "sql_tools"]

_CHILD: Final = Path(__file__).with_name("child.py")
_SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")
_CELL_CHARACTERS: Final = 200
_MOST_NAMES: Final = 12
_SAMPLES: Final = 3  # of a column, that a model reads
_KNOWN_VALUES: Final = 200  # of a column, that are looked for in a task
_KNOWN_IN_ALL: Final = 5_000  # values that are looked for in a task, and compared with those of a query
_COMPARED: Final = 5  # texts of a query: each is compared with every value
_NAME_CHARACTERS: Final = 40
_TEXT: Final = re.compile(r"'([^']{1,60})'")
_SCHEMA: Final = shipped("Show the columns of the database, {tables}. Call it before sql_query.")
_QUERY: Final = shipped("Query the database, {tables}, by one SQL SELECT statement.")
_STATEMENT: Final = shipped("A SELECT statement with all values written out.")
_DATABASE: Final = shipped("File of the database.")
_ADVICE: Final = (
    shipped("the SELECT statement that finds what the question asks. Write values as the question has them"),
    shipped("查出答案的 SELECT 语句。文字的值照问题里的写，不翻译"),
)
_GRACE_S: Final = 2.0  # for the start of the process, and for SQLite to see that its time is over


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """Limits of one statement.

    Attributes:
        seconds: time that it may take.
        most_rows: rows that it returns at most.
        most_bytes: size of the largest value, and of the rows that it returns together.
        memory_bytes: data that its process may hold.
    """

    seconds: float = 5.0
    most_rows: int = 50
    most_bytes: int = 100_000
    memory_bytes: int = 256_000_000


def sql_tools(root: Path, *, limits: SqlLimits | None = None) -> list[Tool]:
    """Returns the tools that show the tables of a folder's SQLite files, and query them.

    A statement runs in a process of its own that can write nothing. With one file the tools take no name of a database.

    Raises:
        MissingDependency: the extra `agents` is not installed.
        InvalidRequest: the folder has no SQLite file.
        OSError: it is no folder, or cannot be opened.
    """
    require_sqlglot()
    databases = _Databases(ConfinedFolder(root), limits or SqlLimits())
    tables, names, values = databases.tables()

    def clues(task: str) -> Clues:
        return table_clues(task, names, values)

    several: dict[str, Any] = {}
    if len(databases.names) > 1:
        about = {"type": "string", "enum": databases.names, "description": _DATABASE}
        several = {"database": about}
    return [
        Tool(
            "sql_schema",
            _SCHEMA.format(tables=tables),
            {
                "type": "object",
                "properties": several,
                "required": list(several),
                "additionalProperties": False,
            },
            databases.schema,
            guide=Guide(lambda task: Clues(clues(task).weight)),
        ),
        Tool(
            "sql_query",
            _QUERY.format(tables=tables),
            {
                "type": "object",
                "properties": {
                    "query": {
                        "type": "string",
                        "description": _STATEMENT,
                    },
                    **several,
                },
                "required": ["query", *several],
                "additionalProperties": False,
            },
            databases.query,
            guide=Guide(
                lambda task: replace(clues(task), weight=0.95 * clues(task).weight),  # behind the schema
                _ADVICE,
                source="tables",
                computes="rows",
            ),
        ),
    ]


class _Databases:
    """The SQLite files of a folder, by their paths in it."""

    def __init__(self, folder: ConfinedFolder, limits: SqlLimits) -> None:
        self._folder, self._limits = folder, limits
        self.names = [one.path for one in folder.walk() if one.path.lower().endswith(_SUFFIXES)]
        self._values = list[str]()
        self._has_all = True  # whether these are all texts of the tables
        if not self.names:
            raise InvalidRequest(
                f"there is no SQLite file in {folder.root}", fix=f"name a folder with {', '.join(_SUFFIXES)}"
            )

    def tables(self) -> tuple[str, list[str], list[str]]:
        """Returns the names of the tables as a model reads them, and names and texts that a task about them may hold."""
        names, columns, values = list[str](), list[str](), self._values
        for name in self.names:
            command, request = self._call(name, None, self._limits.seconds, _KNOWN_VALUES)
            found: dict[str, Any] = {}
            with suppress(subprocess.TimeoutExpired):  # a call says so
                done = subprocess.run(
                    command,
                    input=json.dumps(request).encode(),
                    capture_output=True,
                    timeout=self._limits.seconds + _GRACE_S,
                    check=False,
                )
                found = json.loads(done.stdout or b"{}")
            self._has_all = self._has_all and bool(found.get("whole"))
            for table in found.get("tables", ()):
                names.append(str(table["name"])[:_NAME_CHARACTERS])
                columns += [str(one["name"]) for one in table["columns"]]
                samples = (text for one in table["columns"] for text in one.get("samples", ()))
                values += itertools.islice(samples, _KNOWN_IN_ALL - len(values))
        shown = f"tables {', '.join(names[:_MOST_NAMES])}" if names else "which has no tables"
        if len(names) > _MOST_NAMES:
            shown = f"{shown} and {len(names) - _MOST_NAMES} more"
        return shown, [*names, *columns], values

    async def schema(self, arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
        found = await self._run(arguments, None, context)
        if "error" in found:
            return ToolOutput(f"The database cannot be read: {found['error']}", failed=True)
        return ToolOutput(_schema_text(found) or "The database has no tables.", data=found)

    async def query(self, arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
        try:
            statement = checked_statement(str(arguments["query"]))
        except StatementProblem as error:
            return ToolOutput(str(error), failed=True)
        found = await self._run(arguments, statement, context)
        if "error" in found:
            return ToolOutput(await self._mended(str(found["error"]), arguments, context), failed=True)
        near = list[tuple[str, str]]()
        # A text that is no known value may be one, unless all are known.
        if self._has_all and len(self._values) < _KNOWN_IN_ALL and not _holds_something(found):
            # It takes a tenth of a second for each text.
            near = await asyncio.to_thread(_nearest_values, statement, self._values)
        if near:
            hint = "; ".join(f"no value is {one!r}, but {other!r} is one" for one, other in near)
            return ToolOutput(f"The query found nothing: {hint}. Write the values as they are.", failed=True)
        return ToolOutput(_rows_text(found), data=found)

    async def _mended(self, error: str, arguments: Mapping[str, Any], context: ToolCallContext) -> str:
        """Returns why a statement failed, with the tables where it named one that is not there."""
        if error == "interrupted":
            return f"The query took longer than {self._limits.seconds:g} s. Ask for less."
        if error == "not authorized":
            return "Only reading tables is allowed. Send one SELECT statement."
        if error.startswith("Incorrect number of bindings"):
            return "The query has places for values, such as ?. Write the values into the query."
        if not error.startswith(("no such column", "no such table", "ambiguous column")):
            return f"The query failed: {error}"
        found = await self._run(arguments, None, context)
        tables = _schema_text(found) if "error" not in found else ""
        return f"The query failed: {error}. The tables are:\n{tables}"

    async def _run(
        self, arguments: Mapping[str, Any], statement: str | None, context: ToolCallContext
    ) -> dict[str, Any]:
        """Runs a statement, or reads the schema without one, in a process that ends with this call."""
        name = str(arguments.get("database") or self.names[0])
        if name not in self.names:
            return {"error": f"there is no database {name[:100]!r}; use one of {', '.join(self.names)}"}
        try:
            self._folder.check(name)
        except FolderError as error:
            return {"error": str(error)}
        seconds = min(self._limits.seconds, context.timeout_s)
        command, request = self._call(name, statement, seconds)
        return await _answer(command, request, seconds)

    def _call(
        self, name: str, statement: str | None, seconds: float, most_samples: int = _SAMPLES
    ) -> tuple[list[str], dict[str, Any]]:
        """Returns the command of a process that runs a statement, and what it reads."""
        limits = self._limits
        request = {
            "path": str(self._folder.root / name),
            "sql": statement,
            "seconds": seconds,
            "most_rows": limits.most_rows,
            "most_bytes": limits.most_bytes,
            "most_samples": most_samples,
        }
        command = [base_python(), "-I", "-S", str(_CHILD)]
        path = self._folder.root / name
        reads = [_CHILD, *(Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm"))]
        shown = [one for one in reads if one.exists()]
        return program_command(command, limits.memory_bytes, int(seconds + _GRACE_S) + 1, shown), request


async def _answer(command: list[str], request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Returns what the process printed; it is killed when its time is over or the call is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await asyncio.wait_for(
            process.communicate(json.dumps(request).encode()), seconds + _GRACE_S
        )
    except TimeoutError:
        return {"error": "interrupted"}
    finally:
        if process.returncode is None:
            end_program(process.pid)
        await process.wait()
    if process.returncode:
        return {"error": "the query took more memory or time than it may"}
    found: dict[str, Any] = json.loads(output)
    return found


def _schema_text(found: Mapping[str, Any]) -> str:
    """Returns tables, one a line: `orders(id INTEGER, customer_id INTEGER -> customers.id, status TEXT 'open' 'paid')`."""
    lines = [f"{one['name']}({', '.join(map(_column, one['columns']))})" for one in found["tables"]]
    if found["more"]:
        lines.append(f"(only the first {len(lines)} tables are shown)")
    return "\n".join(lines)


def _column(one: Mapping[str, Any]) -> str:
    parts = [str(one["name"]), str(one["type"])]
    if one["references"]:
        parts.append(f"-> {one['references']}")
    parts += [repr(sample) for sample in one.get("samples", ())]
    return " ".join(part for part in parts if part)


def _rows_text(found: Mapping[str, Any]) -> str:
    """Returns rows as lines of cells, below a line of column names."""
    rows = found["rows"]
    if not rows:
        return "0 rows. Check the names and values; sql_schema shows examples of values."
    lines = [" | ".join(map(str, found["columns"]))]
    lines += [" | ".join(map(_shown, row)) for row in rows]
    if found["more"]:
        lines.append(f"(only the first {len(rows)} rows are shown; use COUNT, SUM or LIMIT)")
    return "\n".join(lines)


def _holds_something(found: Mapping[str, Any]) -> bool:
    """Returns whether rows say more than that there is nothing: no row, NULL or 0."""
    rows = found["rows"]
    return len(rows) > 1 or any(one not in (None, 0) for row in rows for one in row)


def _nearest_values(statement: str, values: Sequence[str]) -> list[tuple[str, str]]:
    """Returns texts of a statement that are no value of a column, each with the value that is most like it.

    Only the first few such texts are looked at.
    """
    known = set(values)
    found = list[tuple[str, str]]()
    texts = dict.fromkeys(_TEXT.findall(statement))
    unknown = (text for text in texts if text not in known and text.strip("%"))
    for text in itertools.islice(unknown, _COMPARED):
        inside = [one for one in values if len(one) > 1 and one.casefold() in text.casefold()]
        near = sorted(inside, key=len)[-1:] or difflib.get_close_matches(
            text[:_NAME_CHARACTERS], values, 1, 0.75
        )
        if near:
            found.append((text, near[0]))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        value = f"{value:.12g}"  # 0.1 + 0.2 is 0.3 to a reader
    text = str(value).replace("\n", " ")
    if len(text) <= _CELL_CHARACTERS:
        return text
    return f"{text[:_CELL_CHARACTERS]}... ({len(text):,} characters)"

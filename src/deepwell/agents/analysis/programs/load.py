"""Reads CSV and SQLite files into one database, `tables.db`, and describes its tables in `tables.json`.

It runs in the sandbox, for the files may be hostile. `order.json` has the files with their kinds and table names, and the
limits.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sqlite3
from pathlib import Path
from typing import Any

ORDER = json.loads(Path("order.json").read_text(encoding="utf-8"))
PROBLEMS: list[str] = []


def quoted(name: str) -> str:
    """Returns a name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def inserted(table: str, columns: int) -> str:
    """Returns the statement that adds a row."""
    return f"INSERT INTO {quoted(table)} VALUES ({', '.join('?' * columns)})"  # noqa: S608


def number_type(values: list[str]) -> str:
    """Returns the narrowest type that has all values. A number with leading zeros is a text: it is a code."""
    if not values or any(re.fullmatch(r"0\d+", one) for one in values):
        return "TEXT"
    if all(re.fullmatch(r"-?\d{1,18}", one) for one in values):
        return "INTEGER"
    if all(
        re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", one) and math.isfinite(float(one)) for one in values
    ):
        return "REAL"
    return "TEXT"


def decoded(data: bytes) -> str:
    """Returns the text of a CSV file: UTF-8, or the GB 18030 of Chinese spreadsheets."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030")


def load_csv(into: sqlite3.Connection, file: str, table: str) -> None:
    """Makes a table of a CSV file whose first line has the names of the columns."""
    text = decoded(Path(file).read_bytes())
    try:
        dialect: Any = csv.Sniffer().sniff(text[:8192], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    rows = list(csv.reader(io.StringIO(text, newline=""), dialect))
    if not rows or not rows[0]:
        PROBLEMS.append(f"{file} has no line of column names")
        return
    names: list[str] = []
    for place, raw in enumerate(rows[0]):
        name = raw.strip() or f"column_{place + 1}"
        while name.lower() in [one.lower() for one in names]:
            name += "_2"
        names.append(name)
    uneven = [place for place, row in enumerate(rows[1:], 2) if row and len(row) != len(names)]
    if uneven:
        PROBLEMS.append(
            f"{file} has {len(uneven)} lines with another number of columns, such as line {uneven[0]}"
        )
        return
    body = [row for row in rows[1:] if row]
    types = [number_type([row[place] for row in body if row[place] != ""]) for place in range(len(names))]
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in zip(names, types, strict=True))
    into.execute(f"CREATE TABLE {quoted(table)} ({columns})")
    into.executemany(inserted(table, len(names)), ([one or None for one in row] for row in body))


def load_sqlite(into: sqlite3.Connection, file: str, taken: set[str]) -> None:
    """Copies the tables of a SQLite file; views and triggers stay behind, for they are programs of a stranger."""
    source = sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)
    source.execute("PRAGMA trusted_schema=OFF")
    listed = source.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    for (name,) in listed:
        if name.lower() in taken:
            PROBLEMS.append(f"{file} has a second table {name}")
            continue
        taken.add(name.lower())
        info = source.execute(f"PRAGMA table_info({quoted(name)})").fetchall()
        columns = [f"{quoted(one[1])} {re.sub(r'[^A-Za-z ]', '', one[2])}" for one in info]
        columns += [
            f"FOREIGN KEY ({quoted(key[3])}) REFERENCES {quoted(key[2])} ({quoted(key[4] or 'id')})"
            for key in source.execute(f"PRAGMA foreign_key_list({quoted(name)})").fetchall()
        ]
        into.execute(f"CREATE TABLE {quoted(name)} ({', '.join(columns)})")
        rows = source.execute(f"SELECT * FROM {quoted(name)}")  # noqa: S608
        into.executemany(inserted(name, len(info)), rows)


def described(of: sqlite3.Connection) -> list[dict[str, Any]]:
    """Returns the tables with their columns, and the values of texts that are not many."""
    tables: list[dict[str, Any]] = []
    names = of.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall()
    for (name,) in names:
        keys = {one[3]: [one[2], one[4]] for one in of.execute(f"PRAGMA foreign_key_list({quoted(name)})")}
        columns: list[dict[str, Any]] = []
        for one in of.execute(f"PRAGMA table_info({quoted(name)})").fetchall():
            column = quoted(one[1])
            few = of.execute(
                f"SELECT DISTINCT {column} FROM {quoted(name)} WHERE {column} IS NOT NULL LIMIT {ORDER['values'] + 1}"  # noqa: S608
            ).fetchall()
            values = [str(value)[: ORDER["value_characters"]] for (value,) in few]
            columns.append(
                {
                    "name": one[1],
                    "type": one[2],
                    "values": values[: ORDER["values"]],
                    "all": len(values) <= ORDER["values"],
                    "refers": keys.get(one[1]),
                }
            )
        count = of.execute(f"SELECT COUNT(*) FROM {quoted(name)}").fetchone()[0]  # noqa: S608
        tables.append({"name": name, "rows": count, "columns": columns})
    return tables


def main() -> None:
    """Writes both files."""
    csv.field_size_limit(1 << 20)
    with sqlite3.connect("tables.db") as made:
        made.execute("PRAGMA journal_mode=MEMORY")
        taken = {one["table"].lower() for one in ORDER["files"] if one["kind"] == "csv"}
        for one in ORDER["files"]:
            try:
                if one["kind"] == "csv":
                    load_csv(made, one["file"], one["table"])
                else:
                    load_sqlite(made, one["file"], taken)
            except (csv.Error, sqlite3.Error, UnicodeDecodeError) as error:
                PROBLEMS.append(f"{one['file']} cannot be read: {error}")
        tables = described(made)
    made.close()
    answer = json.dumps({"tables": tables, "problems": PROBLEMS}, ensure_ascii=False)
    Path("tables.json").write_text(answer, encoding="utf-8", errors="replace")


main()

"""Reading SQLite files: rows and schema, and that nothing else can be done."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.agents.tools import Tool, ToolCallContext, ToolOutput, sql_tools
from deepwell.agents.tools.sql import StatementProblem, checked_statement
from deepwell.agents.tools.sql.tools import SqlLimits
from deepwell.errors import InvalidRequest

_CONTEXT = ToolCallContext("tenant", "run", "call", 10.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    inside.mkdir()
    with closing(sqlite3.connect(inside / "shop.db")) as database:
        database.executescript(
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);"
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers(id), total REAL);"
            "CREATE VIEW big AS SELECT * FROM orders WHERE total > 1;"
            "INSERT INTO customers VALUES (1, 'Harbor'), (2, '晨光');"
            "INSERT INTO orders VALUES (1, 1, 0.1), (2, 1, 0.2), (3, 2, 5);"
        )
        database.commit()
    (tmp_path / "outside.db").write_bytes((inside / "shop.db").read_bytes())
    (inside / "link.db").symlink_to(tmp_path / "outside.db")
    return inside


def tools(folder: Path, limits: SqlLimits | None = None) -> dict[str, Tool]:
    return {one.name: one for one in sql_tools(folder, limits=limits)}


async def query(folder: Path, text: str, limits: SqlLimits | None = None, **more: Any) -> ToolOutput:
    return await tools(folder, limits)["sql_query"].run({"query": text, **more}, _CONTEXT)


async def test_the_schema_shows_columns_references_and_values(folder: Path) -> None:
    text = (await tools(folder)["sql_schema"].run({}, _CONTEXT)).text
    assert "customers(id INTEGER, name TEXT 'Harbor' '晨光')" in text
    assert "customer_id INTEGER -> customers.id" in text


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("SELECT id FROM customers WHERE name = 'harbour'", "no value is 'harbour', but 'Harbor' is one"),
        (
            "SELECT COUNT(*) FROM customers WHERE name = '《晨光》'",
            "no value is '《晨光》', but '晨光' is one",
        ),
    ],
)
async def test_a_query_that_finds_nothing_names_the_nearest_value(folder: Path, text: str, near: str) -> None:
    output = await query(folder, text)
    assert (output.failed, near in output.text) == (True, True)


@pytest.mark.parametrize("value", ["Harbor", "nothing like it"])
async def test_a_query_that_finds_nothing_by_a_right_or_a_far_value_is_an_answer(
    folder: Path, value: str
) -> None:
    output = await query(folder, f"SELECT COUNT(*) FROM customers WHERE name = '{value}' AND id > 7")
    assert (output.failed, output.text) == (False, "COUNT(*)\n0")


def test_the_description_names_the_tables(folder: Path) -> None:
    assert "tables big, customers, orders" in tools(folder)["sql_query"].description


async def test_rows_come_with_their_columns(folder: Path) -> None:
    output = await query(
        folder,
        "SELECT name, SUM(total) AS total FROM orders JOIN customers c ON c.id = customer_id GROUP BY 1",
    )
    assert output.text == "name | total\nHarbor | 0.3\n晨光 | 5"
    assert output.data["columns"] == ["name", "total"]


@pytest.mark.parametrize(
    "text", ["SELECT 1 + 1 AS n;", "```sql\nSELECT 2 AS n\n```", "WITH a AS (SELECT 2 AS n) SELECT n FROM a"]
)
async def test_fences_semicolons_and_common_tables_are_fine(folder: Path, text: str) -> None:
    assert (await query(folder, text)).text == "n\n2"


async def test_views_can_be_read(folder: Path) -> None:
    assert (await query(folder, "SELECT id FROM big")).text == "id\n3"


async def test_no_rows_say_what_to_check(folder: Path) -> None:
    assert (await query(folder, "SELECT * FROM customers WHERE name = 'x'")).text.startswith("0 rows.")


@pytest.mark.parametrize("text", ["SELECT price FROM orders", "SELECT * FROM sales"])
async def test_a_wrong_name_comes_back_with_the_tables(folder: Path, text: str) -> None:
    output = await query(folder, text)
    assert output.failed
    assert "no such" in output.text
    assert "orders(id INTEGER" in output.text


async def test_rows_beyond_the_limit_are_counted_out(folder: Path) -> None:
    output = await query(
        folder, "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a LIMIT 90) SELECT n FROM a"
    )
    assert "only the first 50 rows" in output.text
    assert len(output.data["rows"]) == 50


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE orders",
        "DELETE FROM orders",
        "UPDATE orders SET total = 0",
        "INSERT INTO orders VALUES (9, 9, 9)",
        "WITH a AS (SELECT 1) DELETE FROM orders",
        "REPLACE INTO orders VALUES (1, 1, 1)",
        "CREATE TABLE x AS SELECT 1",
        "CREATE TEMP TABLE x (a)",
        "ALTER TABLE orders ADD COLUMN x",
        "ATTACH 'other.db' AS other",
        "DETACH main",
        "PRAGMA writable_schema = ON",
        "PRAGMA table_info(orders)",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM pragma_table_info('orders')",
        "VACUUM INTO 'copy.db'",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "EXPLAIN SELECT 1",
        "SELECT 1; DELETE FROM orders",
        "SELECT 1; SELECT 2",
        "SELECT load_extension('evil')",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('owned', 'x')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT zeroblob(1000000000)",
        "SELECT * INTO x FROM orders",
        "SELECT ?",
        "SELECT 'a\0b'",
        "SELECT " + "(" * 3000 + "1" + ")" * 3000,
        "SELECT " + "1+" * 6000 + "1",
        "",
        ";",
        "-- nothing",
        "no sql at all",
        "SELECT '\ud800'",
    ],
)
async def test_all_but_reading_is_refused(folder: Path, text: str) -> None:
    before = _digest(folder)
    output = await query(folder, text)
    assert output.failed, output.text
    assert output.text
    assert _digest(folder) == before
    assert _names(folder) == ["link.db", "shop.db"]


async def test_an_endless_query_ends(folder: Path) -> None:
    endless = "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a) SELECT COUNT(*) FROM a"
    output = await query(folder, endless, SqlLimits(seconds=0.2))
    assert output.failed
    assert "took longer" in output.text


async def test_memory_is_bounded(folder: Path) -> None:
    hungry = (
        "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a LIMIT 100000)"
        " SELECT hex(randomblob(20000)) AS x FROM a ORDER BY x"
    )
    output = await query(folder, hungry, SqlLimits(seconds=20, memory_bytes=128_000_000))
    assert output.failed


async def test_a_large_value_is_cut_and_says_so(folder: Path) -> None:
    output = await query(folder, "SELECT hex(randomblob(20000)) AS x, randomblob(10) AS y")
    assert "(40,000 characters)" in output.text
    assert len(output.text) < 400
    assert "<10 bytes>" in output.text


async def test_several_databases_are_told_apart_and_links_are_none(folder: Path) -> None:
    (folder / "copy.sqlite").write_bytes((folder / "shop.db").read_bytes())
    found = tools(folder)["sql_query"]
    assert found.parameters["properties"]["database"]["enum"] == ["copy.sqlite", "shop.db"]
    assert (await query(folder, "SELECT 1 AS n", database="copy.sqlite")).text == "n\n1"
    for name in ("link.db", "../outside.db", "/etc/passwd", "none.db"):
        assert (await query(folder, "SELECT 1", database=name)).failed


async def test_a_log_that_was_closed_is_read_without_writing(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "shop.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("INSERT INTO customers VALUES (3, 'third')")
        database.commit()
    assert (await query(folder, "SELECT COUNT(*) AS n FROM customers")).text == "n\n3"
    assert _names(folder) == ["link.db", "shop.db"]


async def test_a_file_that_is_no_database_is_reported(folder: Path) -> None:
    found = tools(folder)
    (folder / "shop.db").write_bytes(b"no database " * 100)
    for name, arguments in (("sql_query", {"query": "SELECT * FROM orders"}), ("sql_schema", {})):
        output = await found[name].run(arguments, _CONTEXT)
        assert output.failed
        assert "not a database" in output.text


def test_a_folder_without_a_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no SQLite file"):
        sql_tools(tmp_path)


@given(st.text(max_size=200))
def test_any_text_is_a_statement_or_refused(text: str) -> None:
    with suppress(StatementProblem):
        assert checked_statement(text)


def _names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "shop.db").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "script",
    [
        """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
        INSERT INTO customers SELECT i + 10, 'customer ' || i FROM n;""",
        "INSERT INTO customers VALUES (9, 'customer of the shop at the harbour, third floor');",
        "ALTER TABLE customers ADD COLUMN code; INSERT INTO customers VALUES (9, 'customer 2', 'customer 299');",
    ],
    ids=["more than are known", "longer than are known", "a column without a type"],
)
async def test_nothing_is_said_not_to_be_a_value_where_not_all_are_known(folder: Path, script: str) -> None:
    """The answer 0 was taken for a fault, and the model told to ask for another value."""
    with closing(sqlite3.connect(folder / "shop.db")) as database:
        database.executescript(script)
    for name in ("customer 299", "customer of the shop at the harbour, third floor"):
        found = await query(folder, f"SELECT count(*) FROM customers WHERE name = '{name}' AND id = 0")
        assert not found.failed and "no value is" not in found.text


async def test_a_query_with_many_texts_is_answered_soon(folder: Path) -> None:
    """Each was compared with every value, on the event loop: half a minute."""
    with closing(sqlite3.connect(folder / "shop.db")) as database:
        database.executescript(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 190)"
            " INSERT INTO customers SELECT i + 10, 'name of thing ' || i FROM n;"
        )
    texts = ", ".join(f"'nome of theng {one}'" for one in range(300))
    found = await query(folder, f"SELECT id FROM customers WHERE name IN ({texts})")
    assert found.failed and found.text.count("no value is") == 5

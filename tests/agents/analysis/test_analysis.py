"""Tables are read in the sandbox; a statement that only reads them runs, and no other does."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.needs import SANDBOX

from deepwell.agents.analysis import (
    Analyst,
    CheckedQuery,
    Column,
    QueryProblem,
    Table,
    Tables,
    check_query,
    load_tables,
    run_query,
)
from deepwell.errors import DeepwellError, InvalidFile, InvalidRequest
from deepwell_bench.suites.applications.data_analysis import make_tables, statements, try_to_leave

pytestmark = pytest.mark.needs(SANDBOX)

SCRIPT = Path(__file__).parents[3] / "examples" / "data-analysis" / "make_data.py"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    folder = tmp_path_factory.mktemp("shop")
    make_tables(SCRIPT, folder)
    return asyncio.run(load_tables(folder))


def test_csv_and_sqlite_become_one_database(shop: Tables) -> None:
    assert {(one.name, one.rows) for one in shop.tables} == {
        ("customers", 120),
        ("products", 16),
        ("orders", 600),
        ("employees", 40),
        ("tickets", 180),
    }
    orders = shop.named("ORDERS")
    assert orders is not None
    types = {one.name: one.type for one in orders.columns}
    assert (types["数量"], types["amount"], types["order_date"]) == ("INTEGER", "REAL", "TEXT")
    state = next(one for one in orders.columns if one.name == "状态")
    assert state.complete
    assert set(state.values) == {"已完成", "已取消", "待发货", "退货"}


def test_codes_stay_texts_and_chinese_spreadsheets_are_read(tmp_path: Path) -> None:
    (tmp_path / "编号.csv").write_bytes("编号;名称\n007;甲\n008;乙\n".encode("gb18030"))
    tables = asyncio.run(load_tables(tmp_path))
    rows = asyncio.run(run_query(check_query("SELECT 名称 FROM 编号 WHERE 编号 = '008'", tables), tables))
    assert rows.rows == (("乙",),)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({}, InvalidRequest),
        ({"a.csv": b""}, InvalidFile),
        ({"a.csv": b"x,y\n1\n2,3\n"}, InvalidFile),
        ({"a.db": b"no database at all, but long enough to be read as one" * 40}, InvalidFile),
        ({"a.csv": b"x\n1\n", "a.tsv": b"x\n1\n"}, InvalidRequest),
        ({"a.csv": b"\xff\xff\xff\xff\n\xff"}, InvalidFile),
    ],
)
def test_files_that_are_no_tables_are_refused(
    tmp_path: Path, files: Mapping[str, bytes], error: type[DeepwellError]
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error):
        asyncio.run(load_tables(tmp_path))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(InvalidRequest, match="link"):
        asyncio.run(load_tables(folder))


def test_views_and_triggers_of_a_database_stay_behind(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as made:
        made.execute("CREATE TABLE t (a)")
        made.execute("INSERT INTO t VALUES (1)")
        made.execute("CREATE VIEW v AS SELECT load_extension('x')")
        made.execute("CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END")
    made.close()
    tables = asyncio.run(load_tables(tmp_path))
    assert [(one.name, one.rows) for one in tables.tables] == [("t", 1)]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT * FROM order", "Did you mean orders?"),
        ("SELECT amout FROM orders", "Did you mean amount?"),
        ("SELECT o.城市 FROM orders o", "no column 城市 in orders"),
        ('SELECT 姓名 FROM customers WHERE 城市 = "北京"', "single quotes"),
        ("SELECT x.amount FROM orders o", "no table or alias"),
        ("", "empty"),
        ("SELEC 1", "SELECT|valid SQL"),
    ],
)
def test_what_is_wrong_is_said_in_words_that_mend_it(shop: Tables, sql: str, words: str) -> None:
    with pytest.raises(QueryProblem, match=words.replace("?", r"\?")):
        check_query(sql, shop)


def test_a_statement_gets_a_limit_and_more_rows_are_told(shop: Tables) -> None:
    query = check_query("```sql\nSELECT order_id FROM orders -- all of them\n;```", shop, most_rows=10)
    assert query.limited
    assert query.tables == ("orders",)
    rows = asyncio.run(run_query(query, shop, most_rows=10))
    assert (len(rows.rows), rows.more) == (10, True)


@pytest.mark.fault
def test_no_statement_leaves_the_sandbox(shop: Tables) -> None:
    left, tried = asyncio.run(try_to_leave(shop))
    assert (left, tried) == ([], len(statements()))
    assert tried >= 50


@given(st.text(max_size=200))
def test_any_text_is_checked_or_refused(text: str) -> None:
    tables = Tables((Table("t", (Column("a", "INTEGER"),), 1),), b"")
    try:
        query = check_query(text, tables)
    except QueryProblem:
        return
    assert isinstance(query, CheckedQuery)


def test_an_error_goes_back_to_the_model_which_mends_it(shop: Tables) -> None:
    written = iter(
        [
            "SELECT COUNT(*) FROM order",
            "SELECT COUNT(*) FROM orders WHERE 状态 = '退货了'",
            "SELECT COUNT(*) FROM orders",
        ]
    )
    heard: list[str] = []

    async def write(messages: Sequence[Mapping[str, Any]]) -> str:
        heard.append(messages[-1]["content"])
        return next(written)

    found = asyncio.run(Analyst(shop, write).ask("How many orders?"))
    assert found.rows is not None
    assert found.rows.rows == ((0,),)
    assert found.attempts == 2
    assert "Did you mean orders?" in heard[1]


def test_names_and_values_become_the_nearest_of_the_tables(shop: Tables) -> None:
    meanings = {"city": 0, "城市": 0, "Peking": 1, "北京": 1}

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        found = []
        for place, text in enumerate(texts):
            vector = [0.0] * 600
            vector[meanings.get(text.removeprefix("query: "), 10 + hash(text) % 500 + place % 2)] = 1.0
            found.append(vector)
        return found

    async def write(_: Sequence[Mapping[str, Any]]) -> str:
        return "SELECT COUNT(*) FROM customers WHERE city = 'Peking'"

    found = asyncio.run(Analyst(shop, write, embed=embed).ask("How many?"))
    assert "城市" in found.sql
    assert "'北京'" in found.sql
    assert found.rows is not None


def test_a_model_that_never_writes_a_statement_has_no_answer(shop: Tables) -> None:
    async def write(_: Sequence[Mapping[str, Any]]) -> str:
        return "I would rather not."

    found = asyncio.run(Analyst(shop, write).ask("How many?"))
    assert found.rows is None
    assert found.problem
    assert found.attempts == 3

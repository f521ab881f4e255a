"""`SQL`: rows as documents, read-only, within limits, and without a word of the password."""

from __future__ import annotations

import json
import sqlite3
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from tests.postgres import Server

from deepwell.errors import DeepwellError, InvalidRequest, MissingDependency
from deepwell.knowledge.sources.database import QueryDatabase, check_query
from deepwell.knowledge.sources.opening import open_source, parse_source
from deepwell.knowledge.sources.options import Access
from deepwell.knowledge.sources.source import Change, Source

TABLE = """
CREATE TABLE articles (id INTEGER PRIMARY KEY, title TEXT, body TEXT, team TEXT, stars INTEGER, day DATE);
INSERT INTO articles VALUES (1, 'Leave', 'Thirty days.', 'hr', 5, '2024-01-01');
INSERT INTO articles VALUES (2, 'Travel', 'Second class; 100%% of it, at 12:30.', 'hr', 3, '2024-01-02');
INSERT INTO articles VALUES (3, 'Laptops', NULL, 'it', 4, NULL);
"""


class Kept:
    """A database with a table of articles."""

    def __init__(self, url: str, run: Any) -> None:
        self.url = url
        self.run = run

    def source(self, query: str, *options: str, max_bytes: int = 1 << 20, **environ: str) -> Source:
        return open_source(parse_source(f"sql:{self.url} {query}", options), Access((), max_bytes, environ))


@pytest.fixture(params=["sqlite", "postgresql"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    script = TABLE.replace("%%", "%")
    if request.param == "sqlite":
        path = tmp_path / "a file #1?%20.db"

        def run(statement: str) -> None:
            with closing(sqlite3.connect(path)) as connection:
                connection.executescript(statement)

        run(script)
        return Kept(f"sqlite:///{path}".replace("%", "%25").replace(" ", "%20").replace("?", "%3F"), run)
    server = request.getfixturevalue("server")
    url = server.create()
    name = url.rpartition("?")[0].rpartition("/")[2]
    server.sql(name, script)
    return Kept(url, lambda statement: server.sql(name, statement))


async def scanned(source: Source, known: dict[str, str] | None = None) -> dict[str, Change]:
    """The changes of a scan by id; what concerns the whole source by nothing."""
    async with aclosing(source.scan(known or {})) as changes:
        found = [change async for change in changes]
    assert len({(change.uri, change.kind) for change in found}) == len(found)
    return {change.uri.partition("#")[2]: change for change in found}


def kinds(changes: dict[str, Change]) -> dict[str, str]:
    return {name: change.kind for name, change in changes.items()}


def versions(changes: dict[str, Change]) -> dict[str, str]:
    return {change.uri: change.version for change in changes.values() if change.version}


def text(change: Change) -> str:
    assert change.fetched is not None
    return change.fetched.content.decode()


ALL = "SELECT id, title, body, team, stars, day FROM articles ORDER BY id"
NAMED = ("id=id", "title=title", "text=body", "attributes=team,stars")


async def test_rows_are_documents(kept: Kept) -> None:
    found = await scanned(kept.source(ALL, *NAMED))
    assert kinds(found) == {"1": "added", "2": "added", "3": "added"}
    assert text(found["1"]) == "Leave\n\nThirty days."
    assert text(found["2"]) == "Travel\n\nSecond class; 100% of it, at 12:30."
    first = found["1"].fetched
    assert first is not None
    assert first.filename == "Leave.txt"
    assert dict(first.metadata) == {"team": "hr", "stars": 5, "title": "Leave"}


async def test_what_changed_is_found(kept: Kept) -> None:
    source = kept.source(ALL, *NAMED)
    known = versions(await scanned(source))
    assert set(kinds(await scanned(source, known)).values()) == {"unchanged"}
    kept.run("UPDATE articles SET body = 'Forty days.' WHERE id = 1")
    kept.run("UPDATE articles SET stars = 1 WHERE id = 2")
    kept.run("DELETE FROM articles WHERE id = 3")
    kept.run("INSERT INTO articles (id, title, body) VALUES (4, 'New', 'x')")
    found = await scanned(source, known)
    assert kinds(found) == {"1": "changed", "2": "changed", "3": "removed", "4": "added"}


async def test_columns_without_names_are_all_text(kept: Kept) -> None:
    found = await scanned(
        kept.source("SELECT id, title, body, stars, day FROM articles WHERE id = 1", "id=id")
    )
    assert text(found["1"]) == "title: Leave\nbody: Thirty days.\nstars: 5\nday: 2024-01-01"
    found = await scanned(
        kept.source("SELECT id, title, body, stars FROM articles WHERE id = 1", "id=id", "format=jsonl")
    )
    assert json.loads(text(found["1"])) == {"title": "Leave", "body": "Thirty days.", "stars": 5}
    assert found["1"].fetched is not None and found["1"].fetched.filename == "1.jsonl"


async def test_rows_without_an_id_are_known_by_their_contents(kept: Kept) -> None:
    source = kept.source("SELECT team FROM articles ORDER BY id")
    found = await scanned(source)
    assert sorted(kinds(found).values()) == ["added", "added", "skipped"]
    assert "1 rows have the contents of another row" in found[""].reason
    kept.run("DELETE FROM articles WHERE team = 'it'")
    again = [change.kind for change in (await scanned(source, versions(found))).values()]
    assert sorted(again) == ["removed", "skipped", "unchanged"]


async def test_ids_that_are_missing_or_there_twice_are_said(kept: Kept) -> None:
    found = await scanned(kept.source("SELECT team, title FROM articles ORDER BY id", "id=team"))
    assert kinds(found) == {"hr": "added", "it": "added", "": "skipped"}
    assert found[""].reason == "1 rows have the team of another row, such as hr.txt"
    kept.run("UPDATE articles SET team = NULL WHERE id = 3")
    found = await scanned(kept.source("SELECT team, title FROM articles WHERE id > 1", "id=team"))
    assert kinds(found) == {"hr": "added", "": "skipped"} and found[""].reason == "1 rows have no team"


async def test_too_many_rows_are_said_and_remove_nothing(kept: Kept) -> None:
    known = versions(await scanned(kept.source(ALL, *NAMED)))
    kept.run("DELETE FROM articles WHERE id = 1")
    found = await scanned(kept.source(ALL, *NAMED, "max_rows=1"), known)
    assert kinds(found) == {"": "failed", "2": "unchanged"}
    assert "more than 1 rows" in str(found[""].error)


async def test_a_large_row_is_a_failure_alone(kept: Kept) -> None:
    kept.run(
        "UPDATE articles SET body = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' WHERE id = 2"
    )
    found = await scanned(kept.source(ALL, *NAMED, max_bytes=40))
    assert kinds(found) == {"1": "added", "2": "failed", "3": "added"}


async def test_bytes_are_left_out_and_said(kept: Kept) -> None:
    kept.run("CREATE TABLE files (id INTEGER, name TEXT, data BYTEA)")
    kept.run(
        "INSERT INTO files VALUES (1, 'a', CAST('xyz' AS BYTEA))"
        if "postgres" in kept.url
        else "INSERT INTO files VALUES (1, 'a', x'00ff')"
    )
    found = await scanned(kept.source("SELECT * FROM files", "id=id"))
    assert kinds(found) == {"1": "added", "": "skipped"}
    assert text(found["1"]) == "name: a"
    assert found[""].reason == "columns without text are left out: data"


async def test_a_row_that_is_no_utf8_stops_no_other(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.executescript(
            "CREATE TABLE t (a TEXT); INSERT INTO t VALUES (CAST(x'41ff42' AS TEXT)), ('fine')"
        )
    found = await scanned(open_source(parse_source(f"sql:sqlite:///{tmp_path}/a.db SELECT a FROM t")))
    assert sorted(text(change) for change in found.values()) == ["A\ufffdB", "fine"]


async def test_every_name_of_postgresql_is_read_only(server: Server) -> None:
    for name in ("postgres://", "postgresql+psycopg://", "postgresql+pg8000://"):
        assert QueryDatabase(server.url("x").replace("postgresql://", name)).kind == "postgresql"


async def test_the_database_refuses_writes(kept: Kept) -> None:
    """The text of a query is checked, but a database that only reads is what holds."""
    if "postgres" in kept.url:
        kept.run(
            "CREATE FUNCTION grow() RETURNS int AS 'INSERT INTO articles (id) VALUES (99); SELECT 1' LANGUAGE sql"
        )
        writes = ["SELECT grow()", "WITH x AS (DELETE FROM articles RETURNING id) SELECT * FROM x"]
    else:
        writes = [
            "WITH x AS (SELECT 1) DELETE FROM articles",
            "WITH x AS (SELECT 99) INSERT INTO articles (id) SELECT * FROM x",
        ]
    for query in writes:
        found = await scanned(kept.source(query))
        assert kinds(found) == {"": "failed"}
        said = str(found[""].error)
        assert "read-only" in said or "readonly" in said or "data-modifying" in said
    assert len(await scanned(kept.source(ALL, *NAMED))) == 3


async def test_a_query_that_takes_too_long_ends(kept: Kept) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    found = await scanned(kept.source(endless, "timeout_s=0.2"))
    assert kinds(found) == {"": "failed"}
    assert "did not answer" in str(found[""].error)


async def test_a_wrong_query_says_what_is_wrong(kept: Kept) -> None:
    found = await scanned(kept.source("SELECT nothing FROM articles"), {"x": "1"})
    assert kinds(found) == {"": "failed"} and "nothing" in str(found[""].error)
    found = await scanned(kept.source(ALL, "id=nr"))
    assert "has no column nr" in str(found[""].error) and "id, title, body" in str(found[""].error)


async def test_no_password_in_errors_and_addresses(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    url = server.create()
    wrong = url.replace(":s3cret@", ":hunter2@")
    by_name = url.replace(":s3cret@", ":${DB_PASSWORD}@")
    found = await scanned(open_source(parse_source(f"sql:{wrong} SELECT 1")))
    assert kinds(found) == {"": "failed"}
    said = f"{found} {found[''].error} {found[''].uri} {caplog.text}"
    assert "hunter2" not in said
    access = Access(environ={"DB_PASSWORD": "s3cret"})
    found = await scanned(open_source(parse_source(f"sql:{by_name} SELECT 1 AS a"), access))
    assert "s3cret" not in f"{found} {caplog.text}" and list(kinds(found).values()) == ["added"]
    with pytest.raises(InvalidRequest, match="DB_PASSWORD"):
        open_source(parse_source(f"sql:{by_name} SELECT 1"), Access(environ={}))


async def test_a_database_that_is_not_there(tmp_path: Path, server: Server) -> None:
    missing = tmp_path / "no.db"
    found = await scanned(open_source(parse_source(f"sql:sqlite:///{missing} SELECT 1")))
    assert kinds(found) == {"": "failed"} and not missing.exists()
    gone = server.url("postgres").replace(str(server.folder), str(tmp_path))
    found = await scanned(open_source(parse_source(f"sql:{gone} SELECT 1")), {"x": "1"})
    assert kinds(found) == {"": "failed"}


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite://", "sqlite:///:memory:", "nosuchkind://me:hunter2@h/d", "http://h/"]
)
def test_what_is_no_database(url: str) -> None:
    with pytest.raises(DeepwellError) as caught:
        QueryDatabase(url)
    assert "hunter2" not in str(caught.value)


def test_a_driver_that_is_not_installed() -> None:
    with pytest.raises(MissingDependency, match="pip install"):
        QueryDatabase("oracle+oracledb://u:pw@h/d")


async def test_watching_reads_again(kept: Kept) -> None:
    source = kept.source(ALL, *NAMED, "every_s=0.02")
    known = versions(await scanned(source))
    async with aclosing(source.watch(known)) as changes:
        kept.run("UPDATE articles SET title = 'Holidays' WHERE id = 1")
        change = await anext(changes)
        assert change.kind == "changed" and text(change).startswith("Holidays")
        kept.run("DELETE FROM articles WHERE id = 1")
        assert (await anext(changes)).kind == "removed"


@pytest.mark.parametrize(
    ("query", "checked"),
    [
        ("SELECT 1", "SELECT 1"),
        (" select 1 ; ", "select 1"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", None),
        ("VALUES (1)", None),
        ("(SELECT 1) UNION (SELECT 2)", None),
        ("-- a comment; with a semicolon\nSELECT 1", None),
        ("/* ; */ SELECT ';' AS \"a;b\", $$;$$, $x$ ' ; $x$, '' FROM t -- ;", None),
        ("SELECT 1; -- the end", "SELECT 1"),
    ],
)
def test_queries_that_read(query: str, checked: str | None) -> None:
    assert check_query(query) == (checked or query)


@pytest.mark.parametrize(
    "query",
    ["", ";", "DELETE FROM a", "SELECT 1; DELETE FROM a", "SELECT 1;;", "/* SELECT */ DROP TABLE a", "EXPLAIN SELECT 1",
     "SELECT 'a'';' ; DROP TABLE a --'", "PRAGMA writable_schema = 1", "ATTACH 'x' AS y", "COMMIT"],
)  # fmt: skip
def test_queries_that_do_more(query: str) -> None:
    with pytest.raises(InvalidRequest):
        check_query(query)

"""`QueryDatabase`: one SELECT at a time on somebody else's database, read-only, within limits."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deepwell.errors import InvalidRequest, MissingDependency, SourceError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

__all__ = ["QueryDatabase", "Rows", "check_query"]

_READS = ("select", "with", "values", "table")
_PROGRESS = 2_000  # SQLite's instructions between looks at the clock
_BATCH = 500
_CONNECT_S = 5
_LONGEST = 300  # characters of a database's message


class Rows:
    """The rows of a query, read as they are iterated.

    Attributes:
        columns: names in the order of the query.
    """

    def __init__(self, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
        self.columns = list(columns)
        self._rows = rows

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return self._rows


class QueryDatabase:
    """A database that is only read. SQLite, PostgreSQL, MySQL and MariaDB refuse writes themselves.

    On other databases nothing is ever committed; their user should have no right to write.

    Args:
        url: SQLAlchemy URL, with its variables replaced.

    Raises:
        InvalidRequest: it is no such URL, or names a database in memory.
        MissingDependency: its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        import sqlalchemy as sa
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        try:
            parsed = sa.make_url(url)
        except ArgumentError:
            # The URL is not repeated: it may hold a password.
            raise InvalidRequest(
                "this is not the URL of a database",
                fix="write postgresql://user:${PASSWORD}@host:5432/name or sqlite:////path/to/file.db",
            ) from None
        if parsed.get_backend_name() in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.kind = parsed.get_backend_name()
        self.uri = f"sql:{_shown(parsed)}"
        self._secrets = [text for text in (parsed.password, *map(str, parsed.query.values())) if text]
        try:
            self._engine = _engine(parsed)
        except NoSuchModuleError:
            raise InvalidRequest(
                f"there is no database of kind {parsed.drivername}",
                fix="use sqlite, postgresql, mysql, or install the dialect of your database for SQLAlchemy",
            ) from None
        except ModuleNotFoundError as error:
            extra = "deepwell[postgres]" if self.kind == "postgresql" else str(error.name)
            raise MissingDependency(
                f"databases of kind {self.kind} need {error.name}, which is not installed",
                fix=f"pip install '{extra}'",
            ) from None

    @contextmanager
    def query(
        self, query: str, timeout_s: float, parameters: Mapping[str, Any] | None = None
    ) -> Iterator[Rows]:
        """Runs a SELECT and gives its rows for as long as the block lasts. Blocks its thread.

        Args:
            timeout_s: seconds for the query and all of its rows.
            parameters: values of its `:name`s. Without any, `:` and `%` mean nothing.

        Raises:
            SourceError: the database cannot be reached, refuses the query, or takes too long.
        """
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        deadline = time.monotonic() + timeout_s
        options = {"stream_results": True, "yield_per": _BATCH, "max_row_buffer": _BATCH}
        try:
            with self._engine.connect() as connection, self._bounded(connection, deadline, timeout_s):
                if parameters is None:
                    options["no_parameters"] = True
                    result = connection.exec_driver_sql(query, execution_options=options)
                else:
                    result = connection.execute(text(query), dict(parameters), execution_options=options)
                yield Rows(list(result.keys()), self._until(result, deadline))
                result.close()
                connection.rollback()
        except SQLAlchemyError as error:
            if time.monotonic() >= deadline or "timeout" in self._reason(error).lower():
                raise _late(self.uri, timeout_s) from None
            raise SourceError(
                f"{self.uri} refuses the query: {self._reason(error)}",
                fix="run it by hand, and check the URL",
            ) from None

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def _until(self, result: Any, deadline: float) -> Iterator[Sequence[Any]]:
        for batch in result.partitions():
            if time.monotonic() >= deadline:
                raise _late(self.uri, None)
            yield from batch

    @contextmanager
    def _bounded(self, connection: Connection, deadline: float, timeout_s: float) -> Iterator[None]:
        """Makes a connection read-only and gives it a time limit, as its database has them."""
        raw: Any = connection.connection.dbapi_connection
        milliseconds = max(1, round(timeout_s * 1000))
        if self.kind == "sqlite":
            raw.text_factory = _text  # one row of broken UTF-8 must not stop the others
            raw.execute("PRAGMA query_only = ON")
            raw.set_progress_handler(lambda: time.monotonic() >= deadline, _PROGRESS)
        elif self.kind == "postgresql":
            connection.execution_options(postgresql_readonly=True)
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
        elif self.kind in ("mysql", "mariadb"):
            limit = (
                f"max_statement_time = {timeout_s:g}"
                if getattr(connection.dialect, "is_mariadb", False)
                else f"max_execution_time = {milliseconds}"
            )
            connection.exec_driver_sql(f"SET SESSION {limit}")
            connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
            connection.rollback()  # the next transaction is the first that is read-only
        try:
            yield
        finally:
            if self.kind == "sqlite":
                raw.set_progress_handler(None, 0)

    def _reason(self, error: Exception) -> str:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        reason = " ".join(line.strip() for line in lines)[:_LONGEST]
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return reason


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")


def _late(uri: str, timeout_s: float | None) -> SourceError:
    within = f" within {timeout_s:g} s" if timeout_s else " in time"
    return SourceError(f"{uri} did not answer{within}", fix="add an index, ask for less, or raise timeout_s")


def _shown(url: URL) -> str:
    """Returns a URL without user, password and options."""
    from sqlalchemy import URL

    return str(URL.create(url.get_backend_name(), host=url.host, port=url.port, database=url.database))


def _engine(url: URL) -> Engine:
    import sqlalchemy as sa

    connect: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        path = url.database or ""
        if path in ("", ":memory:") or path.startswith("file:"):
            raise InvalidRequest(
                "a source of SQLite is a file", fix="write sqlite:////path/to/file.db, with an absolute path"
            )
        quoted = quote(str(Path(path).absolute()))
        url = sa.make_url("sqlite://").set(database=f"file:{quoted}", query={"mode": "ro", "uri": "true"})
        connect = {"check_same_thread": False, "timeout": _CONNECT_S}
    elif url.get_driver_name() in ("psycopg", "pymysql", "mysqldb"):
        connect["connect_timeout"] = _CONNECT_S
    return sa.create_engine(
        url, connect_args=connect, pool_size=2, max_overflow=2, pool_pre_ping=True, hide_parameters=True
    )


_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<string> '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | (?P<dollar>\$\w*\$).*?(?P=dollar) )
    | (?P<end> ; )
    | (?P<word> \w+ )
    | (?P<other> . )
    """,
    re.DOTALL | re.VERBOSE,
)


def check_query(query: str) -> str:
    """Returns one SELECT without a semicolon behind it.

    Raises:
        InvalidRequest: it is no query that only reads, or there are several.
    """
    first = ""
    end = -1
    for match in _TOKEN.finditer(query):
        if match.lastgroup == "comment" or not match[0].strip():
            continue
        if end >= 0:
            raise InvalidRequest("a source of SQL runs one query, these are several", fix="give one SELECT")
        if match["end"]:
            end = match.start()
        elif not first and match[0] != "(":
            first = match[0].lower()
    if first not in _READS:
        raise InvalidRequest(
            f"a source of SQL only reads, and this begins with {first[:20] or 'nothing'}",
            fix="give one SELECT",
        )
    return query[:end].strip() if end >= 0 else query.strip()

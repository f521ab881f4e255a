"""PostgreSQL through psycopg: a database shared by several servers."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any
from urllib.parse import unquote, urlencode

import sqlalchemy as sa
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import QueuePool

from deepwell.errors import MissingDependency, StorageError
from deepwell.storage.clock import note_time
from deepwell.storage.tables import WITH_PREVIOUS, metadata, responses

__all__ = ["PostgreSQL"]

# Wait for a silent server: longer than its own timeouts for a lock or a statement
PATIENCE_S = 15.0
_TIME = "SELECT extract(epoch FROM clock_timestamp())"
_MIGRATIONS = 0x64656570  # this program's advisory lock: "deep"

# Neither a server that stopped answering nor one that holds locks for a dead client may block everybody for ever.
_SESSION = "-c lock_timeout=5s -c statement_timeout=10s -c idle_in_transaction_session_timeout=30s"

next(index for index in responses.indexes if index.name == "ix_responses_tenant_previous_id").dialect_options[
    "postgresql"
]["where"] = WITH_PREVIOUS

_READ_ONLY = "25006"
_DEFAULT_PORT = "5432"
_PORT = re.compile(r":\d*\Z")
_LISTED = re.compile(
    r"\A(?P<begin>[\w+]+://(?:[^/?#]*@)?)(?P<hosts>[^/?@,]+(?:,[^/?@,]+)+)(?:/(?P<path>[^?]*))?(?:\?(?P<query>.*))?\Z"
)

_RUN = "check that PostgreSQL runs and that DEEPWELL_DATABASE_URL names it; the server reconnects by itself"
_AWAY = ("the database cannot be reached", f"send the request again; {_RUN}")
_REASONS = {
    "08": _AWAY,
    "57P": _AWAY,  # the server is stopping, starting or crashed
    "53100": (
        "the disk of the database is full",
        "free space on PostgreSQL's disk: queued work goes on by itself then",
    ),
    "53300": (
        "the database has no connection left",
        "raise PostgreSQL's max_connections, or run fewer servers",
    ),
    "53": ("the database has no memory left", "send the request again a little later"),
    "55P03": (
        "the rows are locked by another session",
        "send the request again; end the session that holds them",
    ),
    "57014": (
        "the database took more than 10 seconds",
        "send the request again; look at what else PostgreSQL does",
    ),
    "25P03": _AWAY,
    "3D": ("the database does not exist any more", "restore it from a backup, and start the server again"),
    "25006": (
        "the database is read-only",
        "let DEEPWELL_DATABASE_URL name the primary, or both hosts with target_session_attrs=read-write",
    ),
    "40": ("other writers were in the way", "send the request again"),
    "28": ("the database refuses the user or the password", "correct DEEPWELL_DATABASE_URL"),
    "58": ("PostgreSQL cannot read or write its files", "look at its log and its disk"),
}  # by prefix of SQLSTATE; the longest match is used


class PostgreSQL:
    """One PostgreSQL server. `patience_s` limits its silence, and a third of it the time to connect.

    Each reader sees one commit (REPEATABLE READ, read only), as with SQLite. The writer's transactions are READ COMMITTED:
    writers of several servers may conflict in rows, and the loser is retried.
    """

    setting = "DEEPWELL_DATABASE_URL"
    rises_with_commits = False
    file = None

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        """Prepares the connections to the server.

        Raises:
            StorageError: `url` is not a PostgreSQL URL.
            MissingDependency: psycopg is not installed.
        """
        parsed = _parsed(url)
        self.shown = _shown(parsed)
        self._watch = _Watch(patience_s)
        try:
            engine = partial(_engine, parsed, max(2, round(patience_s / 3)))  # libpq accepts no less than 2 s
            self.reader = engine(
                isolation_level="REPEATABLE READ", pool_size=4, max_overflow=4, pool_timeout=10
            ).execution_options(postgresql_readonly=True)
            self.writer = engine(isolation_level="READ COMMITTED", pool_size=1, max_overflow=0)
        except ModuleNotFoundError:
            raise MissingDependency.of(
                "extra_missing",
                feature="PostgreSQL",
                package="psycopg",
                extra="postgres",
                variable="DEEPWELL_DATABASE_URL",
            ) from None

    def check(self) -> None:
        """Does nothing: only a query can tell, and `Database.probe` asks it."""

    def settle(self) -> None:
        """Does nothing."""

    def has_changed(self, connection: Connection) -> bool:
        """Returns False: the generation rises once a minute."""
        return False

    def look_at_clock(self, connection: Connection) -> None:
        """Notes the time of the server's machine."""
        note_time(lambda: float(connection.exec_driver_sql(_TIME).scalar_one()))

    def scrub(self) -> bool:
        """Returns False: autovacuum makes the space reusable, and rewriting tables would lock out everybody."""
        return False

    def reserve(self) -> None:
        """Does nothing: the disk of a PostgreSQL server is its operator's."""

    def reserve_used(self) -> AbstractContextManager[bool]:
        """Returns a block without more room."""
        return nullcontext(False)

    def is_full(self, error: DBAPIError) -> bool:
        """Returns whether the SQLSTATE is `disk_full`."""
        return _state(error) == "53100"

    def lock_migrations(self, connection: Connection) -> None:
        """Takes an advisory lock, because tables that do not exist yet cannot be locked."""
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATIONS)))

    @contextmanager
    def bounded(self, connection: Connection) -> Iterator[None]:
        """Disconnects from a stopped server, whose own timeouts do not fire and whose sockets the kernel keeps alive."""
        raw: Any = connection.connection.dbapi_connection
        if raw.closed:  # the driver noticed while the connection was in the pool
            connection.invalidate()
            raw = connection.connection.dbapi_connection
        with self._watch.over(raw.fileno()):
            yield

    def is_lost(self, connection: Connection) -> bool:
        """Returns whether the connection broke. A failed statement only needs a rollback to its savepoint."""
        return connection.invalidated

    def is_race(self, error: Exception) -> bool:
        """Returns whether the error is a deadlock, or a row that another server inserted after our check."""
        if not isinstance(error, DBAPIError) or error.connection_invalidated:
            return False
        return isinstance(error, IntegrityError) or _state(error).startswith("40")

    def explain(self, error: DBAPIError) -> tuple[str, str] | None:
        """Looks up the SQLSTATE. An operational error without one never reached the server.

        A missing table is a mistake in a query, unless it is one of ours.
        """
        state = _state(error)
        if state == "42P01" and any(f'"{name}"' in str(error.orig) for name in metadata.tables):
            return (
                "the tables of the database are gone",
                "restore it from a backup, and start the server again",
            )
        for length in (5, 3, 2):
            if (told := _REASONS.get(state[:length])) is not None and len(state) >= length:
                return told
        lost = error.connection_invalidated or (not state and isinstance(error, OperationalError))
        return _AWAY if lost else None


def _engine(url: URL, connect_s: int, **options: Any) -> Engine:
    # A name that is given several times, such as host, is a list for libpq, which tries one after another.
    asked = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    asked["options"] = f"{_SESSION} {asked.get('options', '')}".rstrip()
    arguments = {"connect_timeout": connect_s, "application_name": "deepwell", **asked}
    plain = url.set(query={})
    engine = sa.create_engine(
        plain, poolclass=QueuePool, connect_args=arguments, hide_parameters=True, **options
    )
    event.listen(engine, "handle_error", _note_demoted)
    return engine


def _note_demoted(context: ExceptionContext) -> None:
    """Gives up all connections to a server that was a primary and is read-only now: another one has its place."""
    asked = not (context.connection and context.connection.get_execution_options().get("postgresql_readonly"))
    if asked and getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _parsed(url: str) -> URL:
    try:
        parsed = sa.make_url(_LISTED.sub(_as_query, url, count=1))
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise StorageError.of("database_url_wrong")  # the URL is not repeated: it may hold a password
    return parsed.set(drivername="postgresql+psycopg")


def _as_query(found: re.Match[str]) -> str:
    """Returns a URL of several hosts, as libpq writes it, with the hosts in the query, where SQLAlchemy takes them."""
    places = [
        one.rpartition(":") if _PORT.search(one) else (one, "", "") for one in found["hosts"].split(",")
    ]
    listed = [("host", ",".join(unquote(host).strip("[]") for host, _, _ in places))]
    listed.append(("port", ",".join(port or _DEFAULT_PORT for _, _, port in places)))
    query = f"{found['query'] or ''}&{urlencode(listed, safe=',/:')}".removeprefix("&")
    return f"{found['begin']}/{found['path'] or ''}?{query}"


def _shown(url: URL) -> str:
    hidden = {name: "***" for name in url.query if "pass" in name}
    return url.set(drivername="postgresql").update_query_dict(hidden).render_as_string(hide_password=True)


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


class _Watch:
    """A thread that shuts down sockets after their time limit. It ends when it has had nothing to watch for a while."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._changed = threading.Condition()
        self._ends: dict[int, float] = {}  # duplicate of the socket's descriptor -> end of its time limit
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, descriptor: int) -> Iterator[None]:
        """Shuts the socket down if the block takes longer than the limit."""
        mine = os.dup(descriptor)  # the driver may close its own at any time, and the number may be reused
        with self._changed:
            self._ends[mine] = time.monotonic() + self._limit_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deepwell-postgres", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:
                del self._ends[mine]
            os.close(mine)

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            with self._changed:
                now = time.monotonic()
                if self._ends:
                    idle_since = now
                elif now - idle_since > self._limit_s:
                    self._thread = None
                    return
                for descriptor, end in self._ends.items():
                    if end <= now:
                        self._ends[descriptor] = float("inf")
                        with socket.socket(fileno=os.dup(descriptor)) as line, suppress(OSError):
                            line.shutdown(socket.SHUT_RDWR)
                nearest = min(self._ends.values(), default=now + self._limit_s)
                self._changed.wait(min(max(nearest - now, 0.01), self._limit_s / 4))

"""Descriptions of sources from what a user writes, and sources from their descriptions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deepwell.errors import InvalidRequest
from deepwell.knowledge.sources.folder import Folder
from deepwell.knowledge.sources.live import LiveSource
from deepwell.knowledge.sources.options import (
    OPTIONS,
    Access,
    FolderOptions,
    LiveHTTPOptions,
    LiveSQLOptions,
    SQLOptions,
    URLOptions,
    check_options,
    expand,
    expand_headers,
    options_of,
    read_assignments,
)
from deepwell.knowledge.sources.source import Kind, Source, SourceSpec
from deepwell.knowledge.sources.tree import absolute
from deepwell.paths import user_path

__all__ = ["open_live", "open_source", "parse_source"]

_FORMS = "a path, https://…, feed:https://…, sitemap:https://…, 'sql:URL SELECT …', live:https://… or 'live:sql:URL SELECT …'"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)


def parse_source(text: str, assignments: Sequence[str] = ()) -> SourceSpec:
    """Returns the description of what a user wrote: a path, a URL, or one of the prefixes `feed:`, `sitemap:`, `sql:`, `live:`.

    A `https://` URL is a page, a sitemap or a feed: its bytes decide when it is read.

    Args:
        assignments: options as `name=value`.

    Raises:
        RefusedAddress: a URL holds credentials, or its scheme or host is no such thing.
        InvalidRequest: it is none of these, the path does not exist, or an option does not fit.
    """
    text = text.strip()
    options = read_assignments(assignments)
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    rest = text[len(scheme) + 1 :].strip()
    if scheme in ("http", "https"):
        return check_options(SourceSpec("url", _checked(text), options))
    if scheme in ("feed", "sitemap"):
        return check_options(SourceSpec(scheme, _web_address(rest, text), options))
    if scheme == "sql":
        return _sql("sql", rest, options)
    if scheme == "live" and rest.lower().startswith("sql:"):
        return _sql("live-sql", rest[4:].strip(), options)
    if scheme == "live":
        return check_options(SourceSpec("live-http", _web_address(rest, text), options))
    if scheme == "file":
        return _path(unquote(urlsplit(text).path), options)
    return _path(text, options)


def _web_address(rest: str, text: str) -> str:
    rest = f"https:{rest}" if rest.startswith("//") else rest  # feed://host/path
    if not rest.lower().startswith(("http://", "https://")):
        raise InvalidRequest(f"{text!r} is not a source", fix=f"write {_FORMS}")
    return _checked(rest)


def _checked(address: str) -> str:
    """Returns a URL of the web whose form the guard takes."""
    from deepwell.knowledge.sources.web.guard import Guard  # loads httpx, which a folder does not need

    Guard().check_url(address.replace("{question}", "x").replace("{limit}", "1"))
    return address


def _sql(kind: Kind, rest: str, options: dict[str, object]) -> SourceSpec:
    address, _, query = rest.partition(" ")
    query = query.strip() or str(options.get("query", ""))
    if "://" not in address or not query:
        raise InvalidRequest(
            "a source of SQL is a URL, a space, and a SELECT",
            fix="write 'sql:postgresql://user:${PGPASSWORD}@host/name SELECT id, title, body FROM articles'",
        )
    if address.startswith("sqlite:///") and not address.startswith("sqlite:////"):
        # The directory of today is not that of the next start.
        address = f"sqlite:///{absolute(Path(address.removeprefix('sqlite:///')))}"
    return check_options(SourceSpec(kind, address, {**options, "query": query}))  # pyright: ignore[reportArgumentType]


def _path(text: str, options: dict[str, object]) -> SourceSpec:
    path = absolute(user_path(text))
    if not text or not path.exists():
        raise InvalidRequest(
            f"{text or 'nothing'} is neither a path that exists nor an address", fix=f"write {_FORMS}"
        )
    kind: Kind = "folder" if path.is_dir() else "file"
    return check_options(SourceSpec(kind, str(path), options))  # pyright: ignore[reportArgumentType]


def open_source(spec: SourceSpec, access: Access | None = None) -> Source:
    """Returns the source of a description. Nothing is read before its first scan.

    Raises:
        InvalidRequest: an option does not fit, a variable is not set, or the source is a live one.
        MissingDependency: a package of the extra `[knowledge]` is not installed.
    """
    access = access or Access()
    if spec.kind in ("folder", "file"):
        options = options_of(spec, FolderOptions)
        return Folder(Path(spec.address), options, max_bytes=access.max_bytes, single=spec.kind == "file")
    if spec.kind in ("url", "sitemap", "feed"):
        # Loaded when it is needed: a folder needs no HTTP.
        from deepwell.knowledge.sources.web.guard import Guard
        from deepwell.knowledge.sources.web.web import Web

        given = options_of(spec, OPTIONS[spec.kind])
        options = URLOptions(**{one.name: getattr(given, one.name) for one in fields(given)})
        headers = expand_headers(options.headers, access.environ)
        guard = Guard(access.allowed_hosts)
        address = expand(spec.address, access.environ)
        return Web(address, spec.kind, replace(options, headers=headers), guard, max_bytes=access.max_bytes)
    if spec.kind == "sql":
        from deepwell.knowledge.sources.database import QueryDatabase
        from deepwell.knowledge.sources.sql import SQL

        database = QueryDatabase(expand(spec.address, access.environ))
        return SQL(database, options_of(spec, SQLOptions), max_bytes=access.max_bytes)
    raise InvalidRequest(
        f"a source of kind {spec.kind} is not read ahead", fix="it is asked when somebody asks"
    )


def open_live(name: str, spec: SourceSpec, access: Access | None = None) -> LiveSource:
    """Returns the live source of a description.

    Args:
        name: its name, which its passages carry.

    Raises:
        InvalidRequest: an option does not fit, a variable is not set, or the source is no live one.
        RefusedAddress: its URL is not harmless.
        MissingDependency: the driver of its database is not installed.
    """
    access = access or Access()
    address = expand(spec.address, access.environ)
    if spec.kind == "live-http":
        from deepwell.knowledge.sources.live_http import LiveHTTP
        from deepwell.knowledge.sources.web.guard import Guard

        options = options_of(spec, LiveHTTPOptions)
        headers = expand_headers(options.headers, access.environ)
        options = replace(options, headers=headers, body=expand(options.body, access.environ))
        return LiveHTTP(name, address, options, Guard(access.allowed_hosts))
    if spec.kind == "live-sql":
        from deepwell.knowledge.sources.database import QueryDatabase
        from deepwell.knowledge.sources.live_sql import LiveSQL

        return LiveSQL(name, QueryDatabase(address), options_of(spec, LiveSQLOptions))
    raise InvalidRequest(f"a source of kind {spec.kind} is read ahead", fix="only live: sources are asked")

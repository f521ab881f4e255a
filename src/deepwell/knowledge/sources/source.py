"""`Source`: documents that come from outside, and what changed in them since they were last read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import quote

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.knowledge.documents import Attribute

__all__ = ["KINDS", "LIVE_KINDS", "Change", "Fetched", "Kind", "Source", "SourceSpec", "polled", "tracked"]

Kind = Literal["folder", "file", "url", "sitemap", "feed", "sql", "live-http", "live-sql"]

KINDS: tuple[Kind, ...] = ("folder", "file", "url", "sitemap", "feed", "sql", "live-http", "live-sql")
LIVE_KINDS: tuple[Kind, ...] = ("live-http", "live-sql")
"""Sources that are asked at query time and never ingested."""

Option = str | int | float | bool | list[str] | dict[str, str] | None
"""The JSON value of a source's option."""

_PASSWORD = re.compile(r"(?P<before>://[^/?#@\s:]*:)(?P<password>.*)(?=@)", re.DOTALL)
_SECRET = re.compile(
    r"(?P<before>[?&;](?:[\w.-]*[-_.])?(?:api[-_]?key|apikey|key|token|secret|password|passwd|pwd|sig|signature)=)"
    r"(?P<password>[^&#\s]*)",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"\$\{\w+\}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document as its source gave it, not parsed yet.

    Attributes:
        uri: address of the document, unique in its source and stable: `file:///srv/docs/a.md`, `https://example.com/a`.
        filename: name for people: the path below the folder, the address of a page, the title of a row.
        content: its bytes.
        version: token that is the same only while the document is the same; opaque outside its source.
        media_type: type that the source states, such as `text/html`; empty if it states none. A hint: the bytes decide.
        metadata: what the source says of it, such as `title`, `url`, `author`, `date`; attributes of the file.
    """

    uri: str
    filename: str
    content: bytes
    version: str
    media_type: str = ""
    metadata: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """One document of a source, compared with what is known of it.

    Attributes:
        kind: `added` and `changed` carry the document. `removed`: it is gone. `unchanged`: keep what there is. `failed`: it
            could not be read; what is known of it stays until the source says otherwise. `skipped`: it is not taken, and
            `reason` says why.
        uri: address of the document; of the source itself, where the whole source failed.
        version: the token to remember, of added, changed and unchanged documents. An unchanged document may have a new one.
        fetched: the document, of added and changed ones.
        error: why it failed.
        reason: why it was skipped.
    """

    kind: Literal["added", "changed", "removed", "unchanged", "failed", "skipped"]
    uri: str
    version: str = ""
    fetched: Fetched | None = None
    error: DeepwellError | None = None
    reason: str = ""

    @classmethod
    def of(cls, fetched: Fetched, known: Mapping[str, str]) -> Change:
        """Returns the change that a document means: `changed` if its address is known, else `added`."""
        kind = "changed" if fetched.uri in known else "added"
        return cls(kind, fetched.uri, version=fetched.version, fetched=fetched)

    @classmethod
    def failure(cls, uri: str, error: DeepwellError) -> Change:
        """Returns the change of a document that could not be read."""
        return cls("failed", uri, error=error)


class Source(Protocol):
    """Documents from outside.

    One document that cannot be read is a `failed` change; the others follow. A document is `removed` only when the source
    says so: a disk that is not mounted, a server that does not answer, or a list that was not read to its end remove nothing.
    """

    @property
    def uri(self) -> str:
        """The address of the source itself, without secrets."""
        ...

    def scan(self, known: Mapping[str, str]) -> AsyncGenerator[Change]:
        """Yields every document once, compared with the versions `known` by address.

        A consumer that stops early closes the generator (`contextlib.aclosing`).
        """
        ...

    def watch(self, known: Mapping[str, str]) -> AsyncGenerator[Change]:
        """Yields changes as they happen, without end, beginning with those since `known`; never `unchanged` ones.

        A failure or a skipped document is yielded once, and again only when it says something else.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """The description of a source, as it is stored.

    Attributes:
        kind: how it is read.
        address: path of a folder or file, URL of a page, feed, sitemap or endpoint, SQLAlchemy URL of a database. That of
            SQL and live sources may hold `${NAME}`: variables of the environment, read whenever the source is opened.
        options: JSON values by name; those of its kind, see `options.py`.
    """

    kind: Kind
    address: str
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        """True for a source that is asked at query time."""
        return self.kind in LIVE_KINDS

    def as_json(self) -> dict[str, Any]:
        """Returns the stored form. It holds what the user gave, a literal password too: never show it."""
        return {"kind": self.kind, "address": self.address, "options": dict(self.options)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SourceSpec:
        """Returns the description from its stored form.

        Raises:
            InvalidRequest: it is none.
        """
        kind, address, options = stored.get("kind"), stored.get("address"), stored.get("options", {})
        if kind not in KINDS or not isinstance(address, str) or not isinstance(options, dict):
            raise InvalidRequest(
                "this is not the description of a source", fix="a newer Deepwell may have stored it"
            )
        return cls(kind, address, options)

    def shown(self) -> dict[str, Any]:
        """Returns the form for people, logs and listings: passwords, tokens and values of headers are `***`."""
        options = {name: _masked(name, value) for name, value in self.options.items()}
        return {"kind": self.kind, "address": masked(self.address), "options": options}

    def __repr__(self) -> str:
        shown = self.shown()
        return f"SourceSpec({shown['kind']!r}, {shown['address']!r}, {shown['options']!r})"


def _masked(name: str, value: Option) -> Option:
    if name == "headers" and isinstance(value, dict):
        return {header: text if _REFERENCE.search(text) else "***" for header, text in value.items()}
    return value


def masked(address: str) -> str:
    """Returns an address with its password, and what looks like a key in its query, as `***`; `${NAME}` stays readable."""

    def hidden(match: re.Match[str]) -> str:
        secret = match["password"]
        return match["before"] + (secret if not secret or _REFERENCE.fullmatch(secret) else "***")

    return _SECRET.sub(hidden, _PASSWORD.sub(hidden, address))


def fragment(base: str, name: str) -> str:
    """Returns the address of a part of a source that has no address of its own."""
    return f"{base}#{quote(name, safe='')}"


async def tracked(
    changes: AsyncIterator[Change], known: dict[str, str], said: dict[tuple[str, str], str]
) -> AsyncGenerator[Change]:
    """Yields what is new in `changes`, and keeps `known` and `said` up to date for the next round.

    Args:
        known: versions by address; changed in place.
        said: the last complaint by kind and address; changed in place, so that none is repeated.
    """
    async for change in changes:
        if change.kind in ("failed", "skipped"):
            text = str(change.error) if change.error else change.reason
            if said.get((change.kind, change.uri)) == text:
                continue
            said[change.kind, change.uri] = text
        else:
            said.pop(("failed", change.uri), None)
            said.pop(("skipped", change.uri), None)
        if change.kind == "removed":
            known.pop(change.uri, None)
        elif change.kind in ("added", "changed", "unchanged"):
            known[change.uri] = change.version
        if change.kind != "unchanged":
            yield change


async def polled(source: Source, known: Mapping[str, str], every_s: float) -> AsyncGenerator[Change]:
    """Yields the changes of a source that is scanned again and again, `every_s` seconds after the end of the last scan."""
    versions, said = dict(known), dict[tuple[str, str], str]()
    while True:
        async for change in tracked(source.scan(dict(versions)), versions, said):
            yield change
        await asyncio.sleep(every_s)

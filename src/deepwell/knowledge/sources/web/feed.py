"""RSS and Atom feeds: their entries as documents. The bytes are fetched by us; feedparser only parses."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any
from xml.parsers import expat

from deepwell.errors import MissingDependency, SourceError
from deepwell.knowledge.documents import Attribute
from deepwell.knowledge.sources.source import Change, Fetched, fragment

__all__ = ["MAX_BYTES", "FeedEntry", "entry_change", "is_feed", "parse_feed"]

MAX_BYTES = 4 << 20
"""Largest feed, in bytes. feedparser takes 2 s for a hostile megabyte of escaped tags."""

_MAX_LOOSE_BYTES = 1 << 20  # of a feed that is not well-formed: its elements are not counted
_MOST_ELEMENTS = 100_000  # feedparser takes 20 us for each


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """An entry of a feed.

    Attributes:
        address: its link; an address below the feed, if it has none.
        title: its title as text.
        updated: the date of its last change, or of its publication, as it is written; empty if it has none.
        html: its text as HTML, made harmless by feedparser; the summary, if the feed has no more.
        is_whole: True if the feed has the whole text.
        has_link: True if `address` is a page of its own.
        metadata: title, author and date, as far as it has them.
    """

    address: str
    title: str
    updated: str
    html: str
    is_whole: bool
    has_link: bool
    metadata: Mapping[str, Attribute]


def is_feed(body: bytes) -> bool:
    """Returns True if bytes look like RSS or Atom."""
    start = body[:2_000].lower()
    if b"<html" in start or b"<!doctype html" in start:
        return False
    return b"<rss" in start or b"<feed" in start or b"<rdf:rdf" in start


def parse_feed(body: bytes, url: str, media_type: str = "") -> list[FeedEntry]:
    """Returns the entries of a feed, in its order, each address once.

    Args:
        url: address of the feed, for relative links.
        media_type: its Content-Type, whose charset counts.

    Raises:
        MissingDependency: feedparser is not installed.
        SourceError: it is no feed, declares entities, has too many elements, or is large and not well-formed.
    """
    try:
        import feedparser
    except ImportError:
        raise MissingDependency.of(
            "knowledge_extra_missing", feature="reading a feed", feature_zh="读取订阅源", package="feedparser"
        ) from None
    _require_harmless(body)
    headers = {"content-location": url, "content-type": media_type or "application/xml"}
    try:
        parsed: Any = feedparser.parse(io.BytesIO(body), response_headers=headers)
    except Exception as error:  # a third party's parser on a stranger's bytes
        raise SourceError(f"{url} cannot be parsed as a feed: {error}", fix="check the address") from None
    if not parsed.get("version") and not parsed.entries:
        reason = parsed.get("bozo_exception", "it has no entries")
        raise SourceError(f"{url} is no feed: {reason}", fix="check the address")
    entries = [_entry(raw, url) for raw in parsed.entries]
    return list({entry.address: entry for entry in reversed(entries)}.values())[::-1]


def _require_harmless(body: bytes) -> None:
    """Refuses entities, which let a small document grow without end, and feeds that would take long to parse."""

    def declared(*_declaration: Any) -> None:
        raise SourceError("the feed declares entities, which are not read", fix="remove its <!ENTITY>")

    elements = 0

    def count(*_element: Any) -> None:
        nonlocal elements
        elements += 1
        if elements > _MOST_ELEMENTS:
            raise SourceError(f"the feed has more than {_MOST_ELEMENTS} elements", fix="use a shorter feed")

    parser = expat.ParserCreate()
    parser.EntityDeclHandler = declared
    parser.StartElementHandler = count
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        if len(body) > _MAX_LOOSE_BYTES:
            raise SourceError(
                f"the feed is not well-formed ({error}), and larger than {_MAX_LOOSE_BYTES / 1e6:.1f} MB",
                fix="have it corrected",
            ) from None


def _entry(raw: Any, feed: str) -> FeedEntry:
    link = str(raw.get("link", ""))
    has_link = link.lower().startswith(("http://", "https://"))
    title = str(raw.get("title", ""))
    contents = [str(part.get("value", "")) for part in raw.get("content", [])]
    summary = str(raw.get("summary", ""))
    html = max(contents, key=len, default="") or summary
    updated = str(raw["updated"] if "updated" in raw else raw.get("published", ""))
    own = str(raw.get("id", "")) or title or hashlib.sha256(html.encode()).hexdigest()[:16]
    metadata: dict[str, Attribute] = {
        name: str(raw[key])
        for name, key in (("title", "title"), ("author", "author"), ("date", "published"))
        if raw.get(key)
    }
    return FeedEntry(
        address=link if has_link else fragment(feed, own),
        title=title,
        updated=updated,
        html=html,
        is_whole=bool(contents),
        has_link=has_link,
        metadata=metadata,
    )


def entry_change(entry: FeedEntry, known: Mapping[str, str]) -> Change:
    """Returns the change of an entry whose text is in the feed."""
    title = escape(entry.title)
    text = (
        f'<!DOCTYPE html><html><head><meta charset="utf-8"><title>{title}</title></head>'
        f"<body><article><h1>{title}</h1>\n{entry.html}\n</article></body></html>"
    )
    content = text.encode("utf-8", "replace")
    version = hashlib.sha256(content).hexdigest()
    if known.get(entry.address) == version:
        return Change("unchanged", entry.address, version=version)
    metadata = {**entry.metadata, "url": entry.address} if entry.has_link else entry.metadata
    media_type = "text/html; charset=utf-8"
    return Change.of(Fetched(entry.address, entry.address, content, version, media_type, metadata), known)

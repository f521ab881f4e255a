"""Sitemaps: lists of pages, plain, nested and compressed (sitemaps.org protocol 0.9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

from deepwell.errors import SourceError
from deepwell.knowledge.sources.web.fetch import gunzip

__all__ = ["Entry", "Listing", "is_sitemap", "parse_sitemap"]

MAX_BYTES = 50 << 20
"""Largest sitemap, decompressed: the limit of the protocol."""

_MOST_ENTRIES = 50_000  # the limit of the protocol
_LONGEST = 2_048  # of an address, by the protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A page of a sitemap, or a sitemap of an index.

    Attributes:
        address: its URL as it is written.
        modified: its `lastmod` as it is written; empty if it has none.
    """

    address: str
    modified: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A parsed sitemap.

    Attributes:
        is_index: True if the entries are sitemaps.
        complaint: reason for which entries are missing; empty if none are.
    """

    entries: tuple[Entry, ...]
    is_index: bool = False
    complaint: str = ""


def is_sitemap(body: bytes) -> bool:
    """Returns True if bytes look like a sitemap in XML, compressed or not."""
    if body.startswith(b"\x1f\x8b"):
        return True
    start = body[:2_000].lower()
    return b"<urlset" in start or b"<sitemapindex" in start


def parse_sitemap(body: bytes) -> Listing:
    """Returns the entries of a sitemap: XML, one address a line, either of them in gzip.

    Raises:
        SourceError: it is neither, it declares a document type, or it is too large.
    """
    if body.startswith(b"\x1f\x8b"):
        body = gunzip(body, MAX_BYTES)
    text = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text.startswith(b"<"):
        lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
        found = tuple(Entry(line) for line in lines if line.lower().startswith(("http://", "https://")))
        if not found:
            raise SourceError(
                "this is no sitemap: neither XML nor a list of addresses", fix="check the address"
            )
        return Listing(found[:_MOST_ENTRIES], complaint=_too_many(len(found)))
    return _Reader().read(text)


def _too_many(count: int) -> str:
    return f"the sitemap has more than {_MOST_ENTRIES} entries" if count > _MOST_ENTRIES else ""


class _Reader:
    """Collects `loc` and `lastmod` while expat reads."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._root = ""
        self._path: list[str] = []
        self._text = ""
        self._fields: dict[str, str] = {}
        self._dropped = 0
        self._count = 0

    def read(self, text: bytes) -> Listing:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        complaint = ""
        try:
            parser.Parse(text, True)
        except expat.ExpatError as error:
            if self._root not in ("urlset", "sitemapindex") or not self._entries:
                raise SourceError(f"this is no sitemap: {error}", fix="check the address") from None
            complaint = f"the sitemap breaks off: {error}"
        if self._root not in ("urlset", "sitemapindex"):
            raise SourceError(f"this is no sitemap, its root is <{self._root[:40]}>", fix="check the address")
        complaint = complaint or _too_many(self._count)
        if self._dropped and not complaint:
            complaint = f"{self._dropped} addresses of the sitemap are longer than {_LONGEST} characters"
        return Listing(tuple(self._entries), is_index=self._root == "sitemapindex", complaint=complaint)

    def _doctype(self, *_declared: Any) -> None:
        # Entities are how a small document grows without end; no sitemap needs them.
        raise SourceError(
            "the sitemap declares a document type, which is not read", fix="remove its <!DOCTYPE>"
        )

    def _start(self, name: str, _attributes: Any) -> None:
        name = name.rpartition(" ")[2]
        if not self._path:
            self._root = name
        self._path.append(name)
        self._text = ""
        if len(self._path) == 2:
            self._fields = {}

    def _end(self, _name: str) -> None:
        name = self._path.pop()
        if len(self._path) == 2 and name in ("loc", "lastmod"):
            self._fields[name] = self._text.strip()
        elif len(self._path) == 1 and name in ("url", "sitemap") and self._fields.get("loc"):
            self._count += 1
            if len(self._fields["loc"]) > _LONGEST:
                self._dropped += 1
            elif self._count <= _MOST_ENTRIES:
                self._entries.append(Entry(self._fields["loc"], self._fields.get("lastmod", "")[:64]))

    def _characters(self, text: str) -> None:
        if len(self._path) == 3 and len(self._text) <= _LONGEST:
            self._text += text

"""`Web`: a page, the pages of a sitemap, or the entries of a feed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from deepwell.errors import SourceError
from deepwell.knowledge.sources.options import URLOptions
from deepwell.knowledge.sources.patterns import Patterns
from deepwell.knowledge.sources.source import Change, masked, polled
from deepwell.knowledge.sources.web.feed import MAX_BYTES as MAX_FEED_BYTES
from deepwell.knowledge.sources.web.feed import entry_change, is_feed, parse_feed
from deepwell.knowledge.sources.web.fetch import Answer, Fetcher, Forbidden, Manners, Version
from deepwell.knowledge.sources.web.guard import Guard
from deepwell.knowledge.sources.web.pages import Link, change_of, read_pages
from deepwell.knowledge.sources.web.sitemap import MAX_BYTES as MAX_SITEMAP_BYTES
from deepwell.knowledge.sources.web.sitemap import is_sitemap, parse_sitemap

__all__ = ["Web"]

_MOST_SITEMAPS = 500
_MOST_LINKS = 200_000  # that are held in memory
_MOST_HOSTS = 20  # that are named
_DEEPEST = 3  # levels of sitemap indexes
_MAX_KEPT_BYTES = 1 << 20  # of a list that is kept, so that an unchanged one need not come again


@dataclass(slots=True)
class _Pages:
    """The pages that sitemaps list.

    Attributes:
        elsewhere: numbers of pages by other host, which are not taken.
        problems: failures by address of a sitemap. With any, the list is not whole, and nothing is removed.
    """

    links: dict[str, Link] = field(default_factory=dict)
    elsewhere: dict[str, int] = field(default_factory=dict)
    problems: dict[str, SourceError] = field(default_factory=dict)


class Web:
    """An address of the web. Its bytes decide whether it is a page, a sitemap or a feed, unless `kind` says so.

    Args:
        address: URL.
        options: manners, limits and patterns; those of the other kinds are not used.
        guard: decides which addresses may be reached.
        max_bytes: largest document.
        manners: waits between requests.
    """

    def __init__(
        self,
        address: str,
        kind: Literal["url", "sitemap", "feed"],
        options: URLOptions,
        guard: Guard,
        *,
        max_bytes: int,
        manners: Manners | None = None,
    ) -> None:
        guard.check_url(address)
        self.uri = masked(address)
        self._address = address
        self._kind = kind
        self._options = options
        self._fetcher = Fetcher(guard, options, max_bytes=max_bytes, home=address, manners=manners)
        self._kept: dict[str, Answer] = {}
        self._include, self._exclude = Patterns(options.include), Patterns(options.exclude)

    async def scan(self, known: Mapping[str, str]) -> AsyncGenerator[Change]:
        """Yields every page or entry once; see `Source`."""
        async with self._fetcher as fetcher:
            try:
                answer = await self._first(fetcher, known)
            except Forbidden as error:
                yield Change("skipped", self._address, reason=str(error))
                return
            except SourceError as error:
                yield Change.failure(self._address, error)
                return
            if self._is_feed(answer):
                changes = self._entries(fetcher, answer, known)
            elif self._is_sitemap(answer):
                changes = self._pages(fetcher, answer, known)
            else:
                yield change_of(answer, Link(self._address), known)
                return
            async for change in changes:
                yield change

    def watch(self, known: Mapping[str, str]) -> AsyncGenerator[Change]:
        """Yields changes as scans every `every_s` seconds find them; see `Source`."""
        return polled(self, known, self._options.every_s)

    async def _first(self, fetcher: Fetcher, known: Mapping[str, str]) -> Answer:
        """Returns the answer of the address itself."""
        if self._kind == "url" and self._address not in self._kept and self._address in known:
            return await self._conditional(fetcher, known)
        answer = await self._list(fetcher, self._address)
        if answer.is_gone and self._kind != "url":
            raise SourceError(f"{self.uri} answers {answer.status}", fix="check the address")
        return answer

    async def _conditional(self, fetcher: Fetcher, known: Mapping[str, str]) -> Answer:
        return await fetcher.get(self._address, Version.parse(known[self._address]))

    async def _list(self, fetcher: Fetcher, address: str) -> Answer:
        """Returns a feed or a sitemap. One that did not change comes from memory."""
        kept = self._kept.get(address)
        max_bytes = MAX_FEED_BYTES if self._kind == "feed" else None
        if self._kind == "sitemap":
            max_bytes = MAX_SITEMAP_BYTES
        answer = await fetcher.get(address, kept.version if kept else None, max_bytes=max_bytes)
        if kept and answer.status == 304:
            return kept
        self._kept.pop(address, None)
        validators = answer.version.etag or answer.version.modified
        is_list = is_feed(answer.body) or is_sitemap(answer.body)
        if (
            validators
            and is_list
            and len(answer.body) <= _MAX_KEPT_BYTES
            and len(self._kept) < _MOST_SITEMAPS
        ):
            self._kept[address] = answer
        return answer

    def _is_feed(self, answer: Answer) -> bool:
        return self._kind == "feed" or (self._kind == "url" and answer.status == 200 and is_feed(answer.body))

    def _is_sitemap(self, answer: Answer) -> bool:
        if self._kind == "sitemap":
            return True
        path = urlsplit(answer.final_url).path
        compressed = answer.body.startswith(b"\x1f\x8b")
        is_list = is_sitemap(answer.body) and (not compressed or path.endswith(".xml.gz"))
        return self._kind == "url" and answer.status == 200 and is_list

    async def _entries(
        self, fetcher: Fetcher, answer: Answer, known: Mapping[str, str]
    ) -> AsyncGenerator[Change]:
        """Yields the entries of a feed."""
        try:
            found = await asyncio.to_thread(parse_feed, answer.body, answer.final_url, answer.media_type)
        except SourceError as error:
            yield Change.failure(self._address, error)
            return
        entries = found[: self._options.max_entries]
        if len(found) > len(entries):
            yield Change("skipped", self._address, reason=_left_out(len(found) - len(entries), "max_entries"))
        wanted = self._options.content
        links: list[Link] = []
        for entry in entries:
            if entry.has_link and (wanted == "page" or (wanted == "auto" and not entry.is_whole)):
                links.append(Link(entry.address, entry.updated, trusted=True, metadata=entry.metadata))
            elif entry.html or entry.title:
                yield entry_change(entry, known)
            else:
                yield Change("skipped", entry.address, reason="an entry without a text")
        async for change in read_pages(fetcher, links, known, self.uri):
            yield change
        if self._options.mirror and len(found) == len(entries):
            listed = {entry.address for entry in entries}
            for uri in [uri for uri in known if uri not in listed]:
                yield Change("removed", uri)

    async def _pages(
        self, fetcher: Fetcher, answer: Answer, known: Mapping[str, str]
    ) -> AsyncGenerator[Change]:
        """Yields the pages of a sitemap, and of the sitemaps that it lists."""
        pages = await self._collect(fetcher, answer)
        for host, count in pages.elsewhere.items():
            reason = f"{count} pages of another host; other_hosts=true takes them"
            yield Change("skipped", host, reason=reason)
        for address, error in pages.problems.items():
            yield Change.failure(address, error)
        links = list(pages.links.values())
        if len(links) > self._options.max_pages:
            reason = _left_out(len(links) - self._options.max_pages, "max_pages")
            yield Change("skipped", self._address, reason=reason)
        async for change in read_pages(fetcher, links[: self._options.max_pages], known, self.uri):
            yield change
        if not pages.problems:
            for uri in [uri for uri in known if uri not in pages.links]:
                yield Change("removed", uri)

    async def _collect(self, fetcher: Fetcher, answer: Answer) -> _Pages:
        pages = _Pages()
        hosts = {_host(self._address), _host(answer.final_url)}
        todo: list[tuple[Answer | str, int]] = [(answer, 1)]
        seen = {self._address}
        while todo:
            one, level = todo.pop(0)
            address = one if isinstance(one, str) else self._address
            try:
                if isinstance(one, str):
                    one = await self._list(fetcher, one)
                if one.is_gone:
                    raise SourceError(
                        f"{address} answers {one.status}", fix="correct the sitemap that lists it"
                    )
                listing = await asyncio.to_thread(parse_sitemap, one.body)
            except SourceError as error:
                pages.problems[address] = error
                continue
            if listing.complaint:
                pages.problems[address] = SourceError(listing.complaint, fix="split the sitemap")
            for entry in listing.entries:
                if not self._options.other_hosts and _host(entry.address) not in hosts:
                    parts = _parts(entry.address)
                    origin = f"{parts.scheme}://{parts.netloc}"
                    if len(pages.elsewhere) >= _MOST_HOSTS and origin not in pages.elsewhere:
                        origin = "other hosts"
                    pages.elsewhere[origin] = pages.elsewhere.get(origin, 0) + 1
                elif not listing.is_index:
                    self._add(pages, entry.address, entry.modified)
                elif entry.address in seen:
                    continue
                elif level >= _DEEPEST or len(seen) >= _MOST_SITEMAPS:
                    limit = f"at most {_MOST_SITEMAPS} sitemaps in {_DEEPEST} levels are read"
                    pages.problems[self._address] = SourceError(
                        limit, fix="add the parts as sources of their own"
                    )
                else:
                    seen.add(entry.address)
                    todo.append((entry.address, level + 1))
            if todo and len(pages.links) > max(_MOST_LINKS, self._options.max_pages):
                much = (
                    f"the sitemaps list more than {len(pages.links)} pages; {len(todo)} of them were not read"
                )
                pages.problems[self._address] = SourceError(much, fix="add the parts as sources of their own")
                break
        return pages

    def _add(self, pages: _Pages, address: str, modified: str) -> None:
        path = _parts(address).path.lstrip("/")
        if self._exclude.fit(path) or (self._include and not self._include.fit(path)):
            return
        metadata = {"date": modified} if modified else {}
        link = Link(address, modified, trusted=self._options.trust_lastmod, metadata=metadata)
        pages.links.setdefault(address, link)


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _host(address: str) -> str:
    """Returns the host of an address, without `www.` in front."""
    return (_parts(address).hostname or "").removeprefix("www.")


def _left_out(count: int, option: str) -> str:
    return f"{count} more were left out: raise {option}"

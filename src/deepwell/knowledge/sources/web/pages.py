"""One page of the web as a change of a source: asked for conditionally, compared, named."""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, replace

from deepwell.errors import SourceError
from deepwell.knowledge.documents import Attribute
from deepwell.knowledge.sources.source import Change, Fetched
from deepwell.knowledge.sources.web.fetch import Answer, Fetcher, Forbidden, Version

__all__ = ["Link", "change_of", "read_page", "read_pages"]

_MOST_FAILURES = 20  # in a row: then the site is down, and the rest would only wait


@dataclass(frozen=True, slots=True)
class Link:
    """A page that a list names.

    Attributes:
        address: its URL, which is the address of the document.
        listed: the list's word for its version, such as `lastmod`; a page whose word is the same is not asked for again,
            if `trusted`.
        metadata: what the list says of it.
    """

    address: str
    listed: str = ""
    trusted: bool = False
    metadata: Mapping[str, Attribute] | None = None


async def read_page(fetcher: Fetcher, link: Link, known: Mapping[str, str]) -> Change:
    """Returns the change of one page. A failure is a change too."""
    address = link.address
    before = Version.parse(known.get(address, ""))
    if link.trusted and link.listed and before.listed == link.listed:
        return Change("unchanged", address, version=known[address])
    try:
        answer = await fetcher.get(address, before if before.digest else None)
    except Forbidden as error:
        return Change("skipped", address, reason=str(error))
    except SourceError as error:
        return Change.failure(address, error)
    return change_of(answer, link, known)


def change_of(answer: Answer, link: Link, known: Mapping[str, str]) -> Change:
    """Returns the change that a server's answer means."""
    address = link.address
    before = Version.parse(known.get(address, ""))
    if answer.status == 304:
        return Change("unchanged", address, version=str(replace(before, listed=link.listed)))
    if answer.is_gone:
        if address in known:
            return Change("removed", address)
        return Change.failure(
            address, SourceError(f"{address} answers {answer.status}", fix="check the address")
        )
    version = str(replace(answer.version, listed=link.listed))
    if before.digest and before.digest == answer.version.digest:
        return Change("unchanged", address, version=version)
    metadata: dict[str, Attribute] = {"url": answer.final_url, **(link.metadata or {})}
    content = in_utf8(answer.body, answer.media_type)
    return Change.of(Fetched(address, address, content, version, answer.media_type, metadata), known)


async def read_pages(
    fetcher: Fetcher, links: Iterable[Link], known: Mapping[str, str], source: str
) -> AsyncGenerator[Change]:
    """Yields the changes of pages, one after the other. After 20 failures in a row the rest is given up, and said."""
    failures = 0
    todo = list(links)
    for number, link in enumerate(todo):
        change = await read_page(fetcher, link, known)
        failures = failures + 1 if change.kind == "failed" else 0
        yield change
        if failures >= _MOST_FAILURES and number + 1 < len(todo):
            yield Change.failure(
                source,
                SourceError(
                    f"{failures} pages failed in a row, {len(todo) - number - 1} more of {source} were not tried",
                    fix="see why the last one failed; the next look tries again",
                ),
            )
            return


_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def in_utf8(body: bytes, media_type: str) -> bytes:
    """Returns a text whose header names another encoding in UTF-8, with a mark that says so; anything else as it is.

    The header goes before what a page says of itself (WHATWG HTML, section 13.2.3), and is lost once the page is stored.
    """
    found = _CHARSET.search(media_type)
    if found is None or not media_type.lower().startswith("text/") or body.startswith(_BOMS):
        return body
    try:
        name = codecs.lookup(found[1]).name
        if name in ("utf-8", "ascii"):
            return body
        # Of the names that mean Windows encodings on the web, these two are common.
        name = {"iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}.get(name, name)
        return codecs.BOM_UTF8 + body.decode(name).encode()
    except (LookupError, UnicodeError):
        return body

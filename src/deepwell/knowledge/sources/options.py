"""The options of each kind of source, and the settings of the installation that every source obeys."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from deepwell.errors import InvalidRequest
from deepwell.knowledge.sources.source import Kind, SourceSpec
from deepwell.messages import nearest

__all__ = [
    "Access",
    "FeedOptions",
    "FolderOptions",
    "LiveHTTPOptions",
    "LiveSQLOptions",
    "PageOptions",
    "SQLOptions",
    "SitemapOptions",
    "check_options",
    "expand",
    "expand_headers",
    "options_of",
    "read_assignments",
]

T = TypeVar("T")

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Access:
    """The settings of the installation that limit what a source may reach.

    Attributes:
        allowed_hosts: host names (`wiki.internal`, `*.corp.example`), addresses and networks (`10.1.0.0/16`) of private
            space that sources may reach. Public addresses need no entry.
        max_bytes: largest document, in bytes.
        environ: the variables that `${NAME}` refers to.
    """

    allowed_hosts: tuple[str, ...] = ()
    max_bytes: int = 512 * MEBIBYTE
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Listed = Annotated[list[str], BeforeValidator(_listed)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """Options of a folder.

    Attributes:
        include: patterns of files to take, such as `*.md,guides/**/*.pdf`; all if empty.
        exclude: patterns of files and folders to leave out.
        settle_s: seconds that a file must rest before it is read.
        rescan_s: seconds between complete scans while it is watched: the net below lost events.
    """

    include: Listed = field(default_factory=list)
    exclude: Listed = field(default_factory=list)
    settle_s: Seconds = 0.1
    rescan_s: Seconds = 60.0


@dataclass(frozen=True)
class PageOptions:
    """Options of everything that is read from the web.

    Attributes:
        every_s: seconds between scans while it is watched.
        robots: False reads pages that robots.txt forbids; for sites of one's own.
        delay_s: least seconds between two requests to one host.
        timeout_s: seconds for one document, from the connection to the last byte.
        headers: headers of every request to the host of the address; values may hold `${NAME}`.
    """

    every_s: Seconds = 900.0
    robots: bool = True
    delay_s: Annotated[float, Field(ge=0, le=60)] = 0.25
    timeout_s: Seconds = 30.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SitemapOptions(PageOptions):
    """Options of a sitemap.

    Attributes:
        include: patterns of paths to take, such as `/docs/**`; all if empty.
        exclude: patterns of paths to leave out.
        max_pages: most pages. A sitemap with more says so.
        other_hosts: True takes pages of other hosts too.
        trust_lastmod: True does not ask for a page whose `lastmod` is as it was.
    """

    include: Listed = field(default_factory=list)
    exclude: Listed = field(default_factory=list)
    max_pages: Count = 10_000
    other_hosts: bool = False
    trust_lastmod: bool = False


@dataclass(frozen=True)
class FeedOptions(PageOptions):
    """Options of a feed.

    Attributes:
        content: `entry` takes the text in the feed, `page` reads the page that an entry links to, `auto` the text where the
            feed has it in full, else the page.
        mirror: True removes entries that are no longer in the feed. They stay by default: feeds list the latest ones only.
        max_entries: most entries of one reading.
    """

    content: Literal["auto", "entry", "page"] = "auto"
    mirror: bool = False
    max_entries: Count = 1_000


@dataclass(frozen=True, slots=True)
class SQLOptions:
    """Options of a query whose rows are documents.

    Attributes:
        query: one SELECT.
        id: column that names a row for good. Without one, a row is named by its contents.
        title: column of the title.
        text: columns of the text, in order; without them all that are not id, title or attributes.
        attributes: columns that become attributes of the file, to filter by.
        format: `lines` writes `column: value`, one a line; `jsonl` one JSON object. One text column alone is taken as it is.
        every_s: seconds between scans while it is watched.
        timeout_s: seconds for the query.
        max_rows: most rows. A query with more says so, and removes nothing.
    """

    query: str
    id: str = ""
    title: str = ""
    text: Listed = field(default_factory=list)
    attributes: Listed = field(default_factory=list)
    format: Literal["lines", "jsonl"] = "lines"
    every_s: Seconds = 300.0
    timeout_s: Seconds = 60.0
    max_rows: Count = 100_000


@dataclass(frozen=True, slots=True)
class LiveHTTPOptions:
    """Options of an endpoint that is asked at query time.

    Attributes:
        body: JSON that is sent by POST, as text; `{question}` and `{limit}` in its strings are replaced. Without it: GET.
        headers: headers; values may hold `${NAME}`.
        name: its name in passages and errors; the id of the source, if it is empty.
        list: JSON pointer of the list of results; empty: the answer is the list.
        text: JSON pointer of the text in one result.
        title, link, score: JSON pointers of what else a result has; empty if it has none.
        timeout_s: seconds for the whole answer.
        max_bytes: largest answer.
        max_chars: most characters of one passage. A longer one is cut and carries `truncated`.
    """

    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    list: str = ""
    text: str = "/text"
    title: str = ""
    link: str = ""
    score: str = ""
    timeout_s: Seconds = 5.0
    max_bytes: Count = 4 * MEBIBYTE
    max_chars: Count = 8_000


@dataclass(frozen=True, slots=True)
class LiveSQLOptions:
    """Options of a query that is run at query time.

    Attributes:
        query: one SELECT. It may use `:question`, `:terms`, `:term_1` to `:term_8` and `:limit`, all bound.
        name: its name in passages and errors; the id of the source, if it is empty.
        text: column of the text; the others below likewise, empty if there is none.
        timeout_s: seconds for the query.
        max_bytes: most bytes of text of all rows.
        max_chars: most characters of one passage. A longer one is cut and carries `truncated`.
    """

    query: str
    name: str = ""
    text: str = "text"
    title: str = "title"
    link: str = "link"
    score: str = "score"
    timeout_s: Seconds = 5.0
    max_bytes: Count = 4 * MEBIBYTE
    max_chars: Count = 8_000


Options = (
    FolderOptions | PageOptions | SitemapOptions | FeedOptions | SQLOptions | LiveHTTPOptions | LiveSQLOptions
)


@dataclass(frozen=True)
class URLOptions(SitemapOptions, FeedOptions):
    """Options of a URL that may turn out to be a page, a sitemap or a feed."""


OPTIONS: Mapping[Kind, type[Any]] = {
    "folder": FolderOptions,
    "file": FolderOptions,
    "url": URLOptions,
    "sitemap": SitemapOptions,
    "feed": FeedOptions,
    "sql": SQLOptions,
    "live-http": LiveHTTPOptions,
    "live-sql": LiveSQLOptions,
}


def options_of(spec: SourceSpec, kind: type[T]) -> T:
    """Returns the options of a description, checked and with defaults.

    Raises:
        InvalidRequest: there is no such option, or its value does not fit.
    """
    names = [one.name for one in fields(kind)]  # pyright: ignore[reportArgumentType]
    for name in spec.options:
        if name not in names:
            right = nearest(name, names)
            fix = f"did you mean {right}?" if right else f"use one of {', '.join(names)}"
            raise InvalidRequest(f"a source of kind {spec.kind} has no option {name!r}", fix=fix)
    try:
        return TypeAdapter(kind).validate_python(dict(spec.options))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(problem["loc"][0]) if problem["loc"] else "options"
        raise InvalidRequest(
            f"option {name} of the source does not fit: {problem['msg'].lower()}",
            fix=f"the options of kind {spec.kind} are {', '.join(names)}",
        ) from None


def check_options(spec: SourceSpec) -> SourceSpec:
    """Returns the description as it is, once its options are checked."""
    options_of(spec, OPTIONS[spec.kind])
    return spec


def read_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Returns options from `name=value` texts. A header is written `headers.NAME=value`.

    Raises:
        InvalidRequest: one is not of that form.
    """
    options: dict[str, Any] = {}
    for one in assignments:
        name, equals, value = one.partition("=")
        name = name.strip().replace("-", "_") if not name.startswith("headers.") else name.strip()
        if not equals or not name:
            raise InvalidRequest("an option of a source is written name=value", fix="such as every_s=600")
        if name.startswith("headers."):
            options.setdefault("headers", {})[name.removeprefix("headers.")] = value
        else:
            options[name] = value
    return options


_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_REFERENCE = re.compile(r"\$\{(\w+)\}")


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Returns a text with the variables that its `${NAME}` refer to.

    Raises:
        InvalidRequest: a variable is not set. The message names it and repeats nothing else.
    """

    def value(match: re.Match[str]) -> str:
        found = environ.get(match[1])
        if found is None:
            raise InvalidRequest(
                f"the source refers to ${{{match[1]}}}, which is not set", fix=f"export {match[1]}=..."
            )
        return found

    return _REFERENCE.sub(value, text)


def expand_headers(headers: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Returns headers with their variables replaced, without space around the values.

    Raises:
        InvalidRequest: a variable is not set, or a value cannot be a header. The value is not repeated: it may be a secret.
    """
    expanded = {name: expand(value, environ).strip() for name, value in headers.items()}
    for name, value in expanded.items():
        if not _HEADER.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise InvalidRequest(
                f"the header {name[:80]!r} of the source has a name or a value that HTTP does not take",
                fix="use one line of ASCII",
            )
    return expanded

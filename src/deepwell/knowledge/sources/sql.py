"""`SQL`: the rows of a query as documents."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import IO, Any

from deepwell.errors import SourceError
from deepwell.knowledge.documents import Attribute
from deepwell.knowledge.sources.database import QueryDatabase, Rows, check_query
from deepwell.knowledge.sources.options import SQLOptions
from deepwell.knowledge.sources.source import Change, Fetched, fragment, polled

__all__ = ["SQL", "attribute", "plain"]

_SPOOLED_BYTES = 16 << 20  # rows that changed are kept in memory up to this, then on disk
_EXACT = 2**53  # whole numbers up to it are floats without loss
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class _Columns:
    """Positions of the columns of a query."""

    id: int | None
    title: int | None
    text: tuple[int, ...]
    attributes: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(slots=True)
class _Reading:
    """The outcome of one query.

    Attributes:
        unchanged: versions by address.
        changed: addresses with the length of their document in `spool`.
        complaints: reasons for rows or columns that were left out.
        failed: errors by address.
        is_whole: False if there were more rows than are read.
    """

    spool: IO[bytes]
    unchanged: dict[str, str] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    failed: dict[str, SourceError] = field(default_factory=dict)
    is_whole: bool = True

    def __contains__(self, uri: str) -> bool:
        return uri in self.unchanged or uri in self.changed or uri in self.failed


class SQL:
    """The rows of one SELECT, each a document.

    The query is read to its end first, so that its transaction is short; rows that changed wait in a temporary file.

    Args:
        database: the database.
        options: the query, and what its columns mean.
        max_bytes: largest document.

    Raises:
        InvalidRequest: the query does not only read.
    """

    def __init__(self, database: QueryDatabase, options: SQLOptions, *, max_bytes: int) -> None:
        self.uri = database.uri
        self._database = database
        self._query = check_query(options.query)
        self._options = options
        self._max_bytes = max_bytes

    async def scan(self, known: Mapping[str, str]) -> AsyncGenerator[Change]:
        """Yields every row once; see `Source`."""
        with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as spool:
            reading = _Reading(spool)
            try:
                await asyncio.to_thread(self._read, known, reading)
            except SourceError as error:
                yield Change.failure(self.uri, error)
                return
            if not reading.is_whole:
                yield Change.failure(self.uri, _too_many(self.uri, self._options.max_rows))
            for reason in reading.complaints[:1]:
                yield Change("skipped", self.uri, reason="; ".join([reason, *reading.complaints[1:]]))
            for uri, error in reading.failed.items():
                yield Change.failure(uri, error)
            for uri, version in reading.unchanged.items():
                yield Change("unchanged", uri, version=version)
            spool.seek(0)
            for uri, length in reading.changed.items():
                yield Change.of(_unpacked(uri, await asyncio.to_thread(spool.read, length)), known)
            if reading.is_whole:
                for uri in [uri for uri in known if uri not in reading]:
                    yield Change("removed", uri)

    def watch(self, known: Mapping[str, str]) -> AsyncGenerator[Change]:
        """Yields changes as queries every `every_s` seconds find them; see `Source`."""
        return polled(self, known, self._options.every_s)

    def _read(self, known: Mapping[str, str], reading: _Reading) -> None:
        """Runs the query and sorts its rows into `reading`. Blocks its thread."""
        try:
            self._sort(known, reading)
        finally:
            self._database.close()  # the next look may be hours away

    def _sort(self, known: Mapping[str, str], reading: _Reading) -> None:
        binary: set[str] = set()
        nameless = repeated = 0
        example = ""
        with self._database.query(self._query, self._options.timeout_s) as rows:
            columns = self._columns(rows)
            for number, row in enumerate(rows):
                if number >= self._options.max_rows:
                    reading.is_whole = False
                    break
                binary |= {
                    columns.names[at] for at in columns.text if isinstance(row[at], bytes | memoryview)
                }
                document = self._document(columns, row)
                if document is None:
                    nameless += 1
                elif document.uri in reading:
                    repeated += 1
                    example = example or document.filename
                elif len(document.content) > self._max_bytes:
                    reading.failed[document.uri] = _too_large(document, self._max_bytes)
                elif known.get(document.uri) == document.version:
                    reading.unchanged[document.uri] = document.version
                else:
                    packed = _packed(document)
                    reading.spool.write(packed)
                    reading.changed[document.uri] = len(packed)
        if binary:
            reading.complaints.append(f"columns without text are left out: {', '.join(sorted(binary))}")
        if nameless:
            reading.complaints.append(f"{nameless} rows have no {self._options.id}")
        if repeated:
            what = (
                f"the {self._options.id} of another row"
                if self._options.id
                else "the contents of another row"
            )
            reading.complaints.append(f"{repeated} rows have {what}, such as {example}")

    def _columns(self, rows: Rows) -> _Columns:
        names = rows.columns
        options = self._options

        def position(name: str) -> int:
            if name not in names:
                raise SourceError(
                    f"the query has no column {name}",
                    fix=f"it has {', '.join(names)}: correct the option or the query",
                )
            return names.index(name)

        id, title = (position(name) if name else None for name in (options.id, options.title))
        attributes = tuple(position(name) for name in options.attributes)
        text = tuple(position(name) for name in options.text)
        if not text:
            text = tuple(at for at in range(len(names)) if at not in (id, title, *attributes))
        if not text and title is None:
            raise SourceError(
                "the query has no column of text", fix="select one more, or name it: text=COLUMN"
            )
        return _Columns(id, title, text, attributes, tuple(names))

    def _document(self, columns: _Columns, row: Sequence[Any]) -> Fetched | None:
        """Returns the document of a row; None if the column of its id is empty."""
        title = plain(row[columns.title]) if columns.title is not None else ""
        values = {columns.names[at]: row[at] for at in columns.text if plain(row[at])}
        if self._options.format == "jsonl":
            head = {columns.names[columns.title]: title} if columns.title is not None and title else {}
            fields = {**head, **{name: attribute(value) for name, value in values.items()}}
            text, media_type, suffix = (
                json.dumps(fields, ensure_ascii=False) + "\n",
                "application/jsonl",
                ".jsonl",
            )
        else:
            alone = len(columns.text) == 1
            lines = [plain(value) if alone else f"{name}: {plain(value)}" for name, value in values.items()]
            body = "\n".join(lines)
            text, media_type, suffix = (
                (f"{title}\n\n{body}" if title else body),
                "text/plain; charset=utf-8",
                ".txt",
            )
        content = text.encode("utf-8", "replace")
        metadata: dict[str, Attribute] = {
            columns.names[at]: value for at in columns.attributes if (value := attribute(row[at])) is not None
        }
        if title:
            metadata.setdefault("title", title)
        said = json.dumps(metadata, sort_keys=True, ensure_ascii=True).encode()
        version = hashlib.sha256(hashlib.sha256(content).digest() + said).hexdigest()
        own = version[:16] if columns.id is None else plain(row[columns.id])
        if not own:
            return None
        name = re.sub(r"[\x00-\x1f\x7f/\\]+", " ", title or own).strip()[:_LONGEST_NAME] or own
        return Fetched(fragment(self.uri, own), name + suffix, content, version, media_type, metadata)


def plain(value: Any) -> str:
    """Returns a value of a database as text; nothing for NULL and for bytes."""
    if value is None or isinstance(value, bytes | memoryview | bytearray):
        return ""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def attribute(value: Any) -> Attribute | None:
    """Returns a value of a database as an attribute: a whole number beyond 2^53 is text. None for NULL and for bytes."""
    if isinstance(value, bool):
        return value
    number = float(value) if isinstance(value, Decimal) else value
    if isinstance(number, int | float) and abs(number) <= _EXACT:  # neither infinite nor no number
        return number
    return plain(value) or None


def _packed(document: Fetched) -> bytes:
    fields = [document.filename, document.version, document.media_type, dict(document.metadata)]
    return json.dumps([*fields, base64.b64encode(document.content).decode("ascii")]).encode()


def _unpacked(uri: str, packed: bytes) -> Fetched:
    filename, version, media_type, metadata, content = json.loads(packed)
    return Fetched(uri, filename, base64.b64decode(content), version, media_type, metadata)


def _too_many(uri: str, max_rows: int) -> SourceError:
    return SourceError(
        f"the query on {uri} has more than {max_rows} rows; the others were not read, and nothing is removed",
        fix="add a WHERE, or raise max_rows",
    )


def _too_large(document: Fetched, max_bytes: int) -> SourceError:
    size, most = len(document.content) / 1e6, max_bytes / 1e6
    return SourceError(
        f"{document.filename} has {size:.1f} MB, at most {most:.1f} MB are taken", fix="select less"
    )

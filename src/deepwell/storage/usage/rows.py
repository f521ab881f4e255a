"""`UsageStore`: requests with their tokens, sounds and images, added up by tenant, key, model and hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, Table, bindparam

from deepwell.storage.database import Database, Tenant
from deepwell.storage.tables import media_usage, usage

__all__ = ["HOUR_S", "MediaPlace", "MediaSource", "MediaUsage", "Usage", "UsagePlace", "UsageStore"]

HOUR_S = 3600

MediaSource = Literal[
    "audio.speech",
    "audio.transcription",
    "audio.translation",
    "image.generation",
    "image.edit",
    "image.variation",
]
"""Operations whose use is counted in sounds or images. Those of images have OpenAI's names."""


@dataclass(frozen=True, slots=True)
class UsagePlace:
    """The row that a request belongs to. `hour` is its first second, UTC; `key_id` is empty where the server has no keys."""

    tenant: Tenant
    hour: int
    key_id: str
    model: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests to a model and their tokens; `cached_tokens` are the part of the input that the prefix cache had."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class MediaPlace:
    """The row of a request for sound or images. `size` is that of the images; empty: it is about sound."""

    tenant: Tenant
    hour: int
    key_id: str
    model: str
    source: MediaSource
    size: str = ""


@dataclass(frozen=True, slots=True)
class MediaUsage:
    """Requests to a model with the characters that it read aloud, the sound that it made or recognised, and its images."""

    requests: int = 0
    characters: int = 0
    milliseconds: int = 0
    images: int = 0

    def __add__(self, other: MediaUsage) -> MediaUsage:
        return MediaUsage(
            self.requests + other.requests,
            self.characters + other.characters,
            self.milliseconds + other.milliseconds,
            self.images + other.images,
        )


class _Rows:
    """The statements of one table, whose rows have a place and counts."""

    def __init__(
        self, table: Table, place: type[UsagePlace | MediaPlace], count: type[Usage | MediaUsage]
    ) -> None:
        self.place, self.count = place, count
        self.places = [field.name for field in fields(place)]
        self.counts = [field.name for field in fields(count)]
        self._table = table
        self._add = (
            sa.update(table)
            .where(*(table.c[name] == bindparam(f"of_{name}") for name in self.places))
            .values({name: table.c[name] + bindparam(f"more_{name}") for name in self.counts})
        )
        self._insert = sa.insert(table).values(
            {name: bindparam(f"of_{name}") for name in self.places}
            | {name: bindparam(f"more_{name}") for name in self.counts}
        )

    def add(self, connection: Connection, counts: Mapping[Any, Any]) -> None:
        """Adds counts to their rows."""
        # In one order everywhere: two servers that lock the same rows otherwise might wait for each other.
        for place, count in sorted(counts.items(), key=lambda one: astuple(one[0])):
            values = {f"of_{name}": getattr(place, name) for name in self.places}
            values |= {f"more_{name}": getattr(count, name) for name in self.counts}
            # Another server that inserts the same row first fails this commit, which is then tried again.
            if not connection.execute(self._add, values).rowcount:
                connection.execute(self._insert, values)

    def between(self, connection: Connection, tenant: Tenant, start: int, end: int) -> list[tuple[Any, Any]]:
        """Returns a tenant's rows of the hours from `start` (included) to `end` (excluded)."""
        columns = self._table.c
        query = (
            sa.select(self._table)
            .where(columns.tenant == tenant, columns.hour >= start, columns.hour < end)
            .order_by(columns.hour, *(columns[name] for name in self.places[2:]))
        )
        return [
            (
                self.place(**{name: getattr(row, name) for name in self.places}),
                self.count(**{name: getattr(row, name) for name in self.counts}),
            )
            for row in connection.execute(query)
        ]


_TOKENS: Final = _Rows(usage, UsagePlace, Usage)
_MEDIA: Final = _Rows(media_usage, MediaPlace, MediaUsage)


class UsageStore:
    """Usage of all tenants. Several processes add to the same rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, counts: Mapping[UsagePlace, Usage], media: Mapping[MediaPlace, MediaUsage] | None = None
    ) -> None:
        """Adds counts to their rows, all in one commit."""

        def work(connection: Connection) -> None:
            _TOKENS.add(connection, counts)
            _MEDIA.add(connection, media or {})

        await self._database.write(work)

    async def between(self, tenant: Tenant, start: int, end: int) -> Sequence[tuple[UsagePlace, Usage]]:
        """Returns the tenant's rows of hours from `start` (included) to `end` (excluded), in order of time."""
        return await self._database.read(lambda connection: _TOKENS.between(connection, tenant, start, end))

    async def media_between(
        self, tenant: Tenant, start: int, end: int
    ) -> Sequence[tuple[MediaPlace, MediaUsage]]:
        """Returns the tenant's rows of sounds and images of hours from `start` (included) to `end` (excluded)."""
        return await self._database.read(lambda connection: _MEDIA.between(connection, tenant, start, end))

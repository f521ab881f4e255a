"""`UsageStore`: requests and tokens, added up by tenant, key, model and hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from deepwell.storage.database import Database, Tenant
from deepwell.storage.tables import usage

__all__ = ["HOUR_S", "Usage", "UsagePlace", "UsageStore"]

HOUR_S = 3600


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


class UsageStore:
    """Usage of all tenants. Several processes add to the same rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, counts: Mapping[UsagePlace, Usage]) -> None:
        """Adds counts to their rows, all in one commit."""
        # In one order everywhere: two servers that lock the same rows otherwise might wait for each other.
        rows = sorted(
            counts.items(), key=lambda one: (one[0].tenant, one[0].hour, one[0].key_id, one[0].model)
        )

        def work(connection: Connection) -> None:
            for place, count in rows:
                values = {f"of_{name}": getattr(place, name) for name in _PLACE}
                values |= {f"more_{name}": getattr(count, name) for name in _COUNTS}
                # Another server that inserts the same row first fails this commit, which is then tried again.
                if not connection.execute(_ADD, values).rowcount:
                    connection.execute(_INSERT, values)

        await self._database.write(work)

    async def between(self, tenant: Tenant, start: int, end: int) -> Sequence[tuple[UsagePlace, Usage]]:
        """Returns the tenant's rows of hours from `start` (included) to `end` (excluded), in order of time."""
        query = (
            sa.select(usage)
            .where(usage.c.tenant == tenant, usage.c.hour >= start, usage.c.hour < end)
            .order_by(usage.c.hour, usage.c.key_id, usage.c.model)
        )

        def work(connection: Connection) -> Sequence[tuple[UsagePlace, Usage]]:
            return [
                (
                    UsagePlace(Tenant(row.tenant), row.hour, row.key_id, row.model),
                    Usage(row.requests, row.input_tokens, row.output_tokens, row.cached_tokens),
                )
                for row in connection.execute(query)
            ]

        return await self._database.read(work)


_PLACE = ("tenant", "hour", "key_id", "model")
_COUNTS = ("requests", "input_tokens", "output_tokens", "cached_tokens")
_ADD = (
    sa.update(usage)
    .where(*(usage.c[name] == bindparam(f"of_{name}") for name in _PLACE))
    .values({name: usage.c[name] + bindparam(f"more_{name}") for name in _COUNTS})
)
_INSERT = sa.insert(usage).values(
    {name: bindparam(f"of_{name}") for name in _PLACE} | {name: bindparam(f"more_{name}") for name in _COUNTS}
)

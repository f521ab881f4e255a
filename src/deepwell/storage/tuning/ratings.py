"""Studies of ratings: pairs of answers of two models, and the votes of raters on them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import rating_pairs as pairs
from deepwell.storage.tables import rating_studies as studies
from deepwell.storage.tables import rating_votes as votes

__all__ = ["MAX_RATERS", "Choice", "NewPair", "RatingStore", "StoredPair", "StoredStudy", "StoredVote"]

Choice = Literal["first", "second", "tie"]

MAX_RATERS = 50  # of a study
_ROWS = 500  # of one statement


@dataclass(frozen=True, slots=True)
class NewPair:
    """A prompt, and the answers of the first and the second model."""

    prompt: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """A study. `first` and `second` are the names of its models."""

    id: str
    name: str
    file_id: str
    first: str
    second: str
    pairs: int
    created_at: int


@dataclass(frozen=True, slots=True)
class StoredPair:
    """A pair of a study; `position` is its place in the file, from 0."""

    position: int
    prompt: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class StoredVote:
    """The choice of a rater on a pair."""

    position: int
    rater: str
    choice: Choice


class RatingStore:
    """Studies by tenant and id, in order of creation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, tenant: Tenant, *, name: str, file_id: str, models: tuple[str, str], rows: Sequence[NewPair]
    ) -> StoredStudy:
        """Stores a study with its pairs; both are there, or neither."""
        found = StoredStudy(f"rate_{uuid.uuid4().hex}", name, file_id, *models, len(rows), int(shared_time()))

        def work(connection: Connection) -> None:
            values = {field: getattr(found, field) for field in StoredStudy.__dataclass_fields__}
            connection.execute(sa.insert(studies).values(tenant=tenant, **values))
            for start in range(0, len(rows), _ROWS):
                some = [
                    {
                        "tenant": tenant,
                        "study_id": found.id,
                        "position": position,
                        "prompt": one.prompt,
                        "first": one.first,
                        "second": one.second,
                    }
                    for position, one in enumerate(rows[start : start + _ROWS], start)
                ]
                connection.execute(sa.insert(pairs), some)

        await self._database.write(work)
        return found

    async def get(self, tenant: Tenant, id: str) -> StoredStudy:
        """Returns a study.

        Raises:
            NotFound: the tenant has none of this id.
        """
        return await self._database.read(lambda connection: _find(connection, tenant, id))

    async def list(self, tenant: Tenant, *, after: str | None, limit: int, order: Order) -> Page[StoredStudy]:
        """Returns one page of the tenant's studies.

        Raises:
            InvalidRequest: none of them has the id `after`.
        """
        query = sa.select(*_STUDY).where(studies.c.tenant == tenant)

        def work(connection: Connection) -> Page[StoredStudy]:
            page = page_of(
                connection, query, studies.c.seq, studies.c.id, after=after, limit=limit, order=order
            )
            return Page([StoredStudy(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes a study with its pairs and votes.

        Raises:
            NotFound: the tenant has none of this id.
        """

        def work(connection: Connection) -> None:
            _find(connection, tenant, id)
            for table in (votes, pairs):
                mine = (table.c.tenant == tenant) & (table.c.study_id == id)
                connection.execute(sa.delete(table).where(mine))
            connection.execute(sa.delete(studies).where(studies.c.tenant == tenant, studies.c.id == id))

        await self._database.free(work)

    async def pairs(
        self, tenant: Tenant, id: str, positions: Sequence[int] | None = None
    ) -> list[StoredPair]:
        """Returns pairs of a study in the order of `positions`; all of them in their own order if it is None."""
        query = sa.select(*_PAIR).where(pairs.c.tenant == tenant, pairs.c.study_id == id)
        if positions is not None:
            query = query.where(pairs.c.position.in_(positions))

        def work(connection: Connection) -> list[StoredPair]:
            rows = connection.execute(query.order_by(pairs.c.position)).all()
            found = {row.position: StoredPair(**row._mapping) for row in rows}
            return [found[one] for one in (found if positions is None else positions) if one in found]

        return await self._database.read(work)

    async def votes(self, tenant: Tenant, id: str, rater: str | None = None) -> list[StoredVote]:
        """Returns the votes of a study in their order, those of one rater if one is named."""
        query = sa.select(*_VOTE).where(votes.c.tenant == tenant, votes.c.study_id == id)
        if rater is not None:
            query = query.where(votes.c.rater == rater)
        query = query.order_by(votes.c.seq)
        return await self._database.read(
            lambda connection: [StoredVote(**row._mapping) for row in connection.execute(query)]
        )

    async def counts(self, tenant: Tenant, id: str) -> tuple[int, int]:
        """Returns the numbers of raters and of votes of a study, which may be hundreds of thousands."""
        query = sa.select(sa.func.count(votes.c.rater.distinct()), sa.func.count()).where(
            votes.c.tenant == tenant, votes.c.study_id == id
        )
        raters, count = await self._database.read(lambda connection: connection.execute(query).one())
        return raters, count

    async def vote(self, tenant: Tenant, id: str, vote: StoredVote) -> None:
        """Stores a vote; another one of the same rater on the pair is replaced.

        Raises:
            NotFound: the tenant has no such study.
            InvalidRequest: it has no such pair, or too many raters.
        """
        mine = (votes.c.tenant == tenant) & (votes.c.study_id == id)

        def work(connection: Connection) -> None:
            study = _find(connection, tenant, id)
            if vote.position >= study.pairs:
                raise InvalidRequest(
                    f"the study has {study.pairs} pairs and none at {vote.position}",
                    fix="send the index of a pair as the list of next pairs has it",
                    param="index",
                )
            raters = set(connection.scalars(sa.select(votes.c.rater).where(mine).distinct()))
            if vote.rater not in raters and len(raters) >= MAX_RATERS:
                raise InvalidRequest(
                    f"the study has {MAX_RATERS} raters", fix="rate under one of their names", param="rater"
                )
            again = mine & (votes.c.rater == vote.rater) & (votes.c.position == vote.position)
            connection.execute(sa.delete(votes).where(again))
            values = {field: getattr(vote, field) for field in StoredVote.__dataclass_fields__}
            connection.execute(
                sa.insert(votes).values(tenant=tenant, study_id=id, created_at=int(shared_time()), **values)
            )

        await self._database.write(work)

    async def undo(self, tenant: Tenant, id: str, rater: str) -> int | None:
        """Takes back the last vote of a rater and returns its position; None if there is none.

        Raises:
            NotFound: the tenant has no such study.
        """
        mine = (votes.c.tenant == tenant) & (votes.c.study_id == id) & (votes.c.rater == rater)

        def work(connection: Connection) -> int | None:
            _find(connection, tenant, id)
            query = sa.select(votes.c.seq, votes.c.position).where(mine).order_by(votes.c.seq.desc()).limit(1)
            last = connection.execute(query).one_or_none()
            if last is None:
                return None
            connection.execute(sa.delete(votes).where(votes.c.seq == last.seq))
            return int(last.position)

        return await self._database.write(work)


_STUDY = [studies.c[name] for name in StoredStudy.__dataclass_fields__]
_PAIR = [pairs.c[name] for name in StoredPair.__dataclass_fields__]
_VOTE = [votes.c[name] for name in StoredVote.__dataclass_fields__]


def _find(connection: Connection, tenant: Tenant, id: str) -> StoredStudy:
    query = sa.select(*_STUDY).where(studies.c.tenant == tenant, studies.c.id == id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"there is no study {id!r}", fix="list them with GET /v1/ratings/studies")
    return StoredStudy(**row._mapping)

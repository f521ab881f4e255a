"""Feedback: what people say of answers, for whoever improves the prompts, the knowledge or the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import DeepwellError, NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import feedback

__all__ = [
    "FEEDBACK_WINDOW_S",
    "FeedbackLimited",
    "FeedbackLimits",
    "FeedbackStore",
    "Rating",
    "StoredFeedback",
    "voter_of",
]

Rating = Literal["up", "down"]

FEEDBACK_WINDOW_S: Final = 86_400
"""Seconds that limits of ratings look back: a day."""

_ROWS: Final = 200  # of one read of a walk


class FeedbackLimited(DeepwellError):
    """Raised if a user, or a tenant, has rated as many answers within a day as the server takes."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class FeedbackLimits:
    """Most answers that may be rated within a day; 0: no limit.

    One who can rate any number of answers decides what a model learns from ratings, and fills the disk.
    """

    per_user: int = 0
    per_tenant: int = 0


@dataclass(frozen=True, slots=True)
class StoredFeedback:
    """One rating of an answer.

    Attributes:
        target_id: id of the answer, which need not be kept.
        created_at: time of the rating; a later rating by the same voter replaces the earlier one, its time too.
        messages: JSON of the conversation, the answer last, if the client sent it or consented to its use.
        end_user: the person whose conversation it was, as the request names one, so that it can be erased.
        correction: the answer that the person would have liked.
        consent: whether the rating and the conversation may be used to improve models.
        verified: whether the model, and the messages if there are any, are those of the kept answer, and not the client's word.
        voter: hash of who rated, from `voter_of`.
        source: `api`, or `import`.
        key_id: the API key of who rated; empty: there was none.
    """

    id: str
    target_id: str
    rating: Rating
    created_at: int
    reason: str | None = None
    model: str | None = None
    messages: str | None = None
    end_user: str | None = None
    correction: str | None = None
    consent: bool = False
    verified: bool = False
    voter: str = ""
    source: Literal["api", "import"] = "api"
    key_id: str = ""


_FIELDS = tuple(StoredFeedback.__dataclass_fields__)
_COLUMNS = [feedback.c[name] for name in _FIELDS]


def voter_of(end_user: str | None, key_id: str = "") -> str:
    """Returns the hash that stands for who rates: the person, if the request names one, else the key.

    Without either, all requests are those of one voter, who is whoever uses a server without keys.
    """
    name = f"key {key_id}" if end_user is None else f"user {end_user}"
    return sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


class FeedbackStore:
    """Ratings by tenant and id, in the order of their first arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(
        self, tenant: Tenant, given: StoredFeedback, limits: FeedbackLimits | None = None
    ) -> StoredFeedback:
        """Stores a rating, and returns it as it is stored.

        A voter has one rating of an answer: a later one replaces it, and takes its id and its place.

        Raises:
            FeedbackLimited: the voter, or the tenant, has rated too many other answers within a day.
        """
        [stored] = await self.put_all(tenant, [given], limits)
        return stored

    async def put_all(
        self, tenant: Tenant, given: list[StoredFeedback], limits: FeedbackLimits | None = None
    ) -> list[StoredFeedback]:
        """Stores several ratings in one commit, all or none, as `put` does."""
        return await self._database.write(
            lambda connection: [_put(connection, tenant, one, limits or FeedbackLimits()) for one in given]
        )

    async def list(
        self,
        tenant: Tenant,
        *,
        after: str | None,
        limit: int,
        order: Order,
        rating: Rating | None = None,
        consent: bool | None = None,
        target_id: str | None = None,
    ) -> Page[StoredFeedback]:
        """Returns one page of the tenant's ratings, of those that have the given values.

        Raises:
            InvalidRequest: none of them has the id `after`.
        """
        query = _chosen(tenant, rating, consent, target_id)

        def work(connection: Connection) -> Page[StoredFeedback]:
            page = page_of(
                connection, query, feedback.c.seq, feedback.c.id, after=after, limit=limit, order=order
            )
            return Page([StoredFeedback(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def walk(
        self, tenant: Tenant, *, rating: Rating | None = None, consent: bool | None = None
    ) -> AsyncGenerator[StoredFeedback]:
        """Yields all of the tenant's ratings that have the given values, the oldest place first, in small reads."""
        query = _chosen(tenant, rating, consent).add_columns(feedback.c.seq).order_by(feedback.c.seq)
        last = 0
        while True:
            behind = query.where(feedback.c.seq > last).limit(_ROWS)
            rows = await self._database.read(lambda connection, query=behind: connection.execute(query).all())
            for row in rows:
                yield StoredFeedback(**{name: getattr(row, name) for name in _FIELDS})
            if len(rows) < _ROWS:
                return
            last = rows[-1].seq

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes a rating.

        Raises:
            NotFound: the tenant has none of this id.
        """
        mine = (feedback.c.tenant == tenant) & (feedback.c.id == id)

        def work(connection: Connection) -> None:
            if not connection.execute(sa.delete(feedback).where(mine)).rowcount:
                raise NotFound(f"there is no feedback {id!r}", fix="list it with GET /v1/feedback")

        await self._database.free(work)


def _chosen(
    tenant: Tenant, rating: Rating | None = None, consent: bool | None = None, target_id: str | None = None
) -> sa.Select[*tuple[object, ...]]:
    query = sa.select(*_COLUMNS).where(feedback.c.tenant == tenant)
    for name, value in (("rating", rating), ("consent", consent), ("target_id", target_id)):
        if value is not None:
            query = query.where(feedback.c[name] == value)
    return query


def _put(
    connection: Connection, tenant: Tenant, given: StoredFeedback, limits: FeedbackLimits
) -> StoredFeedback:
    columns = feedback.c
    mine = (
        (columns.tenant == tenant) & (columns.target_id == given.target_id) & (columns.voter == given.voter)
    )
    before = connection.scalar(sa.select(columns.id).where(mine).with_for_update())
    if before is None:
        _require_room(connection, tenant, given, limits)
    values = {name: getattr(given, name) for name in _FIELDS}
    if before is None:
        # Another server that inserts the same vote first fails this commit, which is then tried again.
        connection.execute(sa.insert(feedback).values(tenant=tenant, **values))
        return given
    connection.execute(sa.update(feedback).where(mine).values(values | {"id": before}))
    return replace(given, id=before)


def _require_room(
    connection: Connection, tenant: Tenant, given: StoredFeedback, limits: FeedbackLimits
) -> None:
    """Checks the limits.

    Raises:
        FeedbackLimited: one is reached.
    """
    since = given.created_at - FEEDBACK_WINDOW_S
    recent = (feedback.c.tenant == tenant) & (feedback.c.created_at > since) & (feedback.c.source == "api")
    for whom, limit, mine in (
        ("user", limits.per_user, recent & (feedback.c.voter == given.voter)),
        ("tenant", limits.per_tenant, recent),
    ):
        if not limit:
            continue
        # The oldest of the newest `limit` has to be out of the window before there is room again.
        newest = sa.select(feedback.c.created_at).where(mine).order_by(feedback.c.created_at.desc())
        oldest = connection.scalar(newest.offset(limit - 1).limit(1))
        if oldest is not None:
            raise _limited(whom, limit, oldest - since)


def _limited(whom: str, limit: int, wait_s: int) -> FeedbackLimited:
    error = FeedbackLimited(
        f"this {whom} has rated {limit} answers within a day, which is the limit",
        fix=f"wait {wait_s} s, change an earlier rating, or raise feedback_per_{whom}",
    )
    error.retry_after = max(1, wait_s)
    return error

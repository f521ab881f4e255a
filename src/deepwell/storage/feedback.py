"""Feedback: what people say of answers, for whoever improves the prompts, the knowledge or the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import feedback

__all__ = ["FeedbackStore", "Rating", "StoredFeedback"]

Rating = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class StoredFeedback:
    """One rating of an answer.

    Attributes:
        target_id: id of the answer, which need not be kept.
        messages: JSON of the conversation, if the client sent it.
        end_user: the person whose conversation it was, as the request names one, so that it can be erased.
    """

    id: str
    target_id: str
    rating: Rating
    created_at: int
    reason: str | None = None
    model: str | None = None
    messages: str | None = None
    end_user: str | None = None


_COLUMNS = [feedback.c[name] for name in StoredFeedback.__dataclass_fields__]


class FeedbackStore:
    """Ratings by tenant and id, in order of arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant: Tenant, given: StoredFeedback) -> None:
        """Stores a rating."""
        values = {name: getattr(given, name) for name in StoredFeedback.__dataclass_fields__}
        await self._database.write(
            lambda connection: (
                connection.execute(sa.insert(feedback).values(tenant=tenant, **values)).rowcount
            )
        )

    async def list(
        self, tenant: Tenant, *, after: str | None, limit: int, order: Order, rating: Rating | None = None
    ) -> Page[StoredFeedback]:
        """Returns one page of the tenant's ratings.

        Raises:
            InvalidRequest: none of them has the id `after`.
        """
        query = sa.select(*_COLUMNS).where(feedback.c.tenant == tenant)
        if rating is not None:
            query = query.where(feedback.c.rating == rating)

        def work(connection: Connection) -> Page[StoredFeedback]:
            page = page_of(
                connection, query, feedback.c.seq, feedback.c.id, after=after, limit=limit, order=order
            )
            return Page([StoredFeedback(**row._mapping) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes a rating.

        Raises:
            NotFound: the tenant has none of this id.
        """
        mine = (feedback.c.tenant == tenant) & (feedback.c.id == id)

        def work(connection: Connection) -> None:
            if not connection.execute(sa.delete(feedback).where(mine)).rowcount:
                raise NotFound(f"there is no feedback {id!r}", fix="list it with GET /v1/feedback")

        await self._database.write(work)

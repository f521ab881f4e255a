"""Votes since a roll-out began, counted on the sides of their users."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.fleet.promotion.judge import Arms
from deepwell.fleet.promotion.sequential import Counts
from deepwell.storage.database import Database
from deepwell.storage.registry.split import identity_of, takes_candidate
from deepwell.storage.registry.story import Rollout
from deepwell.storage.tables import feedback

__all__ = ["Vote", "arms_of", "count_votes"]


async def arms_of(database: Database, rollout: Rollout) -> Arms:
    """Counts the votes for answers of an alias since its roll-out began, of the tenants whose votes decide about it."""
    columns = feedback.c
    query = (
        sa.select(columns.tenant, columns.end_user, columns.voter, columns.rating, columns.created_at)
        .where(columns.model == rollout.alias, columns.created_at * 1000 >= rollout.started_ms - 999)
        .order_by(columns.seq)
    )
    if rollout.tenants:
        query = query.where(columns.tenant.in_(rollout.tenants))

    def work(connection: Connection) -> Arms:
        rows = connection.execute(query)
        votes = (
            Vote(row.tenant, row.end_user or "", row.voter, row.rating == "up", row.created_at * 1000 + 999)
            for row in rows
        )
        return count_votes(votes, rollout)

    return await database.read(work)


class Vote(NamedTuple):
    """One vote: whose answer it was, who liked it or not, and when (Unix milliseconds)."""

    tenant: str
    end_user: str
    voter: str
    liked: bool
    at_ms: int


def count_votes(votes: Iterable[Vote], rollout: Rollout) -> Arms:
    """Counts votes on the sides of a roll-out.

    The side is that of the end user whose conversation it was, drawn again as the server drew it with the share of the time of
    the vote: it was recorded nowhere. A
    voter counts once, with the first vote, so that nobody outvotes the others, not even with votes on answers to many users.
    """
    seen: set[tuple[str, str]] = set()
    users, good = [0, 0], [0, 0]
    unknown = 0
    for tenant, end_user, voter, liked, at_ms in votes:
        if not end_user:
            unknown += 1
            continue
        who = (tenant, voter or f"user {end_user}")
        if who in seen:
            continue
        seen.add(who)
        side = takes_candidate(rollout.id, rollout.share_at(at_ms), tenant, identity_of(end_user, ""))
        users[side] += 1
        good[side] += liked
    return Arms(Counts(users[0], good[0]), Counts(users[1], good[1]), unknown)

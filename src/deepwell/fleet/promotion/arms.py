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
        sa.select(
            columns.tenant,
            columns.end_user,
            columns.voter,
            columns.rating,
            columns.created_at,
            columns.key_id,
            columns.target_id,
            columns.verified,
        )
        .where(columns.model == rollout.alias, columns.created_at * 1000 >= rollout.started_ms - 999)
        .order_by(columns.seq)
    )
    if rollout.tenants:
        query = query.where(columns.tenant.in_(rollout.tenants))

    def work(connection: Connection) -> Arms:
        rows = connection.execute(query)
        votes = (
            Vote(
                row.tenant,
                row.end_user or "",
                row.voter,
                row.rating == "up",
                row.created_at * 1000 + 999,
                row.key_id,
                row.target_id,
                row.verified,
            )
            for row in rows
        )
        return count_votes(votes, rollout)

    return await database.read(work)


class Vote(NamedTuple):
    """One vote: whose answer it was, who liked it or not, and when (Unix milliseconds).

    Attributes:
        key_id: the key that the vote came with.
        target: id of the answer.
        verified: whether the server gave that answer to the tenant, and kept it.
    """

    tenant: str
    end_user: str
    voter: str
    liked: bool
    at_ms: int
    key_id: str
    target: str
    verified: bool


def count_votes(votes: Iterable[Vote], rollout: Rollout) -> Arms:
    """Counts votes on the sides of a roll-out.

    The side is that of the end user whose conversation it was, drawn again as the server drew it with the share of the time of
    the vote: it was recorded nowhere.

    Votes for answers that the server did not keep do not count: anybody can name an answer that nobody gave. A voter counts
    once, with the first vote, and an answer once for each key. The names of users are the client's word, so that a voter is an
    API key. Of tenants that the roll-out names, whose word is trusted for that, a voter is a user.
    """
    seen: set[tuple[str, ...]] = set()
    users, good = [0, 0], [0, 0]
    unknown = unverified = 0
    for one in votes:
        if not one.verified or not (one.key_id or rollout.tenants):
            unverified += 1
            continue
        if not one.end_user:
            unknown += 1
            continue
        person = one.voter or f"user {one.end_user}"
        who = (one.tenant, "voter", person if rollout.tenants else one.key_id)
        answer = (one.tenant, "answer", one.key_id, one.target)
        if who in seen or answer in seen:
            continue
        seen |= {who, answer}
        identity = identity_of(one.end_user, "")
        side = takes_candidate(rollout.id, rollout.share_at(one.at_ms), one.tenant, identity)
        users[side] += 1
        good[side] += one.liked
    return Arms(Counts(users[0], good[0]), Counts(users[1], good[1]), unknown, unverified)

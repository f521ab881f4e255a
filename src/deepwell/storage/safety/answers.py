"""`AnswerStore`: what people answered to the compliance questions that no machine can check. Every answer stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.tables import compliance_answers as table

__all__ = ["AnswerStore", "StoredAnswer"]


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """One answer to one question of a pack, with its evidence (text or an address), and who gave it when."""

    pack: str
    question: str
    answer: str
    evidence: str
    answered_by: str
    answered_at: int


_COLUMNS = [table.c[name] for name in StoredAnswer.__dataclass_fields__]


class AnswerStore:
    """Answers by tenant, pack and question. The newest answer to a question counts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(
        self, tenant: Tenant, pack: str, question: str, answer: str, *, evidence: str = "", answered_by: str
    ) -> StoredAnswer:
        """Adds an answer and returns it."""
        stored = StoredAnswer(pack, question, answer, evidence, answered_by, int(shared_time()))
        values = {name: getattr(stored, name) for name in StoredAnswer.__dataclass_fields__}
        statement = sa.insert(table).values(tenant=tenant, **values)
        await self._database.write(lambda connection: connection.execute(statement).rowcount)
        return stored

    async def newest(self, tenant: Tenant, pack: str) -> Mapping[str, StoredAnswer]:
        """Returns the newest answer to each question of a pack that was answered."""
        return {one.question: one for one in await self.history(tenant, pack)}

    async def history(self, tenant: Tenant, pack: str) -> Sequence[StoredAnswer]:
        """Returns all answers to the questions of a pack, the oldest first."""
        query = (
            sa.select(*_COLUMNS).where(table.c.tenant == tenant, table.c.pack == pack).order_by(table.c.seq)
        )
        return await self._database.read(
            lambda connection: [StoredAnswer(**row._mapping) for row in connection.execute(query)]
        )

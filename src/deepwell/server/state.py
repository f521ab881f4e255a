"""What the server keeps between requests: the stores over one database, and responses at work in the background."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from fastapi import Request

from deepwell.server.background import Background
from deepwell.server.response_bodies import Response, ResponseError
from deepwell.storage.completions import CompletionStore
from deepwell.storage.conversations import ConversationStore
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.responses import ResponseStore

__all__ = ["State", "tenant_of"]


def tenant_of(request: Request) -> Tenant:
    """Whose data a request may see: that of its key; of everybody alike where the server has no keys."""
    salt: str = getattr(request.state, "cache_salt", "")
    return Tenant(salt) if salt else LOCAL


class State:
    """The stores. Made at start: what a stopped process left unfinished is marked as failed."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.responses = ResponseStore(database)
        self.conversations = ConversationStore(database)
        self.completions = CompletionStore(database)
        self.background = Background()
        for tenant, stored in self.responses.orphans():
            body = msgspec.json.decode(stored.body, type=Response)
            body.status = "failed"
            body.error = ResponseError(
                "server_error", "the server stopped before this was finished: send it again"
            )
            encoded = msgspec.json.encode(body).decode()
            self.responses.give_up(tenant, replace(stored, status="failed", body=encoded))

    async def close(self) -> None:
        """End what is at work, and close the database."""
        await self.background.close()
        self.database.close()

"""What the server keeps between requests: the stores over one database, and responses at work in the background."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
from fastapi import Request

from deepwell.server.background import Background
from deepwell.server.principal import Principal, principal_in
from deepwell.server.response_bodies import Response, ResponseError
from deepwell.storage.batches import BatchStore
from deepwell.storage.completions import CompletionStore
from deepwell.storage.conversations import ConversationStore
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.responses import ResponseStore
from deepwell.storage.uploads import UploadStore

__all__ = ["State", "principal_of", "tenant_of"]


def tenant_of(request: Request) -> Tenant:
    """Whose data a request may see: that of its key; of everybody alike where the server has no keys."""
    return principal_of(request).tenant


def principal_of(request: Request) -> Principal:
    """On whose behalf a request is answered."""
    return principal_in(request.scope)


class State:
    """The stores. Made at start, `recover` marks as failed what a stopped process left unfinished."""

    def __init__(self, database: Database, folder: Path | None = None, *, recover: bool = True) -> None:
        """Stores over `database`; files lie in `folder`, or without one are gone with the state."""
        self.database = database
        self._folder = None
        if folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="deepwell-files-", ignore_cleanup_errors=True)
            folder = Path(self._folder.name)
        self.jobs = JobStore(database)
        self.files = FileStore(database, folder)
        self.uploads = UploadStore(database, self.files)
        self.batches = BatchStore(database, self.files)
        self.batches_changed = asyncio.Event()  # the worker of this process should look
        self.responses = ResponseStore(database)
        self.conversations = ConversationStore(database)
        self.completions = CompletionStore(database)
        self.background = Background()
        for tenant, stored in self.responses.orphans() if recover else ():
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
        if self._folder is not None:
            self._folder.cleanup()

"""The registry of prompts that the verbs of `deepwell prompts` open, and the audit trail that tells of their changes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deepwell.storage.database import Database, Tenant
    from deepwell.storage.registry.prompts import PromptStore, StoredPrompt

__all__ = ["Registry", "TenantOption", "opened_registry", "tenant_named"]

TenantOption = Annotated[
    str,
    typer.Option(
        help="Tenant whose prompts these are, as `deepwell keys list` shows it; `local` is that of a server without keys.",
        metavar="TENANT",
    ),
]


class Registry:
    """The stored prompts of a database.

    Attributes:
        prompts: reads and changes them.
    """

    def __init__(self, database: Database) -> None:
        from deepwell.storage.registry.prompts import PromptStore

        self._database = database
        self.prompts: PromptStore = PromptStore(database)

    async def audited(self, tenant: Tenant, action: str, prompt: StoredPrompt) -> None:
        """Adds a change to the tenant's audit trail, as the server does: its hash, and neither its text nor its name."""
        from deepwell.safety.audit.trail import now_ms
        from deepwell.settings import Settings
        from deepwell.storage.safety.anchors import Anchors
        from deepwell.storage.safety.audit import AuditStore
        from deepwell.storage.safety.chain import AuditRecord

        fields = {
            "action": action,
            "version": prompt.number,
            "sha256": prompt.sha256,
            "by": "deepwell prompts",
        }
        store = AuditStore(self._database, Anchors.of(Settings.load()))
        await store.append(tenant, [AuditRecord("prompt", now_ms(), fields, named={"prompt": prompt.id})])


@contextmanager
def opened_registry() -> Generator[Registry]:
    """Opens the prompts of the database that the settings name."""
    from deepwell.settings import Settings
    from deepwell.storage.database import Database

    database = Database.of(Settings.load())
    try:
        yield Registry(database)
    finally:
        database.close()


def tenant_named(name: str) -> Tenant:
    """Returns the tenant of a name."""
    from deepwell.storage.database import Tenant

    return Tenant(name)

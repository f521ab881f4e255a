"""`Principal`: on whose behalf a request is answered, and what that allows."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from deepwell.dialogue.completion import Caller
from deepwell.storage.database import LOCAL, Tenant

__all__ = ["ANYONE", "SCOPES", "Principal", "principal_in", "principal_of", "tenant_of"]

SCOPES = {
    "inference": "models, completions, responses, conversations, embeddings, batches",
    "files": "files and uploads",
    "adapters": "loading and unloading LoRA adapters",
    "metrics": "/metrics, which counts every tenant's requests",
    "admin": "all of them",
}
"""What a key may be allowed, and what each scope opens."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `key_id` is empty where the server has no keys.

    The two limits are those that the key carries itself, a minute; None: its tenant's, 0: none.
    """

    tenant: Tenant
    key_id: str = ""
    scopes: frozenset[str] = frozenset({"admin"})
    priority: int = 0  # of the engine requests: batches run at -1
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def salt(self) -> str:
        """Prefix cache entries are shared only between equal salts: hit times would tell of other tenants' prompts."""
        return self.tenant if self.key_id else ""

    @property
    def caller(self) -> Caller:
        """What the engine is told of it."""
        return Caller(self.tenant, self.salt, self.priority)

    def may(self, scope: str) -> bool:
        """Whether a scope is among those allowed."""
        return scope in self.scopes or "admin" in self.scopes


ANYONE = Principal(LOCAL)
"""Who asks where a server has no keys."""


def principal_in(scope: MutableMapping[str, Any]) -> Principal:
    """The principal that authentication left in an ASGI scope."""
    return scope.get("state", {}).get("principal", ANYONE)


def principal_of(request: Request) -> Principal:
    """Returns on whose behalf a request is answered."""
    return principal_in(request.scope)


def tenant_of(request: Request) -> Tenant:
    """Returns whose data a request may see: that of its key; of everybody alike where the server has no keys."""
    return principal_in(request.scope).tenant

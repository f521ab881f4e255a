"""`Principal`: the identity that a request acts for, and what it is allowed."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from deepwell.dialogue.completion import Caller
from deepwell.storage.database import LOCAL, Tenant

__all__ = ["ANYONE", "SCOPES", "Principal", "principal_in", "principal_of", "tenant_of"]

SCOPES = {
    "inference": "models, completions, responses, conversations, embeddings, reranking, tokenizing, moderations, batches",
    "files": "files, uploads, vector stores, prompts, labelling projects and studies of ratings",
    "tuning": "fine-tuning jobs, evals and graders; deleting fine-tuned models",
    "adapters": "loading and unloading LoRA adapters",
    "metrics": "/metrics and /v1/stats, which count every tenant's requests",
    "admin": "all of them; unloading, pulling and compressing models, changing aliases",
}
"""Scopes of keys, and what each opens."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The tenant and the key behind a request. `key_id` is empty where the server has no keys.

    The limits, per minute, are the key's own. None: its tenant's limit applies; 0: no limit.
    """

    tenant: Tenant
    key_id: str = ""
    scopes: frozenset[str] = frozenset({"admin"})
    priority: int = 0  # of its engine requests: batches run at -1
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    audio_seconds_per_minute: int | None = None
    images_per_minute: int | None = None

    @property
    def salt(self) -> str:
        """Salt of the prefix cache. Only equal salts share entries: hit times would tell of other tenants' prompts."""
        return self.tenant if self.key_id else ""

    @property
    def caller(self) -> Caller:
        """The tenant, salt and priority, as the engine takes them."""
        return Caller(self.tenant, self.salt, self.priority)

    def may(self, scope: str) -> bool:
        """Returns whether `scope` is allowed."""
        return scope in self.scopes or "admin" in self.scopes


ANYONE = Principal(LOCAL)
"""The principal of requests that need no key."""


def principal_in(scope: MutableMapping[str, Any]) -> Principal:
    """Returns the principal that authentication left in an ASGI scope."""
    return scope.get("state", {}).get("principal", ANYONE)


def principal_of(request: Request) -> Principal:
    """Returns the principal that a request acts for."""
    return principal_in(request.scope)


def tenant_of(request: Request) -> Tenant:
    """Returns the tenant whose data a request may see: its key's, or the one for everybody where the server has no keys."""
    return principal_in(request.scope).tenant

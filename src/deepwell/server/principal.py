"""`Principal`: on whose behalf a request is answered, and what that allows."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from deepwell.storage.database import LOCAL, Tenant

__all__ = ["ANYONE", "SCOPES", "Principal", "principal_in", "scope_of"]

SCOPES = {
    "inference": "models, completions, responses, conversations, embeddings, batches",
    "files": "files and uploads",
    "adapters": "loading and unloading LoRA adapters",
    "metrics": "/metrics, which counts every tenant's requests",
    "admin": "all of them",
}
"""What a key may be allowed, and what each scope opens."""

# By the longest prefix of a path. What is not named here belongs to inference.
_SCOPES_OF_PATHS = (
    ("/metrics", "metrics"),
    ("/v1/files", "files"),
    ("/v1/uploads", "files"),
    ("/v1/load_lora_adapter", "adapters"),
    ("/v1/unload_lora_adapter", "adapters"),
)


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

    def may(self, scope: str) -> bool:
        """Whether a scope is among those allowed."""
        return scope in self.scopes or "admin" in self.scopes


ANYONE = Principal(LOCAL)
"""Who asks where a server has no keys."""


def principal_in(scope: MutableMapping[str, Any]) -> Principal:
    """The principal that authentication left in an ASGI scope."""
    return scope.get("state", {}).get("principal", ANYONE)


def scope_of(path: str) -> str:
    """The scope that a path asks for."""
    for prefix, scope in _SCOPES_OF_PATHS:
        if path == prefix or path.startswith(f"{prefix}/"):
            return scope
    return "inference"

"""`require_admin`: keeps what all tenants share from keys that are not an administrator's."""

from __future__ import annotations

from fastapi import Request

from deepwell.server.access.auth import InsufficientScope
from deepwell.server.access.principal import principal_of

__all__ = ["require_admin"]


async def require_admin(request: Request) -> None:
    """Refuses a request whose key lacks the scope admin. As a dependency of a route it comes before the body is looked at.

    Raises:
        InsufficientScope: the key is not an administrator's. Without keys everybody is one.
    """
    principal = principal_of(request)
    if principal.key_id and not principal.may("admin"):
        raise InsufficientScope("all tenants share what this changes", fix="use a key with the scope admin")

"""Names of adapters: each tenant sees its own and the shared ones, and the engine keeps them apart.

Adapters that a conversation was trained into have names of their own, by which nobody asks for them: they serve their
conversation alone.

The engine knows one flat list of names. There, a shared adapter has the name that clients use, and a tenant's own has the
tenant before it: `acme::sql`. No name that a client may send contains the separator, so nobody can name another's adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from deepwell.engine.protocol import AdapterInfo
from deepwell.errors import InvalidRequest
from deepwell.storage.database import Tenant

__all__ = ["SESSION_PREFIX", "adapters_of", "check_name", "engine_name"]

SESSION_PREFIX: Final = "session:"
"""The beginning of the names of adapters that a conversation was trained into, behind their tenant."""

_BETWEEN = "::"


def check_name(name: str, served: Iterable[str], param: str = "lora_name") -> None:
    """Checks that an adapter may be called `name` beside the models in `served`.

    Raises:
        InvalidRequest: a served model has this name, or it is empty, too long or no path, contains the separator, or is one of
            a conversation's.
    """
    if name in served:
        raise InvalidRequest(
            f"{name!r} is the name of a model that is served here", fix="choose another name", param=param
        )
    if not 1 <= len(name) <= 256 or not name.isprintable():
        raise InvalidRequest(
            "an adapter's name is 1 to 256 printable characters", fix="choose another", param=param
        )
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidRequest(
            "an adapter's name is part of the path /v1/models/NAME, which clients would shorten",
            fix="choose one without '.', '..' and nothing between slashes",
            param=param,
        )
    if _BETWEEN in name:
        raise InvalidRequest(
            f"an adapter's name cannot contain {_BETWEEN!r}", fix="leave it out", param=param
        )
    if name.startswith(SESSION_PREFIX):
        raise InvalidRequest(
            f"names that begin with {SESSION_PREFIX!r} are those of adapters of conversations",
            fix="choose another name",
            param=param,
        )


def engine_name(tenant: Tenant | None, name: str) -> str:
    """Returns the name by which the engine knows an adapter of a tenant, or a shared one if `tenant` is None."""
    return name if tenant is None else f"{tenant}{_BETWEEN}{name}"


def adapters_of(loaded: Sequence[AdapterInfo], tenant: Tenant | None) -> Mapping[str, AdapterInfo]:
    """Returns the adapters that a tenant may use, by the names that it calls them; None: those that all tenants share.

    Those are the shared ones and its own, without those of conversations. If both have a name, the tenant's own has it: sharing
    an adapter never changes what a tenant already uses.
    """
    found = {one.name: one for one in loaded if _BETWEEN not in one.name}
    if tenant is None:
        return found
    own = engine_name(tenant, "")
    for one in loaded:
        name = one.name.removeprefix(own)
        if one.name.startswith(own) and not name.startswith(SESSION_PREFIX):
            found[name] = one
    return found

"""The bodies of `/v1/aliases`."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

__all__ = ["Alias", "AliasChange", "AliasChangeList", "AliasDeleted", "AliasList"]


class Alias(Struct, tag_field="object", tag="alias"):
    """A further name of a model. `changed_by` is the id of a key, `local` on a server without keys, or `cli`; null for keys
    without the scope admin. During a roll-out, a `share` of the users gets the `candidate`."""

    id: str
    model: str
    changed_at: int
    changed_by: str | None
    candidate: str | UnsetType = UNSET
    share: float | UnsetType = UNSET


class AliasList(Struct, tag_field="object", tag="list"):
    """A page of aliases."""

    data: list[Alias]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AliasDeleted(Struct, tag_field="object", tag="alias.deleted"):
    """An alias that is gone."""

    id: str
    deleted: bool = True


class AliasChange(Struct, tag_field="object", tag="alias.change"):
    """One change of an alias. Without `model` it was removed; with `candidate`, a roll-out began."""

    id: str
    name: str
    model: str | None
    changed_at: int
    changed_by: str | None
    candidate: str | UnsetType = UNSET
    share: float | UnsetType = UNSET


class AliasChangeList(Struct, tag_field="object", tag="list"):
    """A page of the changes of an alias."""

    data: list[AliasChange]
    first_id: str | None
    last_id: str | None
    has_more: bool

"""The requests of `/v1/registry`, `/v1/rollouts` and `/v1/improvements`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepwell.server.families.pages import PageQuery
from deepwell.server.http.schema import Strict

__all__ = ["DecisionRequest", "RegistryQuery", "RevertRequest", "RolloutStart", "RolloutsQuery"]

_Alias = Annotated[str, Field(min_length=1, max_length=128)]
_Reason = Annotated[
    str, Field(max_length=500, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$", description="Reason, for the ledger.")
]


class RegistryQuery(PageQuery):
    """A page of the registry, of one alias or of all."""

    alias: _Alias | None = None


class RolloutsQuery(RegistryQuery):
    """A page of roll-outs."""

    state: Literal["canary", "promoted", "rolled_back", "aborted"] | None = None


class DecisionRequest(Strict):
    """Ends a roll-out."""

    reason: _Reason = ""


class RevertRequest(DecisionRequest):
    """Undoes the newest promotion of an alias."""

    alias: _Alias


_Share = Annotated[float, Field(gt=0, le=1)]


class RolloutStart(Strict):
    """Gives a version to some users. Unset terms are the deployment's; where none runs, `share` is given at once."""

    alias: _Alias
    version: Annotated[int, Field(ge=1, le=2**31, description="Number of the version.")]
    share: _Share = 0.1
    steps: Annotated[
        list[_Share] | None, Field(min_length=1, max_length=20, description="Shares that rise to 1.")
    ] = None
    hold_seconds: Annotated[float | None, Field(ge=0, le=86_400)] = None
    kind: Literal["canary", "blue_green"] | None = None
    ungated: _Reason = ""

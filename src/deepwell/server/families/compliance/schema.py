"""The requests of `/v1/compliance`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepwell.server.http.schema import Strict, only_values

__all__ = ["ComplianceRequest"]

_Pack = Annotated[Literal["cn", "eu", "owasp"], only_values("the pack", "cn", "eu", "owasp")]


class ComplianceRequest(Strict):
    """Runs the checks of some packs; without `packs`, of all."""

    packs: list[_Pack] | None = Field(None, min_length=1, max_length=3)

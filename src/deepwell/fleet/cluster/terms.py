"""`MeshTerms`: what a declaration says of the cluster that it is applied to."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from deepwell.fleet.deploy.manifests import Controller

__all__ = ["MeshTerms"]


class MeshTerms(BaseModel):
    """Part of the cluster that switches releases, and the image of the pods, for the grade `mesh`.

    Attributes:
        base: `deploy/kustomize` of a checkout; unset: that of this installation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    controller: Controller = "gateway-api"
    image: str = Field(default="localhost/deepwell:api", min_length=1)
    base: Path | None = None

"""`MeshTerms`: what a declaration says of the cluster that it is applied to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from deepwell.fleet.deploy.manifests import Controller

__all__ = ["MeshTerms", "check_image"]

# References of images stand in commands and configurations of other programs.
_IMAGE: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/@-]{0,511}")


class MeshTerms(BaseModel):
    """Part of the cluster that switches releases, and the image of the pods, for the grade `mesh`.

    Attributes:
        base: `deploy/kustomize` of a checkout; unset: that of this installation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    controller: Controller = "gateway-api"
    image: str = Field(default="localhost/deepwell:api", min_length=1)
    base: Path | None = None

    @field_validator("image")
    @classmethod
    def _reference(cls, image: str) -> str:
        return check_image(image)


def check_image(image: str) -> str:
    """Returns the reference of an image as it is.

    Raises:
        ValueError: it is none.
    """
    if not _IMAGE.fullmatch(image):
        raise ValueError("this names no image: write NAME:TAG, such as localhost/deepwell:api")
    return image

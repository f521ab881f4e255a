"""Settings of images: the model that draws, the look at images, and the mark on them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from deepwell.settings.section import Section

__all__ = ["ImageSettings"]


class ImageSettings(Section):
    """The section of images."""

    image_model: str = Field(
        "deepwell-draw",
        description="Model that draws where a request asks for gpt-image-1 or its like: a name in the store, or a path.",
    )
    image_guard: Literal["auto", "required", "off"] = Field(
        "auto",
        description="Look of the model opennsfw at every image that is sent or drawn: auto: if it is in the store;"
        " required: without it no image is drawn; off: never.",
    )
    image_guard_score: float = Field(
        0.8, ge=0, le=1, description="Score of opennsfw above which an image is refused; 1 refuses none."
    )
    image_mark: bool = Field(
        True,
        description='Whether drawn images show the words "AI生成" in their lower right corner (GB 45438-2025).',
    )
    image_certificate: Path | None = Field(
        None,
        description="Certificate chain in PEM that signs drawn images (C2PA), with image_certificate_key; unset: no signature.",
    )
    image_certificate_key: Path | None = Field(
        None, description="Private key in PEM of image_certificate: EC, RSA or Ed25519."
    )

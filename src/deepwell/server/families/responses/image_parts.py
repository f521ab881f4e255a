"""The parts of a picture on its way into a response."""

from __future__ import annotations

from dataclasses import dataclass

from deepwell.server.families.responses.bodies import ImageCallError

__all__ = ["ImageBegun", "ImageEnded", "ImageShown"]


@dataclass(frozen=True, slots=True)
class ImageBegun:
    """A picture that is about to be drawn."""

    prompt: str
    size: str
    quality: str
    format: str


@dataclass(frozen=True, slots=True)
class ImageShown:
    """An unfinished picture in base64, and its number."""

    data: str
    number: int


@dataclass(frozen=True, slots=True)
class ImageEnded:
    """A finished picture in base64; if there is none, the error says why."""

    prompt: str
    data: str | None = None
    error: ImageCallError | None = None

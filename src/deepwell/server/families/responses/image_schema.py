"""The tool `image_generation` in requests, and its calls that clients send back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from deepwell.media.images.encode import ImageFormat
from deepwell.media.images.options import SIZES
from deepwell.server.http.schema import Strict, only_values, refuse

__all__ = ["ImageCallInput", "ImageChoice", "ImageSpec"]

_EDITS = "the tool draws new pictures alone: send the picture and its mask to /v1/images/edits"
_GIF = "only GIF output has frames, and pictures are PNG, JPEG or WebP"


class ImageSpec(Strict):
    """A tool that draws, which the server runs when the model or the request calls it."""

    type: Literal["image_generation"]
    model: str | None = Field(
        None,
        description="A model that draws. OpenAI's names, such as `gpt-image-1`, stand for that of the setting image_model.",
    )
    action: Annotated[
        Literal["generate", "auto"] | None, only_values("action", "generate", "auto", instead=_EDITS)
    ] = None
    background: Annotated[
        Literal["auto", "opaque"] | None,
        only_values("background", "auto", "opaque", instead="pictures are opaque: leave it out"),
    ] = None
    input_fidelity: Annotated[
        Literal["low"] | None, only_values("input_fidelity", "low", instead=f"{_EDITS}, and leave it out")
    ] = None
    input_image_mask: Annotated[Any, refuse(_EDITS)] = None
    moderation: Literal["auto", "low"] | None = Field(
        None, description="Accepted, and without effect: the server's operator decides what is refused."
    )
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of JPEG and WebP; 100 if left out. PNG loses nothing."
    )
    output_format: Annotated[
        Literal["png", "jpeg", "webp"] | None, only_values("output_format", "png", "jpeg", "webp")
    ] = None
    partial_images: int | None = Field(
        None, ge=0, le=3, description="Number of unfinished pictures that a stream shows on the way."
    )
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max"] | None = None
    size: Annotated[
        Literal["auto", "256x256", "512x512", "1024x1024", "1536x1024", "1024x1536"] | None,
        only_values("size", "auto", *SIZES),
    ] = Field(None, description="As of `/v1/images/generations`; `auto` is 512x512.")
    complexity: Annotated[Any, refuse("the model plans nothing before it draws")] = None
    frame_count: Annotated[Any, refuse(_GIF)] = None
    frame_duration_ms: Annotated[Any, refuse(_GIF)] = None
    svg: Annotated[Any, refuse("pictures are drawn as pixels: SVG is not written")] = None

    @property
    def format(self) -> ImageFormat:
        """The format of the file."""
        return self.output_format or "png"


class ImageChoice(Strict):
    """The picture, which must be drawn."""

    type: Literal["image_generation"]


class ImageCallInput(Strict):
    """A picture that was drawn before. The text model reads its prompt; the picture itself is not kept again."""

    type: Literal["image_generation_call"]
    id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    status: Literal["in_progress", "generating", "completed", "failed"] | None = None
    result: str | None = None
    revised_prompt: str | None = None
    size: str | None = None
    quality: str | None = None
    output_format: str | None = None
    background: str | None = None
    action: str | None = None
    error: dict[str, Any] | None = None
    svg_usage: Annotated[Any, refuse("SVG is not written here")] = None

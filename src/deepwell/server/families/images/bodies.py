"""The bodies of `/v1/images`, and the events of their streams."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = [
    "EditCompleted",
    "EditPartial",
    "GenerationCompleted",
    "GenerationPartial",
    "ImageBody",
    "ImageFormatName",
    "ImagesBody",
    "ImagesUsage",
    "InputDetails",
    "Quality",
]

ImageFormatName = Literal["png", "jpeg", "webp"]
Quality = Literal["low", "medium", "high", "xhigh", "max"]


class InputDetails(Struct):
    """Tokens of the prompt; images are not counted in tokens."""

    text_tokens: int
    image_tokens: int = 0


class ImagesUsage(Struct):
    """The size of a request: the tokens that the text encoder read of the prompt."""

    input_tokens: int
    input_tokens_details: InputDetails
    total_tokens: int
    output_tokens: int = 0


class ImageBody(Struct):
    """An image, in base64.

    Attributes:
        seed: extension: the seed that draws it again.
    """

    b64_json: str
    seed: int


class ImagesBody(Struct, kw_only=True):
    """The images of a request.

    Attributes:
        drawn_size: extension: the size at which the model draws; it is enlarged to `size` by Lanczos' filter.
        padded: extension: whether bars were added, because a square was drawn and `size` is none.
    """

    created: int
    data: list[ImageBody]
    size: str
    quality: Quality
    output_format: ImageFormatName
    usage: ImagesUsage
    drawn_size: str
    padded: bool
    background: Literal["opaque"] = "opaque"


class _Event(Struct, kw_only=True):
    b64_json: str
    created_at: int
    size: str
    quality: Quality
    output_format: ImageFormatName
    seed: int
    drawn_size: str
    padded: bool
    background: Literal["opaque"] = "opaque"


class GenerationPartial(_Event, tag_field="type", tag="image_generation.partial_image"):
    """The event of an unfinished image."""

    partial_image_index: int


class GenerationCompleted(_Event, tag_field="type", tag="image_generation.completed"):
    """The event of a finished image."""

    usage: ImagesUsage


class EditPartial(_Event, tag_field="type", tag="image_edit.partial_image"):
    """The event of an unfinished image."""

    partial_image_index: int


class EditCompleted(_Event, tag_field="type", tag="image_edit.completed"):
    """The event of a finished image."""

    usage: ImagesUsage

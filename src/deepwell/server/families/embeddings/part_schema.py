"""Parts of inputs that the space of text, image and sound embeds."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, Final, Literal, cast

from pydantic import Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from deepwell.errors import InvalidRequest
from deepwell.server.http.schema import TAG_MARK, Strict, kind_of, only_kinds

__all__ = [
    "MOST_MEDIA",
    "PART_TYPES",
    "ImagePart",
    "Input",
    "Part",
    "SentInputs",
    "SoundPart",
    "TextPart",
    "check_parts",
    "has_parts",
    "image_bytes",
    "sound_bytes",
]

PART_TYPES: Final = ("input_text", "image_url", "input_audio")
MOST_MEDIA: Final = 64
"""The most pictures and sounds of a request."""

_DATA: Final = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.ASCII | re.IGNORECASE)


class TextPart(Strict):
    """A text."""

    type: Literal["input_text"]
    text: Annotated[str, StringConstraints(min_length=1)]


class ImageAddress(Strict):
    """A picture as a data URL: `data:image/png;base64,…`."""

    url: Annotated[str, StringConstraints(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageAddress


class SoundData(Strict):
    """A recording in base64."""

    data: Annotated[str, StringConstraints(min_length=1)]
    format: Literal["wav", "mp3", "m4a", "ogg", "flac", "webm"]


class SoundPart(Strict):
    """A recording of at most 30 seconds."""

    type: Literal["input_audio"]
    input_audio: SoundData


def _kind(value: Any) -> str:
    kind = kind_of(value)
    return TAG_MARK + (kind if kind in PART_TYPES else PART_TYPES[0])


Part = Annotated[
    Annotated[TextPart, Tag(f"{TAG_MARK}input_text")]
    | Annotated[ImagePart, Tag(f"{TAG_MARK}image_url")]
    | Annotated[SoundPart, Tag(f"{TAG_MARK}input_audio")],
    Discriminator(_kind),
    only_kinds("parts", *PART_TYPES),
]


def _shape(value: Any) -> str:
    if isinstance(value, str):
        return f"{TAG_MARK}text"
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return f"{TAG_MARK}{'tokens' if items and type(items[0]) is int else 'parts'}"
    return f"{TAG_MARK}part"


Input = Annotated[
    Annotated[str, Tag(f"{TAG_MARK}text")]
    | Annotated[list[int], Tag(f"{TAG_MARK}tokens")]
    | Annotated[Part, Tag(f"{TAG_MARK}part")]
    | Annotated[list[Part], Field(min_length=1, max_length=3), Tag(f"{TAG_MARK}parts")],
    Discriminator(_shape),
]
"""An input: a text, its token ids, a part, or several parts that are fused into one vector."""

SentInputs = str | list[str] | list[int] | list[list[int]] | list[str | Part | list[Part]]
"""Inputs as clients send them."""


def has_parts(value: Any) -> bool:
    """Returns whether what a client sent as input holds parts."""
    if not isinstance(value, list):
        return isinstance(value, dict)
    items = cast("list[Any]", value)
    return any(
        isinstance(one, dict)
        or (isinstance(one, list) and any(isinstance(part, dict) for part in cast("list[Any]", one)))
        for one in items
    )


def check_parts(value: Any, most: int) -> list[Any]:
    """Returns what a client sent as a list of inputs.

    Raises:
        PydanticCustomError: there are too many, or too many pictures and sounds.
    """
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    if len(items) > most:
        raise PydanticCustomError("input", "at most {most} inputs a request", {"most": most})
    parts = [part for one in items for part in (cast("list[Any]", one) if isinstance(one, list) else [one])]
    media = sum(isinstance(part, dict) and kind_of(part) != PART_TYPES[0] for part in parts)
    if media > MOST_MEDIA:
        counts = {"media": media, "most": MOST_MEDIA}
        raise PydanticCustomError("input", "{media} pictures and sounds, and {most} are allowed", counts)
    return items


def image_bytes(part: ImagePart) -> bytes:
    """Returns the picture of a part.

    Raises:
        InvalidRequest: the address is no data URL of a picture.
    """
    url = part.image_url.url
    found = _DATA.match(url)
    if found is None:
        raise InvalidRequest.of("embedding_picture_address")
    return _decoded(url[found.end() :])


def sound_bytes(part: SoundPart) -> bytes:
    """Returns the recording of a part.

    Raises:
        InvalidRequest: it is not in base64.
    """
    return _decoded(part.input_audio.data)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest.of("embedding_part_base64") from None

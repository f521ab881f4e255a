"""The parts of messages that are no text, as OpenAI's two APIs write them, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, cast

from pydantic import ConfigDict, Discriminator, Field, PrivateAttr, Tag, model_validator
from pydantic_core import PydanticCustomError

from deepwell.server.http.schema import TAG_MARK, Strict, counted, crossed, kind_of, only_kinds, text_of

__all__ = [
    "CHAT_PARTS",
    "INPUT_PARTS",
    "Attached",
    "Attaching",
    "Attachment",
    "ChatPart",
    "ChatTextPart",
    "InputAudioPart",
    "InputFilePart",
    "InputImagePart",
    "Kind",
    "joined_text",
]

Kind = Literal["image", "sound", "file"]
"""Kinds of attachments; that of a `file` is in its bytes."""

CHAT_PARTS = ("text", "image_url", "input_audio", "file")
"""Types of the parts of a chat message."""

INPUT_PARTS = ("input_image", "input_audio", "input_file")
"""Types of the parts of a message of the Responses API that are no text."""

Detail = Literal["auto", "low", "high", "original"] | None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part of a message that is no text. One of `data`, `url` and `file_id` is set.

    Attributes:
        data: its bytes in base64.
        url: an address of the web, or a data URL.
        file_id: an uploaded file.
        name: file name; empty: it has none.
    """

    kind: Kind
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment whose text stands in a message."""

    kind: Literal["image", "audio", "file"]


class Attaching(Strict):
    """A message that may have attachments."""

    _attachments: tuple[Attached, ...] = PrivateAttr(default=())

    @property
    def attachments(self) -> Sequence[Attached]:
        """The attachments whose texts stand in the content."""
        return self._attachments

    def told(self, content: Any, attachments: Sequence[Attached]) -> Self:
        """Returns the message with a content in which texts stand in place of attachments."""
        copy = self.model_copy(update={"content": content})
        copy._attachments = tuple(attachments)
        return copy


_Data = Annotated[str, Field(min_length=1)]
_Url = Annotated[str, Field(min_length=1)]
_FileId = Annotated[str, Field(min_length=1, max_length=64)]
_Name = Annotated[str, Field(max_length=4096)]


class ChatTextPart(Strict):
    """A piece of text. Marks of other services beside it, such as places to cache, say nothing here."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: str


class ImageAddress(Strict):
    """The address of an image."""

    url: _Url
    detail: Detail = None


class ImageUrlPart(Strict):
    """An image in a chat message."""

    type: Literal["image_url"]
    image_url: ImageAddress

    def attachment(self) -> Attachment:
        """Returns the part as the rest of the server uses it."""
        return Attachment("image", url=self.image_url.url)


class AudioData(Strict):
    """A recording."""

    data: _Data
    format: Literal["wav", "mp3"]


class InputAudioPart(Strict):
    """A recording in a message."""

    type: Literal["input_audio"]
    input_audio: AudioData

    def attachment(self) -> Attachment:
        """Returns the part as the rest of the server uses it."""
        return Attachment("sound", data=self.input_audio.data)


class FileData(Strict):
    """A file: its bytes as a data URL or in base64, or the id of an uploaded one."""

    file_data: _Data | None = None
    file_id: _FileId | None = None
    filename: _Name | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file_data is None) == (self.file_id is None):
            raise crossed("file_id", "a file needs file_data or file_id, and not both")
        return self


class FilePart(Strict):
    """A file in a chat message."""

    type: Literal["file"]
    file: FileData

    def attachment(self) -> Attachment:
        """Returns the part as the rest of the server uses it."""
        own = self.file
        return _file(own.file_data, None, own.file_id, own.filename)


class InputImagePart(Strict):
    """An image in a message of the Responses API."""

    type: Literal["input_image"]
    image_url: _Url | None = None
    file_id: _FileId | None = None
    detail: Detail = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.image_url is None) == (self.file_id is None):
            raise crossed("image_url", "an image needs image_url or file_id, and not both")
        return self

    def attachment(self) -> Attachment:
        """Returns the part as the rest of the server uses it."""
        return Attachment("image", url=self.image_url, file_id=self.file_id)


class InputFilePart(Strict):
    """A file in a message of the Responses API."""

    type: Literal["input_file"]
    file_data: _Data | None = None
    file_url: _Url | None = None
    file_id: _FileId | None = None
    filename: _Name | None = None
    detail: Detail = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(one is not None for one in (self.file_data, self.file_url, self.file_id)) != 1:
            raise crossed("file_id", "a file needs one of file_data, file_url and file_id")
        return self

    def attachment(self) -> Attachment:
        """Returns the part as the rest of the server uses it."""
        return _file(self.file_data, self.file_url, self.file_id, self.filename)


def _file(data: str | None, url: str | None, file_id: str | None, name: str | None) -> Attachment:
    if data is not None and data.startswith("data:"):
        data, url = None, data
    return Attachment("file", data, url, file_id, name or "")


def _chat_kind(value: Any) -> str:
    return TAG_MARK + kind_of(value)


ChatPart = Annotated[
    Annotated[ChatTextPart, Tag(f"{TAG_MARK}text")]
    | Annotated[ImageUrlPart, Tag(f"{TAG_MARK}image_url")]
    | Annotated[InputAudioPart, Tag(f"{TAG_MARK}input_audio")]
    | Annotated[FilePart, Tag(f"{TAG_MARK}file")],
    Discriminator(_chat_kind),
    only_kinds("content parts", *CHAT_PARTS),
]


def joined_text(value: Any) -> Any:
    """Returns content given as parts as one text if all are text, and anything else unchanged. Raises as `text_of`."""
    if not isinstance(value, list):
        if value is None or isinstance(value, str):
            return value
        raise PydanticCustomError("content", "content should be a string or a list of parts")
    parts = cast("list[Any]", counted(value))
    return text_of(parts) if all(kind_of(part) == "text" for part in parts) else parts

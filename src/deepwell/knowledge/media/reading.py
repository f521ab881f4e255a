"""`MediaReader`: pictures and recordings become documents, of text that can be found and cited.

A picture's document is its description, marked as one, and the text that stands in it. A recording's is its transcript, whose
sections know their times.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, Protocol

from deepwell.errors import DeepwellError, InvalidFile, MissingDependency, ModelNotFound
from deepwell.knowledge.documents import Document, MediaKind, MediaPlace, Place
from deepwell.knowledge.media.kind import media_kind_of
from deepwell.knowledge.media.senses import Listener, Look, Viewer
from deepwell.knowledge.parse.builder import DocumentBuilder, clean
from deepwell.knowledge.parse.ocr import ocr_installed

__all__ = ["DESCRIBED", "MediaReader", "PictureText"]

DESCRIBED: Final = "[picture]"
"""Mark before the description of a picture, which nobody wrote."""

_ABSENT = (MissingDependency, ModelNotFound)


class PictureText(Protocol):
    """Reads the text in pictures in a process with limits."""

    async def read_picture(self, tenant: str, path: Path) -> Document:
        """Returns the text that stands in a picture, which may be none.

        Raises:
            MissingDependency: the extra `ocr` is not installed.
            DeepwellError: the file cannot be read.
        """
        ...


class MediaReader:
    """The reader of pictures and recordings.

    Args:
        writing: reads the text in pictures.
        viewer: looks at pictures.
        listener: transcribes recordings.
    """

    def __init__(self, writing: PictureText, viewer: Viewer, listener: Listener) -> None:
        self._writing, self._viewer, self._listener = writing, viewer, listener

    async def kind(self, path: Path) -> MediaKind | None:
        """Returns whether a file is a picture or a recording; None: it is a document."""
        return (await asyncio.to_thread(media_kind_of, path))[0]

    async def identity(self, kind: MediaKind) -> str:
        """Returns what a file of a kind is read with. A document that other means made is not used again."""
        if kind == "recording":
            return f"recording\0{await asyncio.to_thread(self._listener.identity)}"
        return f"picture\0{int(ocr_installed())}\0{await asyncio.to_thread(self._viewer.identity)}"

    async def read(self, tenant: str, kind: MediaKind, path: Path) -> Document:
        """Returns the document of a picture or recording. A picture is read with what is there of description and text.

        Raises:
            InvalidFile: a recording has no speech, or the file is damaged.
            MissingDependency: nothing here can read it; the fix names what brings it.
            DeepwellError: as the reader has it.
        """
        return await (self._recording if kind == "recording" else self._picture)(tenant, path)

    async def _recording(self, tenant: str, path: Path) -> Document:
        said = await self._listener.listen(tenant, path)
        builder = DocumentBuilder((await asyncio.to_thread(media_kind_of, path))[1])
        for one in said:
            place = Place(media=MediaPlace("recording", round(one.start_s, 2), round(one.end_s, 2)))
            builder.add(one.text.strip(), place, gap="\n")
        if not len(builder):
            raise InvalidFile.of("recording_silent")
        return builder.finish()

    async def _picture(self, tenant: str, path: Path) -> Document:
        builder = DocumentBuilder((await asyncio.to_thread(media_kind_of, path))[1])
        missing: list[DeepwellError] = []
        look: Look | None = None
        try:
            look = await self._viewer.look(tenant, path)  # first: it refuses what nobody is to read
        except _ABSENT as error:
            missing.append(error)
        place = Place(media=MediaPlace("picture"))
        if look is not None:
            builder.add(f"{DESCRIBED} {' '.join(clean(look.text).split())}".strip(), place)
        try:
            builder.add((await self._writing.read_picture(tenant, path)).text, place)
        except _ABSENT as error:
            missing.append(error)
            builder.note("left_out", f"text in the picture ({error.fix})")
        if len(missing) == 2:
            raise MissingDependency.joined(missing)
        if not len(builder):
            raise InvalidFile.joined([InvalidFile.of("picture_textless"), *missing])
        found = builder.finish()
        if look is None:
            return found
        vector = look.vector.astype("<f4").tobytes()
        return Document(
            found.text, found.sections, found.media_type, found.title, found.metadata, vector, look.anchor
        )

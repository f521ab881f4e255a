"""`AttachmentReader`: turns the bytes of an attachment into facts, by the programs that are here.

An image is named by the encoder of the space, and its text is recognised by the parser of documents (extra ocr). Either is
enough. A recording is written down by the recognition model of the server. A document is parsed as knowledge parses it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepwell.errors import InvalidFile, MissingDependency, ModelNotFound
from deepwell.media.recognition.options import RecognitionOptions
from deepwell.server.access.media_use import MediaUse
from deepwell.server.attachments.schema import Kind
from deepwell.server.attachments.wording import FileFacts, ImageFacts, SoundFacts
from deepwell.server.context import ServerContext

if TYPE_CHECKING:
    from deepwell.knowledge.parse.process import ParseProcess
    from deepwell.media.space.process import Sensing
    from deepwell.storage.database import Tenant

__all__ = ["AttachmentReader", "kind_in"]

_log = logging.getLogger("deepwell.server")
_RECOGNITION: Final = "whisper-1"
_IMAGES: Final = re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|<svg", re.DOTALL)
_SOUNDS: Final = re.compile(
    rb"RIFF.{4}WAVE|ID3|\xff[\xe2-\xff]|OggS|fLaC|.{4}ftyp|\x1a\x45\xdf\xa3|FORM.{4}AIF|#!AMR|caff", re.DOTALL
)


def kind_in(data: bytes) -> Kind:
    """Returns the kind of a file by its first bytes."""
    head = data[:64]
    return "image" if _IMAGES.match(head) else "sound" if _SOUNDS.match(head) else "file"


class AttachmentReader:
    """The programs that read attachments. They start with the first one that needs them."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._parser: ParseProcess | None = None
        context.on_close(self._close)

    async def image(self, data: bytes, tenant: Tenant) -> ImageFacts:
        """Returns what programs find in an image.

        Raises:
            ImageRefused: the safety model takes it for unsafe.
            ModelNotFound: nothing here can look at it; the fix is the commands that bring what can.
            MissingDependency: the extra `images` is not installed.
            InvalidFile, UnsupportedFile: see `read_view`.
        """
        from deepwell.knowledge.parse.ocr import ocr_installed

        sensing = await self._context.space.bare()
        if sensing.models.image is None:
            looked = await sensing.look(tenant, data)
            await self._check(looked.unsafe, tenant)
            if not ocr_installed():
                raise ModelNotFound.of("attachment_unseen")
            return ImageFacts(
                looked.width, looked.height, named=False, text=await self._text(tenant, sensing, data)
            )
        seen = await sensing.image(tenant, data)
        await self._check(seen.unsafe, tenant)
        text = await self._text(tenant, sensing, data) if ocr_installed() else None
        tags = tuple((tag.name, tag.name_zh) for tag in seen.tags)
        captions = seen.caption, seen.caption_zh
        return ImageFacts(seen.width, seen.height, named=True, captions=captions, tags=tags, text=text)

    async def sound(self, data: bytes, tenant: Tenant) -> SoundFacts:
        """Returns what is said in a recording, which is charged and counted as a transcription.

        Raises:
            RateLimited: it is longer than what is left.
            ModelNotFound: the recognition model is not here; the fix is the command that fetches it.
            MissingDependency: the extra `speech` is not installed.
            InvalidFile, UnsupportedFile: see `decode_audio`.
        """
        recogniser = await self._context.media.recognisers.find(_RECOGNITION)
        async with (
            MediaUse(self._context.usage, recogniser.model.name, "audio.transcription") as use,
            self._stored(data) as path,
        ):
            await use.reserve(1)  # nobody whose limit is reached waits for the model
            async with recogniser.hear(tenant, path, RecognitionOptions()) as hearing:
                await use.reserve(hearing.seconds)
                use.seconds = hearing.seconds
                text = "".join([segment.text async for segment in hearing.segments()])
        return SoundFacts(text.strip(), hearing.seconds)

    async def file(self, data: bytes, name: str, tenant: Tenant) -> FileFacts:
        """Returns the text of a document. Raises as `ParseProcess.parse`."""
        async with self._stored(data) as path:
            return FileFacts((await self._parse(tenant, path, name)).strip())

    async def _text(self, tenant: Tenant, sensing: Sensing, data: bytes) -> str | None:
        """Returns the text that is recognised in an image; empty: there is none; None: nothing here reads it."""
        page = await sensing.page(tenant, data)
        async with self._stored(page) as path:
            try:
                return (await self._parse(tenant, path, "image.pdf")).strip()
            except InvalidFile:  # a page without text is none to the parser
                return ""
            except MissingDependency as error:
                if error.texts[0] == "pdf_scanned":  # the page has been looked at
                    return ""
                _log.warning("the text in an image cannot be read: %s", error)
                return None

    async def _parse(self, tenant: Tenant, path: Path, name: str) -> str:
        if self._parser is None:
            from deepwell.knowledge.parse.process import ParseProcess

            self._parser = ParseProcess()
        return (await self._parser.parse(tenant, path, name)).text

    async def _check(self, score: float, tenant: Tenant) -> None:
        options = self._context.options.images
        if options.guard == "off" or score <= options.guard_score:
            return
        from deepwell.media.images.process import ImageRefused

        self._context.metrics.images.refused.labels("", "sent").inc()
        if (guard := self._context.guard) is not None:
            await guard.refused_image("input", score, "", tenant)
        raise ImageRefused.scored("image_input_refused", "image", score)

    @asynccontextmanager
    async def _stored(self, data: bytes) -> AsyncGenerator[Path]:
        """Keeps bytes in a file for as long as a program reads them."""
        draft = await asyncio.to_thread(self._context.state.files.draft)
        try:
            await asyncio.to_thread(draft.write, data)
            await asyncio.to_thread(draft.close)
            yield draft.path
        finally:
            await asyncio.to_thread(draft.discard)

    async def _close(self) -> None:
        if self._parser is not None:
            await self._parser.close()

"""Speech of an answer: sentence by sentence while its text is generated, or as one file at its end."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

from deepwell.dialogue.dialogue import Turn
from deepwell.dialogue.parsers.events import Content
from deepwell.errors import InvalidRequest
from deepwell.media.speech.encode import SpeechFormat
from deepwell.media.speech.options import SpeechRequest, planned_speech
from deepwell.media.speech.process import check_installed
from deepwell.media.speech.programs.process import AnySpeaker
from deepwell.media.speech.split import ready_end
from deepwell.server.context import ServerContext
from deepwell.server.families.audio.speaking import Speaking

__all__ = ["DEFAULT_VOICE", "SoundPiece", "Voice", "VoiceFormat", "VoiceWish", "open_voice", "voiced"]

VoiceFormat = Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"]

DEFAULT_VOICE: Final = "alloy"
"""A voice in the language of each text."""

_MODEL: Final = "tts-1"
_FORMATS: Final[dict[VoiceFormat, SpeechFormat]] = {
    "wav": "wav",
    "mp3": "mp3",
    "flac": "flac",
    "opus": "opus",
    "aac": "aac",
    "pcm16": "pcm",
}
_log = logging.getLogger("deepwell.server")


@dataclass(frozen=True, slots=True)
class VoiceWish:
    """The voice of an answer, and the format of its sound."""

    voice: str = DEFAULT_VOICE
    format: VoiceFormat = "mp3"


@dataclass(frozen=True, slots=True)
class SoundPiece:
    """Further bytes of the sound."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice that is ready to speak.

    Attributes:
        label: text of the label of generated content; empty: there is none.
    """

    context: ServerContext
    tenant: str
    speaker: AnySpeaker
    wish: VoiceWish
    label: str

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.speaker.model.name

    async def sound(self, text: str) -> AsyncGenerator[bytes, None]:
        """Yields the sound of a text. A text without anything that can be said has none. Raises as `Speaker.speak`."""
        planned = self._planned(text)
        if planned is not None:
            async with aclosing(Speaking(self.context, self.tenant, self.speaker, planned).audio()) as pieces:
                async for piece in pieces:
                    yield piece

    def _planned(self, text: str) -> SpeechRequest | None:
        """Returns what a text is to be said like. A voice that cannot read its language makes room for one that can."""
        for voice in (self.wish.voice, DEFAULT_VOICE):
            try:
                return planned_speech(
                    self.speaker.model,
                    text,
                    voice=voice,
                    format=_FORMATS[self.wish.format],
                    label=self.label,
                )
            except InvalidRequest as error:
                _log.debug("a sentence stays silent: %s", error)
        return None


async def open_voice(context: ServerContext, tenant: str, wish: VoiceWish) -> Voice:
    """Returns a voice.

    Raises:
        ModelNotFound: the model of the setting is not in the store.
        MissingDependency: the extra `speech` is not installed.
        InvalidRequest: there is no such voice.
    """
    speaker = await context.media.speakers.find(_MODEL)
    if speaker.model.backend == "kokoro":
        check_installed()
    try:
        await asyncio.to_thread(speaker.model.choose, wish.voice, "en")
    except InvalidRequest as error:
        error.param = "audio.voice"
        raise
    label = "" if context.guard is None else context.guard.file_label(f"speech-{uuid.uuid4().hex}")
    return Voice(context, tenant, speaker, wish, label)


async def voiced(voice: Voice, turns: AsyncGenerator[Turn, None]) -> AsyncGenerator[Turn | SoundPiece, None]:
    """Yields the turns of an answer, and the sound of each sentence as soon as it is whole. The format has to be pcm16.

    Text and sound are made at the same time. Raises as the turns, and as `Speaker.speak`.
    """
    made: asyncio.Queue[Turn | SoundPiece | None] = asyncio.Queue()
    sentences: asyncio.Queue[str | None] = asyncio.Queue()

    async def write() -> None:
        waiting = ""
        try:
            async with aclosing(turns):
                async for turn in turns:
                    made.put_nowait(turn)
                    waiting += "".join(one.text for one in turn.events if isinstance(one, Content))
                    if end := ready_end(waiting):
                        sentences.put_nowait(waiting[:end])
                        waiting = waiting[end:]
            sentences.put_nowait(waiting)
        finally:
            sentences.put_nowait(None)

    async def speak() -> None:
        while (sentence := await sentences.get()) is not None:
            if sentence.strip():
                async with aclosing(voice.sound(sentence)) as pieces:
                    async for piece in pieces:
                        made.put_nowait(SoundPiece(piece))

    async def run() -> None:
        work = [asyncio.create_task(write()), asyncio.create_task(speak())]
        try:
            await asyncio.gather(*work)
        finally:
            for one in work:
                one.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            made.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        while (part := await made.get()) is not None:
            yield part
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

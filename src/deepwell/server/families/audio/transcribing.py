"""`Transcribing`: one recording on its way to an answer, with the guard in between."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, structs

from deepwell.dialogue.completion import Counts
from deepwell.dialogue.dialogue import Turn
from deepwell.dialogue.parsers.events import Content
from deepwell.media.recognition.languages import language_name
from deepwell.media.recognition.options import Segment
from deepwell.media.recognition.process import Hearing, Recogniser
from deepwell.media.recognition.written import srt, text_of, vtt
from deepwell.server.access.media_use import MediaUse
from deepwell.server.context import ServerContext
from deepwell.server.families.audio.bodies import (
    DurationUsage,
    TextDelta,
    TextDone,
    TranscribedSegment,
    TranscribedWord,
    Transcription,
    Translation,
    VerboseTranscription,
)
from deepwell.server.families.audio.measuring import Measured
from deepwell.server.families.audio.schema import RecognitionForm
from deepwell.server.guarding.checked import Checked
from deepwell.server.http.sse import event
from deepwell.storage.blobs import Draft

__all__ = ["Transcribing"]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Transcribing:
    """One request.

    Attributes:
        recording: the file, which is discarded at the end.
        checked: the guard's note of the request; None: there is no guard.
    """

    context: ServerContext
    tenant: str
    recogniser: Recogniser
    recording: Draft
    form: RecognitionForm
    checked: Checked | None

    @property
    def media_type(self) -> str:
        """The type of a whole answer."""
        if self.form.format in ("json", "verbose_json"):
            return "application/json"
        return "text/vtt; charset=utf-8" if self.form.format == "vtt" else "text/plain; charset=utf-8"

    async def whole(self) -> bytes:
        """Returns the body of the answer."""
        try:
            async with self._heard() as hearing:
                return await self._body(hearing)
        finally:
            self.recording.discard()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yields the events of the answer."""
        try:
            async with self._heard() as hearing:
                said: list[str] = []
                async with aclosing(self._texts(hearing)) as texts:
                    async for text in texts:
                        delta = text if said else text.lstrip()
                        if delta:
                            said.append(delta)
                            yield event(_encode(TextDelta(delta)))
                yield event(_encode(TextDone("".join(said))))
        finally:
            self.recording.discard()

    @asynccontextmanager
    async def _heard(self) -> AsyncGenerator[Hearing]:
        """Opens the recording, measured and charged. All of it counts as used once it is opened.

        Raises:
            RateLimited: it is longer than what is left.
        """
        model, translate = self.recogniser.model.name, self.form.options.translate
        source = "audio.translation" if translate else "audio.transcription"
        async with MediaUse(self.context.usage, model, source) as use:
            await use.reserve(1)  # nobody whose limit is reached waits for the model
            with Measured(self.context.metrics, model, source.removeprefix("audio.")) as meter:
                async with self.recogniser.hear(
                    self.tenant, self.recording.path, self.form.options
                ) as hearing:
                    await use.reserve(hearing.seconds)
                    use.seconds = hearing.seconds
                    meter.opened(hearing.seconds)
                    if self.checked is not None and hearing.language == "zh" and not translate:
                        self.checked.language = "zh"
                    yield hearing

    async def _body(self, hearing: Hearing) -> bytes:
        form = self.form
        if form.format in ("json", "text"):
            async with aclosing(self._texts(hearing)) as texts:
                text = "".join([one async for one in texts]).strip()
            if form.format == "text":
                return f"{text}\n".encode()
            return _encode(
                Translation(text) if form.options.translate else Transcription(text, _usage(hearing))
            )
        segments = await self._segments(hearing)
        if form.format == "srt":
            return srt(segments).encode()
        return vtt(segments).encode() if form.format == "vtt" else _encode(self._verbose(hearing, segments))

    def _verbose(self, hearing: Hearing, segments: Sequence[Segment]) -> VerboseTranscription:
        form = self.form
        words = [word for segment in segments for word in segment.words or ()]
        return VerboseTranscription(
            "translate" if form.options.translate else "transcribe",
            "english" if form.options.translate else language_name(hearing.language),
            round(hearing.seconds, 3),
            text_of(segments),
            [TranscribedWord(word.text.strip(), word.start, word.end) for word in words] if form.words else UNSET,
            [_described(one, number) for number, one in enumerate(segments)] if form.segments else UNSET,
            UNSET if form.options.translate else _usage(hearing),
        )  # fmt: skip

    async def _texts(self, hearing: Hearing) -> AsyncGenerator[str, None]:
        """Yields the transcript as the caller may see it, in the order in which it is found."""
        guard = self.context.guard
        if guard is None:
            async for segment in hearing.segments():
                yield segment.text
            return
        async with aclosing(guard.turns(self.checked, _turns(hearing))) as turns:
            async for turn in turns:
                for one in turn.events:
                    if isinstance(one, Content):
                        yield one.text
                if turn.finish_reason is not None:  # a refusal: nobody waits for the rest
                    return

    async def _segments(self, hearing: Hearing) -> list[Segment]:
        """Returns the segments as the caller may see them. Those in which something is redacted lose their words."""
        segments = [segment async for segment in hearing.segments()]
        guard = self.context.guard
        if guard is None or not segments:
            return segments
        text = "".join(segment.text for segment in segments)
        async with aclosing(guard.turns(self.checked, _whole(text))) as turns:
            seen = [turn async for turn in turns]
        told = "".join(one.text for turn in seen for one in turn.events if isinstance(one, Content))
        if told.strip() == text.strip():
            return segments
        assert self.checked is not None
        if not any(turn.finish_reason == "content_filter" for turn in seen):
            parts = [_retold(one, await guard.written(one.text, self.checked)) for one in segments]
            if "".join(one.text for one in parts).strip() == told.strip():
                return parts
        # What is found goes over the seams of segments, or is all of them: one has the text in their place.
        last = segments[-1]
        return [structs.replace(_retold(segments[0], told), end=last.end)]


async def _turns(hearing: Hearing) -> AsyncGenerator[Turn, None]:
    async for segment in hearing.segments():
        yield Turn(0, (Content(segment.text),), counts=Counts(prompt=0))
    yield Turn(0, (), finish_reason="stop", counts=Counts(prompt=0))


async def _whole(text: str) -> AsyncGenerator[Turn, None]:
    yield Turn(0, (Content(text),), counts=Counts(prompt=0))
    yield Turn(0, (), finish_reason="stop", counts=Counts(prompt=0))


def _retold(segment: Segment, text: str) -> Segment:
    if segment.text == text:
        return segment
    return structs.replace(segment, text=text, tokens=[], words=None if segment.words is None else [])


def _described(one: Segment, number: int) -> TranscribedSegment:
    return TranscribedSegment(
        number,
        one.seek,
        one.start,
        one.end,
        one.text,
        one.tokens,
        one.temperature,
        one.avg_logprob,
        one.compression_ratio,
        one.no_speech_prob,
    )


def _usage(hearing: Hearing) -> DurationUsage:
    return DurationUsage(round(hearing.seconds, 3))

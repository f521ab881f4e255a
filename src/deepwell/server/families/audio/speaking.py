"""`Speaking`: one text on its way to sound, measured."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import perf_counter

import msgspec

from deepwell.media.speech.options import SpeechRequest
from deepwell.media.speech.process import Sound
from deepwell.media.speech.programs.process import AnySpeaker
from deepwell.server.access.media_use import MediaUse
from deepwell.server.context import ServerContext
from deepwell.server.families.audio.speech_bodies import AudioDelta, AudioDone, SpeechUsage
from deepwell.server.http.sse import event
from deepwell.server.observe.generation import error_type
from deepwell.server.observe.record import Phase, current

__all__ = ["Speaking"]

_encode = msgspec.json.Encoder().encode
_OPERATION = "speech"
_HAN_S, _OTHER_S = 0.25, 0.07
"""Seconds that a Chinese character and any other take at speed 1."""


class Speaking:
    """One request."""

    def __init__(
        self, context: ServerContext, tenant: str, speaker: AnySpeaker, request: SpeechRequest
    ) -> None:
        self._tenant = tenant
        self._metrics = context.metrics
        self._usage = context.usage
        self._speaker = speaker
        self._request = request

    async def audio(self) -> AsyncGenerator[bytes, None]:
        """Yields the bytes of the file."""
        async with aclosing(self.sounds()) as sounds:
            async for sound in sounds:
                if sound.data:
                    yield sound.data

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yields the events of the stream."""
        tokens = 0
        async with aclosing(self.sounds()) as sounds:
            async for sound in sounds:
                tokens += sound.tokens
                if sound.data:
                    yield event(_encode(AudioDelta(base64.b64encode(sound.data).decode())))
        yield event(_encode(AudioDone(SpeechUsage(tokens, 0, tokens))))

    async def sounds(self) -> AsyncGenerator[Sound, None]:
        """Yields the sound, charged by what it is expected to last, and settled by what it lasts.

        Raises:
            RateLimited: that is more than is left.
        """
        async with MediaUse(self._usage, self._speaker.model.name, "audio.speech") as use:
            await use.reserve(_expected_s(self._request))
            async with aclosing(self._measured()) as sounds:
                async for sound in sounds:
                    use.characters += sound.characters
                    use.seconds += sound.seconds
                    yield sound

    async def _measured(self) -> AsyncGenerator[Sound, None]:
        """Yields the sound, and measures it."""
        metrics, model, record = self._metrics, self._speaker.model.name, current()
        begin = perf_counter()
        first = seconds = 0.0
        failure: BaseException | None = None
        metrics.waiting.begin(self, begin)
        try:
            async with aclosing(self._speaker.speak(self._tenant, self._request)) as sounds:
                async for sound in sounds:
                    if not first:
                        first = perf_counter()
                        metrics.waiting.end(self)
                        metrics.speech.first_sound.labels(model).observe(first - begin)
                    seconds += sound.seconds
                    yield sound
        except BaseException as error:
            failure = error
            raise
        finally:
            now = perf_counter()
            metrics.waiting.end(self)
            error = "" if isinstance(failure, GeneratorExit) else error_type(failure)
            began = begin if record is None else record.started
            metrics.generation(_OPERATION, model).duration(error).observe(now - began)
            metrics.speech.busy_seconds.labels(model).inc(now - begin)
            metrics.speech.seconds.labels(model).inc(seconds)
            if record is not None:
                record.error = record.error or error
                attributes = {"audio.seconds": round(seconds, 3), "audio.voice": self._request.voice.name}
                record.phases.append(Phase("speak", begin, now, attributes))


def _expected_s(request: SpeechRequest) -> float:
    """Returns about how long a text takes to say, in seconds."""
    text = "".join(piece.text for piece in request.pieces)
    han = sum("\u4e00" <= one <= "\u9fff" for one in text)
    return (han * _HAN_S + (len(text) - han) * _OTHER_S) / request.speed

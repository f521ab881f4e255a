"""`Speaker`: makes speech in a child process that can neither write, nor reach the network, nor take what it likes.

`python -m deepwell.media.speech.process FD` is the child. It loads one model and keeps it. A text is one call that begins it,
and one call for each piece, so that the first sentence is heard while the second is made. Texts of several requests take
turns, piece by piece.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidRequest, MissingDependency
from deepwell.media.speech.encode import Encoder, SpeechFormat, encoder_of
from deepwell.media.speech.kokoro import Kokoro
from deepwell.media.speech.options import SpeechModel, SpeechRequest
from deepwell.media.speech.pronounce import Pronouncer, Utterance
from deepwell.media.speech.sound import SAMPLE_RATE, joined, samples_of
from deepwell.media.speech.split import Pause, Piece
from deepwell.media.speech.voices import SpokenLanguage, Voice
from deepwell.media.turns import TurnRules, Turns
from deepwell.process.calls import CallEnded, CallProcess, answer_calls, limit_memory, limited, trim_memory
from deepwell.process.frames import Failure, failure_of

__all__ = ["NEEDED", "Sound", "Speaker", "SpeakerLimits", "SpeechBusy", "check_installed"]

NEEDED: Final = ("onnxruntime", "av", "jieba", "pypinyin")
"""Modules that speech needs; the extra `speech` brings them."""

MEMORY_BYTES: Final = 2560 << 20
MOST_TEXTS: Final = 64
"""Texts that one model works on or that wait for it; further ones are refused."""

_AT_A_TIME: Final = 8
_START_S: Final = 60.0
_PIECE_S: Final = 120.0
_NICE: Final = 5


class _Setup(msgspec.Struct, array_like=True, frozen=True):
    folder: bytes
    threads: int
    memory_bytes: int


class _Begin(msgspec.Struct, tag=1, array_like=True, frozen=True):
    id: int
    pieces: list[tuple[str, Pause]]
    language: SpokenLanguage
    voice: str
    british: bool
    speed: float
    format: SpeechFormat
    label: str


class _Next(msgspec.Struct, tag=2, array_like=True, frozen=True):
    id: int


class _Close(msgspec.Struct, tag=3, array_like=True, frozen=True):
    id: int


class _Started(msgspec.Struct, tag=1, array_like=True, frozen=True):
    pass


class _Done(msgspec.Struct, tag=2, array_like=True, frozen=True):
    pass


class Sound(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """Encoded sound of a piece of text.

    Attributes:
        data: the next bytes of the file.
        seconds: duration of the sound, with its pause.
        tokens: symbols that the model read for it.
        characters: length of the text that was said.
        last: nothing follows.
    """

    data: bytes
    seconds: float
    tokens: int
    characters: int
    last: bool


class SpeechBusy(DeepwellError):
    """Raised where a model has as many texts as it may have."""

    status = 503
    code = "overloaded"
    retry_after = 5


_encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(_Begin | _Next | _Close)
_answers = msgspec.msgpack.Decoder(_Started | _Done | Sound | Failure)


def check_installed() -> None:
    """Checks that the extra is installed, without importing it.

    Raises:
        MissingDependency: it is not.
    """
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise MissingDependency.of("speech_extra_missing", package=name)


@dataclass(frozen=True, slots=True)
class SpeakerLimits:
    """Limits of one model's process.

    Attributes:
        threads: processor threads that it computes with; 0: all that this process may use.
        memory_bytes: memory for data that it may take.
    """

    threads: int = 0
    memory_bytes: int = MEMORY_BYTES


class Speaker:
    """The parent's end for one model. The child starts with the first text.

    Attributes:
        model: the model.
    """

    def __init__(self, model: SpeechModel, limits: SpeakerLimits | None = None) -> None:
        self.model = model
        limits = limits or SpeakerLimits()
        threads = limits.threads or len(os.sched_getaffinity(0))
        setup = _Setup(os.fsencode(model.folder.absolute()), threads, limits.memory_bytes)
        calls = CallProcess(
            __name__, _encode(setup), launch_s=_START_S, reads=[model.folder], decode=_answers.decode
        )
        self._turns = Turns(calls, _RULES, "speak")

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._turns.pid

    async def speak(self, tenant: str, request: SpeechRequest) -> AsyncGenerator[Sound]:
        """Yields the sound of a text, piece by piece. A generator that is closed ends the work behind the piece at hand.

        Raises:
            InvalidRequest: a piece takes more than the limits.
            InvalidModelFile: the model cannot be loaded.
            MissingDependency: the extra `speech` is not installed.
            SpeechBusy: too many texts wait.
            EngineUnavailable: the child could not run, or was closed.
        """
        check_installed()
        async with self._turns.place(tenant):
            id = self._turns.new_id()
            try:
                await self._turns.ask(_encode(_begin(id, request)))
                last = False
                while not last:
                    sound = await self._turns.ask(_encode(_Next(id)))
                    assert isinstance(sound, Sound)
                    last = sound.last
                    yield sound
            finally:
                await asyncio.shield(self._turns.let_go(_encode(_Close(id))))

    async def close(self) -> None:
        """Ends the child and what it works on. The next text starts another."""
        await self._turns.close()


def _begin(id: int, request: SpeechRequest) -> _Begin:
    assert isinstance(request.voice, Voice)
    return _Begin(
        id,
        [(piece.text, piece.pause) for piece in request.pieces],
        request.language,
        request.voice.name,
        request.voice.british,
        request.speed,
        request.format,
        request.label,
    )


def _ended(error: CallEnded) -> DeepwellError:
    if error.killed or error.late or error.lost:
        return EngineUnavailable.of("speech_ended", reason=str(error))
    return InvalidRequest.of("speech_costly", reason=str(error), param="input")


_RULES: Final = TurnRules(
    _ended,
    lambda: SpeechBusy.of("speech_busy", most=MOST_TEXTS),
    call_s=_PIECE_S,
    at_a_time=_AT_A_TIME,
    most=MOST_TEXTS,
)


class _Text:
    """A text that is being said."""

    def __init__(self, request: _Begin) -> None:
        self.request = request
        self.pieces = deque(Piece(text, pause) for text, pause in request.pieces)
        self.utterances: deque[Utterance] = deque()
        self.encoder: Encoder = encoder_of(request.format, request.label)

    @property
    def ended(self) -> bool:
        return not (self.pieces or self.utterances)


class _Child:
    """The child's end: loads its model at the first message, then says texts."""

    def __init__(self) -> None:
        self._model: Kokoro | None = None
        self._pronouncer: Pronouncer | None = None
        self._texts: dict[int, _Text] = {}

    def answer(self, body: bytes) -> bytes:
        try:
            if self._model is None:
                return _encode(self._start(msgspec.msgpack.decode(body, type=_Setup)))
            request = _requests.decode(body)
            if isinstance(request, _Begin):
                self._texts[request.id] = _Text(request)
                return _encode(_Done())
            if isinstance(request, _Next):
                return _encode(self._next(request.id))
            self._texts.pop(request.id, None)
            trim_memory()
            return _encode(_Done())
        except DeepwellError as error:
            return _encode(failure_of(0, error))
        except ImportError as error:
            return _encode(failure_of(0, MissingDependency.of("speech_extra_missing", package=error.name)))
        except MemoryError:
            os.abort()  # little works after it; the parent starts another child
        except BaseException as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return _encode(failure_of(0, InvalidRequest.of("speech_costly", reason=reason, param="input")))

    def _start(self, setup: _Setup) -> _Started:
        sys.dont_write_bytecode = True
        os.nice(_NICE)
        limit_memory(setup.memory_bytes)
        folder = Path(os.fsdecode(setup.folder))
        pronouncer = Pronouncer(folder)
        pronouncer.prepare_libraries()
        pronouncer.prepare()
        self._model, self._pronouncer = Kokoro(folder, setup.threads), pronouncer
        return _Started()

    def _next(self, id: int) -> Sound:
        assert self._model is not None and self._pronouncer is not None
        text = self._texts.get(id)
        if text is None:
            raise EngineUnavailable.of("speech_ended", reason="another process took its place")
        request = text.request
        with limited(_PIECE_S):
            while text.pieces and not text.utterances:
                piece = text.pieces.popleft()
                text.utterances += self._pronouncer.utterances(
                    piece, request.language, british=request.british
                )
            if not text.utterances:
                return Sound(text.encoder.end(), 0.0, 0, 0, True)
            said = text.utterances.popleft()
            audio = self._model.sound(said.phonemes, request.voice, request.speed)
            samples = samples_of(joined(audio, said.pause, request.speed))
            data = text.encoder.add(samples)
            if text.ended:
                data += text.encoder.end()
            return Sound(data, len(samples) / SAMPLE_RATE, len(said.phonemes), len(said.text), text.ended)


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), _Child().answer)


if __name__ == "__main__":
    main(sys.argv[1])

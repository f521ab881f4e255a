"""`Recogniser`: recognises speech in a child process that can neither write, nor reach the network, nor take what it likes.

`python -m deepwell.media.recognition.process FD` is the child. It loads one model from its folder and keeps it. A recording is
one call that opens it, and one call for each segment, so that text comes while the rest is computed, and a cancelled request
ends the work. Recordings of one model wait for each other.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from deepwell.engine.machine import usable_cpus
from deepwell.errors import DeepwellError, EngineUnavailable, InvalidFile, InvalidModelFile, MissingDependency
from deepwell.media.audio.decode import decode_audio
from deepwell.media.recognition.model import RecognitionModel
from deepwell.media.recognition.options import Opened, RecognitionOptions, Segment
from deepwell.media.recognition.whisper import WhisperSession, load_model, prepare
from deepwell.media.turns import TurnRules, Turns
from deepwell.process.calls import (
    CallEnded,
    CallProcess,
    answer_calls,
    handed,
    limit_memory,
    limited,
    trim_memory,
)
from deepwell.process.frames import Failure, failure_of

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

__all__ = ["NEEDED", "Hearing", "Recogniser", "RecogniserLimits", "RecognitionBusy", "check_installed"]

NEEDED: Final = ("faster_whisper", "ctranslate2", "onnxruntime", "av")
"""Modules that recognition needs; the extra `speech` brings them."""

_BASE_BYTES: Final = 1 << 30  # libraries' own data, and the features of one piece
_WEIGHTS_FACTOR: Final = 3  # the file, the converted weights, and room for the beams
_SAMPLE_BYTES: Final = 16_000 * 2 * 3  # a second of sound: what is read, and a copy while it is joined
_START_S: Final = 60.0
_START_GB_S: Final = 60.0
_OPEN_S: Final = 60.0
_OPEN_PART: Final = 0.05  # of the longest duration
_SEGMENT_S: Final = 180.0
_SEGMENT_GB_S: Final = 600.0  # processor time of a 30 s window, for each GB of weights, with all its attempts
_MOST_RECORDINGS: Final = 64  # that one model works on or that wait for it; further ones are refused
_NICE: Final = 5


class _Setup(msgspec.Struct, array_like=True, frozen=True):
    folder: bytes
    threads: int
    memory_bytes: int
    most_s: float


class _Open(msgspec.Struct, tag=1, array_like=True, frozen=True):
    options: RecognitionOptions
    processor_s: float


class _Next(msgspec.Struct, tag=2, array_like=True, frozen=True):
    processor_s: float


class _Close(msgspec.Struct, tag=3, array_like=True, frozen=True):
    pass


class _Started(msgspec.Struct, tag=1, array_like=True, frozen=True):
    multilingual: bool


class _Ended(msgspec.Struct, tag=5, array_like=True, frozen=True):
    pass


_encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(_Open | _Next | _Close)
_answers = msgspec.msgpack.Decoder(_Started | Opened | Segment | _Ended | Failure)


class RecognitionBusy(DeepwellError):
    """Raised where a model has as many recordings as it may have."""

    status = 503
    code = "overloaded"
    retry_after = 5


def check_installed() -> None:
    """Checks that the extra is installed, without importing it.

    Raises:
        MissingDependency: it is not.
    """
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise MissingDependency.of("speech_extra_missing", package=name)


@dataclass(frozen=True, slots=True)
class RecogniserLimits:
    """Limits of one model's process.

    Attributes:
        threads: processor threads that it computes with; 0: all that this process may use.
        most_s: longest recording, in seconds.
    """

    threads: int = 0
    most_s: float = 3600.0

    def memory_bytes(self, model: RecognitionModel) -> int:
        """Returns the memory for data that the process of a model may take."""
        sound = int(self.most_s * _SAMPLE_BYTES)
        return _BASE_BYTES + _WEIGHTS_FACTOR * model.weight_bytes + sound


class Hearing:
    """A recording that is being recognised. `segments` gives its text as it is found."""

    def __init__(self, recogniser: Recogniser, opened: Opened) -> None:
        self._recogniser = recogniser
        self.language = opened.language
        self.probability = opened.probability
        self.seconds = opened.seconds
        self.container, self.codec = opened.container, opened.codec

    async def segments(self) -> AsyncGenerator[Segment]:
        """Yields the segments. Raises as `Recogniser.hear`."""
        while (segment := await self._recogniser.next_segment()) is not None:
            yield segment


class Recogniser:
    """The parent's end for one model. The child starts with the first recording.

    Attributes:
        model: the model.
    """

    def __init__(self, model: RecognitionModel, limits: RecogniserLimits | None = None) -> None:
        self.model = model
        self._limits = limits or RecogniserLimits()
        threads = self._limits.threads or usable_cpus()
        self._memory_bytes = self._limits.memory_bytes(model)
        setup = _Setup(os.fsencode(model.folder.absolute()), threads, self._memory_bytes, self._limits.most_s)
        gigabytes = model.weight_bytes / (1 << 30)
        self._open_s = _OPEN_S + _OPEN_PART * self._limits.most_s + _SEGMENT_GB_S * gigabytes
        self._segment_s = _SEGMENT_S + _SEGMENT_GB_S * gigabytes
        self._allowed_s = self._open_s  # of the call under way
        calls = CallProcess(
            __name__,
            _encode(setup),
            launch_s=_START_S + _START_GB_S * gigabytes,
            reads=[model.folder],
            decode=_answers.decode,
        )
        rules = TurnRules(
            self._ended,
            lambda: RecognitionBusy.of("recognition_busy", most=_MOST_RECORDINGS),
            call_s=self._segment_s,
            most=_MOST_RECORDINGS,
            started=self._not_started,
            alone=True,
        )
        self._turns = Turns(calls, rules, "recognise")

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._turns.pid

    @property
    def waiting(self) -> bool:
        """True while a recording is being recognised."""
        return self._turns.busy

    async def start(self, tenant: str) -> None:
        """Starts the child if there is none for a tenant. Raises as `hear`."""
        check_installed()
        async with self._turns.place(tenant):
            return

    @asynccontextmanager
    async def hear(self, tenant: str, path: Path, options: RecognitionOptions) -> AsyncGenerator[Hearing]:
        """Opens the recording at `path` when those before it have ended. A cancelled task ends the work.

        Raises:
            UnsupportedFile, InvalidFile: see `decode_audio`; or the recording takes more than the limits.
            InvalidRequest: the model cannot do what the options ask for.
            InvalidModelFile: the model cannot be loaded.
            MissingDependency: the extra `speech` is not installed.
            RecognitionBusy: too many recordings wait.
            EngineUnavailable: the child could not run, or was closed; the file may be sound.
        """
        check_installed()
        async with self._turns.place(tenant):
            self._allowed_s = self._open_s
            with handed(path) as file:
                opened = await self._turns.ask(_encode(_Open(options, self._open_s)), self._open_s, file=file)
            assert isinstance(opened, Opened)
            try:
                yield Hearing(self, opened)
            finally:
                await self._turns.let_go(_encode(_Close()))  # if that fails, the next one takes its place

    async def next_segment(self) -> Segment | None:
        """Returns the next segment of the open recording; None: there is none. Raises as `hear`."""
        self._allowed_s = self._segment_s
        answer = await self._turns.ask(_encode(_Next(self._segment_s)))
        return answer if isinstance(answer, Segment) else None

    async def close(self) -> None:
        """Ends the child and what it works on. The next recording starts another."""
        await self._turns.close()

    def _not_started(self, error: CallEnded) -> DeepwellError:
        if error.killed or error.late or error.lost:
            return EngineUnavailable.of("recognition_ended", reason=str(error))
        return InvalidModelFile.of(
            "recognition_model_unusable", folder=self.model.folder, reason=str(error), param="model"
        )

    def _ended(self, error: CallEnded) -> DeepwellError:
        if error.killed or error.late or error.lost:
            return EngineUnavailable.of("recognition_ended", reason=str(error))
        return InvalidFile.of(
            "audio_costly",
            megabytes=self._memory_bytes >> 20,
            seconds=f"{self._allowed_s:.0f}",
            reason=str(error),
            param="file",
        )


class _Child:
    """The child's end: loads its model at the first message, then recognises recordings."""

    def __init__(self) -> None:
        self._model: WhisperModel | None = None
        self._setup: _Setup | None = None
        self._session: WhisperSession | None = None
        self._segments: Generator[Segment] | None = None

    def answer(self, body: bytes, file: int = -1) -> bytes:
        try:
            if self._setup is None:
                return _encode(self._start(msgspec.msgpack.decode(body, type=_Setup)))
            request = _requests.decode(body)
            if isinstance(request, _Open):
                return _encode(self._open(request, file))
            return _encode(self._next(request) if isinstance(request, _Next) else self._close())
        except DeepwellError as error:
            return _encode(failure_of(0, error))
        except ImportError as error:
            missing = MissingDependency.of("speech_extra_missing", package=error.name)
            return _encode(failure_of(0, missing))
        except MemoryError:
            os.abort()  # little works after it; the parent starts another child
        except BaseException as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return _encode(failure_of(0, InvalidFile.of("audio_damaged", reason=reason, param="file")))

    def _start(self, setup: _Setup) -> _Started:
        sys.dont_write_bytecode = True
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.nice(_NICE)
        limit_memory(setup.memory_bytes)
        folder = Path(os.fsdecode(setup.folder))
        prepare()
        try:
            self._model = load_model(folder, setup.threads)
        except (ValueError, RuntimeError) as error:
            raise InvalidModelFile.of(
                "recognition_model_unusable", folder=folder, reason=str(error)[:200], param="model"
            ) from None
        self._setup = setup
        return _Started(self._model.model.is_multilingual)

    def _open(self, request: _Open, file: int) -> Opened:
        assert self._model is not None and self._setup is not None
        self._close()
        with limited(request.processor_s):
            sound = decode_audio(file, self._setup.most_s)
            session = self._session = WhisperSession(self._model, sound.samples, request.options)
        self._segments = session.segments()
        return Opened(session.language, session.probability, sound.seconds, sound.container, sound.codec)

    def _next(self, request: _Next) -> Segment | _Ended:
        if self._segments is None:
            raise EngineUnavailable.of("recognition_ended", reason="another process took its place")
        with limited(request.processor_s):
            return next(self._segments, None) or _Ended()

    def _close(self) -> _Ended:
        self._session = self._segments = None
        trim_memory()
        return _Ended()


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), _Child().answer)


if __name__ == "__main__":
    main(sys.argv[1])

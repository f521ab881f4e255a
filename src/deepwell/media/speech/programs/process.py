"""`ProgramSpeaker`: has a text said by a program, and encodes its sound in a child process.

The program is confined, and its memory, its processor time, its silence and the length of its sound are limited. Its bytes go
to a confined child, `python -m deepwell.media.speech.programs.process FD`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import struct
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidRequest, MissingDependency
from deepwell.media.speech.encode import Encoder, SpeechFormat, encoder_of
from deepwell.media.speech.options import SpeechModel, SpeechRequest
from deepwell.media.speech.process import Sound, Speaker, SpeakerLimits, SpeechBusy
from deepwell.media.speech.programs.backends import PROGRAM_ENVIRON, PROGRAMS, ProgramVoice, command_of
from deepwell.media.speech.programs.resample import Resampler
from deepwell.media.turns import TurnRules, Turns
from deepwell.process.calls import CallEnded, CallProcess, answer_calls, limit_memory, limited
from deepwell.process.confinement.launch import end_program, program_command
from deepwell.process.frames import Failure, failure_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["AnySpeaker", "ProgramSpeaker", "speaker_of"]

MOST_TEXTS: Final = 64
_AT_A_TIME: Final = 2
_START_S: Final = 60.0
_PIECE_S: Final = 30.0
_SILENCE_S: Final = 60.0
"""Time in which a program has to make further sound."""
_PROGRAM_BYTES: Final = 2 << 30
_PROGRAM_S: Final = 60  # of processor time, and a half for each character
_MEMORY_BYTES: Final = 512 << 20
_PIECE_BYTES: Final = 1 << 16
_SAMPLE_BYTES: Final = 2
_SOUND_S: Final = 30.0  # of sound, and two for each character
_REASON_BYTES: Final = 2000
_HEADER_BYTES: Final = 44


class _Setup(msgspec.Struct, array_like=True, frozen=True):
    memory_bytes: int


class _Begin(msgspec.Struct, tag=1, array_like=True, frozen=True):
    id: int
    rate: int
    format: SpeechFormat
    label: str


class _Add(msgspec.Struct, tag=2, array_like=True, frozen=True):
    id: int
    samples: bytes


class _End(msgspec.Struct, tag=3, array_like=True, frozen=True):
    id: int


class _Close(msgspec.Struct, tag=4, array_like=True, frozen=True):
    id: int


class _Started(msgspec.Struct, tag=1, array_like=True, frozen=True):
    pass


class _Bytes(msgspec.Struct, tag=2, array_like=True, frozen=True):
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(_Begin | _Add | _End | _Close)
_answers = msgspec.msgpack.Decoder(_Started | _Bytes | Failure)


def _ended(error: CallEnded) -> DeepwellError:
    return EngineUnavailable.of("speech_ended", reason=str(error))


_RULES: Final = TurnRules(
    _ended,
    lambda: SpeechBusy.of("speech_busy", most=MOST_TEXTS),
    call_s=_PIECE_S,
    at_a_time=_AT_A_TIME,
    most=MOST_TEXTS,
)


class ProgramSpeaker:
    """The parent's end for one model of a program; used as `Speaker` is.

    Args:
        silence_s: time in which the program has to make further sound.

    Attributes:
        model: the model.
    """

    def __init__(self, model: SpeechModel, *, silence_s: float = _SILENCE_S) -> None:
        self.model = model
        self._silence_s = silence_s
        calls = CallProcess(
            __name__, _encode(_Setup(_MEMORY_BYTES)), launch_s=_START_S, decode=_answers.decode
        )
        self._turns = Turns(calls, _RULES, "speak")

    @property
    def pid(self) -> int:
        """Process id of the child that encodes; 0 if there is none."""
        return self._turns.pid

    async def speak(self, tenant: str, request: SpeechRequest) -> AsyncGenerator[Sound]:
        """Yields the sound of a text as the program makes it. A generator that is closed ends the program.

        Raises:
            InvalidRequest: the program makes no sound, or more than the limits, or does not speak at the speed.
            InvalidModelFile: the voice cannot be read.
            MissingDependency: the program is not here, or the extra `speech` that a coded format needs.
            SpeechBusy: too many texts wait.
            EngineUnavailable: the program failed, or the child was closed.
        """
        if request.format not in ("wav", "pcm") and importlib.util.find_spec("av") is None:
            raise MissingDependency.of("speech_extra_missing", package="av")
        async with self._turns.place(tenant):
            id = self._turns.new_id()
            try:
                async with aclosing(self._sounds(id, request)) as sounds:
                    async for sound in sounds:
                        yield sound
            finally:
                await asyncio.shield(self._turns.let_go(_encode(_Close(id))))

    async def close(self) -> None:
        """Ends the child and what it works on. The next text starts another."""
        await self._turns.close()

    async def _sounds(self, id: int, request: SpeechRequest) -> AsyncGenerator[Sound]:
        assert isinstance(request.voice, ProgramVoice)
        backend = self.model.backend
        command, rate = command_of(backend, self.model.folder, request.voice, request.speed)
        text = "\n".join(piece.text for piece in request.pieces)
        most_s = _SOUND_S + 2 * len(text) / request.speed
        reads = [self.model.folder] if backend == "piper" else []
        said, made = _Said(command, reads, text, PROGRAMS[backend], self._silence_s), 0
        async with aclosing(said.pieces()) as pieces:
            async for piece in pieces:
                if not made:
                    if not rate:
                        rate, piece = _without_header(piece, PROGRAMS[backend])
                    await self._turns.ask(_encode(_Begin(id, rate, request.format, request.label)))
                made += len(piece) // _SAMPLE_BYTES
                if made > most_s * rate:
                    raise InvalidRequest.of(
                        "speech_costly", reason=f"more than {most_s:.0f} s of sound", param="input"
                    )
                data = await self._asked(_Add(id, piece))
                yield Sound(data, len(piece) / _SAMPLE_BYTES / rate, 0, 0, False)
        if not made:
            raise InvalidRequest.of("speech_nothing", param="input")
        yield Sound(await self._asked(_End(id)), 0.0, 0, len(text), True)

    async def _asked(self, message: _Add | _End) -> bytes:
        found = await self._turns.ask(_encode(message))
        assert isinstance(found, _Bytes)
        return found.data


AnySpeaker = Speaker | ProgramSpeaker
"""The parent's end for a model, whatever makes its sound."""


def speaker_of(model: SpeechModel, limits: SpeakerLimits | None = None) -> AnySpeaker:
    """Returns the parent's end for a model."""
    return Speaker(model, limits) if model.backend == "kokoro" else ProgramSpeaker(model)


class _Said:
    """One run of a program.

    Args:
        command: the program and its arguments; no shell reads them.
        reads: files and folders of its voice.
        text: given on standard input, in UTF-8.
        name: of the program, for errors.
    """

    def __init__(
        self, command: list[str], reads: Sequence[Path], text: str, name: str, silence_s: float
    ) -> None:
        seconds = _PROGRAM_S + len(text) // 2
        self._command = program_command(command, _PROGRAM_BYTES, seconds, reads, PROGRAM_ENVIRON)
        # "[[" begins phonemes in espeak-ng, which no text means.
        self._text = text.replace("[[", "[ [").encode() + b"\n"
        self._name, self._silence_s = name, silence_s

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yields the bytes of its standard output, an even number each time but for a last odd one, which is left out.

        Raises:
            EngineUnavailable: it failed, or was silent for too long.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise self._failed(str(error)) from None
        sides = [asyncio.create_task(self._give(process)), asyncio.create_task(_reason(process))]
        assert process.stdout is not None
        rest, least = b"", _HEADER_BYTES
        try:
            while data := await asyncio.wait_for(process.stdout.read(_PIECE_BYTES), self._silence_s):
                rest += data
                whole = len(rest) // _SAMPLE_BYTES * _SAMPLE_BYTES
                if whole >= least:
                    yield rest[:whole]
                    rest, least = rest[whole:], _SAMPLE_BYTES
            if await asyncio.wait_for(process.wait(), self._silence_s):
                raise self._failed(await sides[1] or f"status {process.returncode}")
        except TimeoutError:
            raise self._failed(f"no sound for {self._silence_s:.0f} s") from None
        finally:
            end_program(process.pid)
            while await process.stdout.read(
                _PIECE_BYTES
            ):  # what is left in the pipe, which is closed at its end alone
                continue
            await asyncio.gather(*sides, return_exceptions=True)
            await process.wait()

    async def _give(self, process: Process) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # a program may end before it has read all
            process.stdin.write(self._text)
            await process.stdin.drain()
        process.stdin.close()
        with contextlib.suppress(OSError):
            await process.stdin.wait_closed()

    def _failed(self, reason: str) -> EngineUnavailable:
        return EngineUnavailable.of("speech_program_failed", program=self._name, reason=reason)


async def _reason(process: Process) -> str:
    """Returns the end of what a program says of its failure."""
    assert process.stderr is not None
    kept = b""
    while data := await process.stderr.read(_PIECE_BYTES):
        kept = (kept + data)[-_REASON_BYTES:]
    lines = kept.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def _without_header(data: bytes, name: str) -> tuple[int, bytes]:
    """Returns the sample rate of a WAV stream of one channel of 16 bits, and what follows its header."""
    if data[:4] == b"RIFF" and data[8:16] == b"WAVEfmt " and data[36:40] == b"data":
        kind, channels, rate = struct.unpack_from("<HHI", data, 20)
        if (kind, channels, data[34]) == (1, 1, 16) and 8_000 <= rate <= 48_000:
            return rate, data[_HEADER_BYTES:]
    raise EngineUnavailable.of(
        "speech_program_failed", program=name, reason="its sound is not WAV of 16 bits"
    )


class _Text:
    """The sound of a text on its way into a file."""

    def __init__(self, asked: _Begin) -> None:
        self._resampler = Resampler(asked.rate)
        self._encoder: Encoder = encoder_of(asked.format, asked.label)

    def add(self, samples: bytes) -> bytes:
        import numpy as np

        return self._put(self._resampler.add(np.frombuffer(samples, "<i2")))

    def end(self) -> bytes:
        return self._put(self._resampler.end()) + self._encoder.end()

    def _put(self, samples: NDArray[np.int16]) -> bytes:
        return self._encoder.add(samples)


class _Child:
    """The child's end."""

    def __init__(self) -> None:
        self._started = False
        self._texts: dict[int, _Text] = {}

    def answer(self, body: bytes) -> bytes:
        try:
            if not self._started:
                return _encode(self._start(msgspec.msgpack.decode(body, type=_Setup)))
            with limited(_PIECE_S):
                return _encode(_Bytes(self._answer(_requests.decode(body))))
        except DeepwellError as error:
            return _encode(failure_of(0, error))
        except MemoryError:
            os.abort()  # little works after it; the parent starts another child
        except BaseException as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return _encode(failure_of(0, InvalidRequest.of("speech_costly", reason=reason, param="input")))

    def _start(self, setup: _Setup) -> _Started:
        sys.dont_write_bytecode = True
        limit_memory(setup.memory_bytes)
        self._started = True
        return _Started()

    def _answer(self, request: _Begin | _Add | _End | _Close) -> bytes:
        if isinstance(request, _Begin):
            self._texts[request.id] = _Text(request)
            return b""
        if isinstance(request, _Close):
            self._texts.pop(request.id, None)
            return b""
        text = self._texts.get(request.id)
        if text is None:
            raise EngineUnavailable.of("speech_ended", reason="another process took its place")
        return text.add(request.samples) if isinstance(request, _Add) else text.end()


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), _Child().answer)


if __name__ == "__main__":
    main(sys.argv[1])

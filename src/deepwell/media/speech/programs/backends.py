"""The programs that speak: where they are, which voices they have, and how they are called.

espeak-ng and Piper are under the GPL. They are called as programs, with a vector of arguments and the text on standard input,
and nothing of them is imported, linked or shipped.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, cast

from deepwell.errors import EngineUnavailable, InvalidModelFile, InvalidRequest, MissingDependency
from deepwell.media.speech.voices import ALIASES, SpokenLanguage
from deepwell.models.formats.kinds import piper_file
from deepwell.process.confinement.launch import program_command

__all__ = [
    "ESPEAK",
    "PROGRAMS",
    "PROGRAM_ENVIRON",
    "PiperVoice",
    "ProgramVoice",
    "SpeechBackend",
    "choose_program_voice",
    "command_of",
    "program_of",
    "read_piper_voice",
    "voices_of",
]

SpeechBackend = Literal["kokoro", "espeak", "piper"]
"""Maker of a voice: the network in onnxruntime, or a program."""

ESPEAK: Final = "espeak"
"""Name of the model that is the program espeak-ng."""

PROGRAMS: Final[dict[SpeechBackend, str]] = {"espeak": "espeak-ng", "piper": "piper"}
PROGRAM_ENVIRON: Final = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
}
"""The environment of the programs, without this process's keys."""

_INSTALL: Final = {"espeak-ng": "apt-get install espeak-ng", "piper": "pipx install piper-tts"}
_DEFAULTS: Final[dict[SpokenLanguage, str]] = {"en": "en-us", "zh": "cmn"}
_WORDS_A_MINUTE: Final = 175  # of espeak-ng at its own speed
_LEAST_WORDS: Final = 80  # below which espeak-ng grows no slower
_LINE: Final = re.compile(r"\s*\d+\s+([A-Za-z0-9-]{2,40})\s+\S+/(\S)\s+\S")
_GENDERS: Final[dict[str, Literal["female", "male", "unknown"]]] = {"F": "female", "M": "male"}
_LIST_S: Final = 20.0
_LIST_BYTES: Final = 512 << 20
_MOST_CONFIG_BYTES: Final = 1 << 20
_RATES: Final = range(8_000, 48_001)
_HAN: Final = ("zh", "cmn", "yue", "hak", "nan", "ja", "ko")


@dataclass(frozen=True, slots=True)
class ProgramVoice:
    """A voice of a program.

    Attributes:
        accent: language and region, as the program writes them.
        number: number of the speaker in a voice of several; -1: there is one.
    """

    name: str
    accent: str
    gender: Literal["female", "male", "unknown"] = "unknown"
    number: int = -1

    @property
    def reads_han(self) -> bool:
        """Tells whether its language is written in Chinese characters."""
        return self.accent.lower().startswith(_HAN)


@dataclass(frozen=True, slots=True)
class PiperVoice:
    """The voice file of Piper in a folder, and what its settings say."""

    file: Path
    rate: int
    language: str
    speakers: tuple[tuple[str, int], ...]


def program_of(backend: SpeechBackend) -> str:
    """Returns the path of a program.

    Raises:
        MissingDependency: it is not on the PATH.
    """
    name = PROGRAMS[backend]
    found = shutil.which(name)
    if found is None:
        raise MissingDependency.of(
            "speech_program_missing", program=name, command=_INSTALL[name], param="model"
        )
    return str(Path(found).absolute())


def voices_of(backend: SpeechBackend, folder: Path) -> list[ProgramVoice]:
    """Returns the voices of a program, or of the voice file in a folder, sorted by name.

    Raises:
        MissingDependency: espeak-ng is not here.
        InvalidModelFile: the settings of the voice cannot be read.
    """
    if backend == "espeak":
        return list(_espeak_voices(program_of("espeak")))
    voice = read_piper_voice(folder)
    if voice.speakers:
        return [ProgramVoice(name, voice.language, number=number) for name, number in voice.speakers]
    return [ProgramVoice(voice.file.name.removesuffix(".onnx"), voice.language)]


def choose_program_voice(
    asked: str | None, language: SpokenLanguage, backend: SpeechBackend, known: list[ProgramVoice]
) -> ProgramVoice:
    """Returns the voice for a text: the one asked for, or the one that a name of OpenAI's, or none, means.

    Raises:
        InvalidRequest: there is no such voice, or it reads no Chinese and the text is Chinese.
    """
    names = {voice.name: voice for voice in known}
    name = asked
    if name is None or (name in ALIASES and name not in names):
        name = _DEFAULTS[language] if backend == "espeak" else known[0].name
    if name not in names:
        shown = ", ".join(names)
        raise InvalidRequest.of("speech_voice_unknown", voice=name[:96], known=shown, param="voice")
    voice = names[name]
    if language == "zh" and not voice.reads_han:
        raise InvalidRequest.of("speech_voice_no_chinese", voice=name, param="voice")
    return voice


def command_of(
    backend: SpeechBackend, folder: Path, voice: ProgramVoice, speed: float
) -> tuple[list[str], int]:
    """Returns the command that says what it is given, and the sample rate of its sound; 0: a WAV header tells it.

    Raises:
        InvalidRequest: the program does not speak at the speed.
        MissingDependency: the program is not here.
        InvalidModelFile: the settings of the voice cannot be read.
    """
    program = program_of(backend)
    if backend == "espeak":
        words = round(_WORDS_A_MINUTE * speed)
        if words < _LEAST_WORDS:
            least = round(_LEAST_WORDS / _WORDS_A_MINUTE, 2)
            raise InvalidRequest.of("speech_speed", speed=speed, least=least, most=4.0, param="speed")
        return [program, "-v", voice.name, "-s", str(words), "-b", "1", "--stdin", "--stdout"], 0
    found = read_piper_voice(folder)
    file = str(found.file.absolute())
    command = [program, "--model", file, "--config", f"{file}.json", "--output_raw"]
    command += ["--length_scale", f"{1 / speed:.4f}", "--sentence_silence", "0.2"]
    return command + (["--speaker", str(voice.number)] if voice.number >= 0 else []), found.rate


def read_piper_voice(folder: Path) -> PiperVoice:
    """Returns the voice of Piper in a folder.

    Raises:
        InvalidModelFile: there is none, or its settings cannot be read.
    """
    file = piper_file(folder)
    try:
        if file is None:
            raise ValueError("there is not one .onnx file with its .onnx.json")
        with Path(f"{file}.json").open("rb") as config:
            data = config.read(_MOST_CONFIG_BYTES + 1)
        if len(data) > _MOST_CONFIG_BYTES:
            raise ValueError(f"{file.name}.json has more than {_MOST_CONFIG_BYTES >> 20} MiB")
        return _piper_voice(file, json.loads(data))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise InvalidModelFile.of(
            "speech_voice_unusable", folder=folder, reason=reason, param="model"
        ) from None


def _piper_voice(file: Path, config: object) -> PiperVoice:
    fields = cast("dict[str, dict[str, object]]", config)
    rate, language = fields["audio"]["sample_rate"], fields.get("language", {}).get("code", "")
    if not isinstance(rate, int) or rate not in _RATES or not isinstance(language, str):
        raise ValueError("its sample rate or language is none")
    speakers = fields.get("speaker_id_map") or {}
    if not all(isinstance(number, int) and number >= 0 for number in speakers.values()):
        raise ValueError("its speakers have no numbers")
    pairs = sorted((name, cast("int", number)) for name, number in speakers.items())
    return PiperVoice(file, rate, language[:16].replace("_", "-"), tuple(pairs))


@cache
def _espeak_voices(program: str) -> tuple[ProgramVoice, ...]:
    command = program_command([program, "--voices"], _LIST_BYTES, int(_LIST_S), environ=PROGRAM_ENVIRON)
    try:
        found = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIST_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependency.of(
            "speech_program_missing", program=program, command=_INSTALL["espeak-ng"], param="model"
        ) from error
    voices: dict[str, ProgramVoice] = {}
    for line in found.stdout.decode("utf-8", "replace").splitlines():
        if (parts := _LINE.match(line)) is not None:
            gender = _GENDERS.get(parts[2], "unknown")
            voices.setdefault(parts[1], ProgramVoice(parts[1], parts[1], gender))
    if not voices:
        raise EngineUnavailable.of("speech_program_failed", program="espeak-ng", reason="it lists no voices")
    return tuple(voices[name] for name in sorted(voices))

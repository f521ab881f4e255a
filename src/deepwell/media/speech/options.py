"""Requests for speech, and the models that make it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.media.speech.encode import SpeechFormat
from deepwell.media.speech.programs.backends import (
    ESPEAK,
    ProgramVoice,
    SpeechBackend,
    choose_program_voice,
    voices_of,
)
from deepwell.media.speech.pronounce import language_of, pieces_of
from deepwell.media.speech.split import Piece, clean, split_text
from deepwell.media.speech.voices import SpokenLanguage, Voice, choose_voice, voices_in
from deepwell.models.formats.kinds import kind_of, piper_file
from deepwell.models.store.store import ModelStore

__all__ = [
    "DEFAULT_MODEL",
    "MAX_SPEED",
    "MIN_SPEED",
    "MOST_CHARACTERS",
    "SpeechModel",
    "SpeechRequest",
    "open_speech_model",
    "planned_speech",
    "stored_speech_models",
]

DEFAULT_MODEL: Final = "kokoro"
MIN_SPEED: Final = 0.25
MAX_SPEED: Final = 4.0
MOST_CHARACTERS: Final = 1_000_000
"""Longest text: some twenty hours of speech."""


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """A speech model in the store, or a program.

    Attributes:
        backend: what makes its sound.
    """

    name: str
    folder: Path
    backend: SpeechBackend = "kokoro"

    @classmethod
    def at(cls, name: str, folder: Path) -> SpeechModel:
        """Returns the model in a folder."""
        return cls(name, folder, "kokoro" if piper_file(folder) is None else "piper")

    @property
    def voices(self) -> list[Voice] | list[ProgramVoice]:
        """Its voices, sorted by name. Raises as `voices_of`."""
        return voices_in(self.folder) if self.backend == "kokoro" else voices_of(self.backend, self.folder)

    def choose(self, asked: str | None, language: SpokenLanguage) -> Voice | ProgramVoice:
        """Returns the voice for a text in a language. Raises as `choose_voice` and `voices_of`."""
        if self.backend == "kokoro":
            return choose_voice(asked, language, voices_in(self.folder))
        return choose_program_voice(asked, language, self.backend, voices_of(self.backend, self.folder))


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """Text that is read aloud.

    Attributes:
        pieces: what is said in one go, at least one.
        language: language of most of the text.
        speed: 1 is the voice's own.
        label: text of the label of generated content; empty: the file gets none.
    """

    pieces: tuple[Piece, ...]
    language: SpokenLanguage
    voice: Voice | ProgramVoice
    speed: float = 1.0
    format: SpeechFormat = "wav"
    label: str = ""


def planned_speech(
    model: SpeechModel,
    text: str,
    *,
    voice: str | None = None,
    speed: float = 1.0,
    format: SpeechFormat = "wav",
    label: str = "",
) -> SpeechRequest:
    """Returns what a text is to be said like.

    Raises:
        InvalidRequest: the text has nothing to say, other scripts or too many characters, the voice is unknown or reads no
            Chinese, or the speed is out of range.
    """
    if not MIN_SPEED <= speed <= MAX_SPEED:
        raise InvalidRequest.of("speech_speed", speed=speed, least=MIN_SPEED, most=MAX_SPEED, param="speed")
    if len(text) > MOST_CHARACTERS:
        raise InvalidRequest.of("speech_text_long", count=len(text), most=MOST_CHARACTERS, param="input")
    language = language_of(text)
    if model.backend == "kokoro":
        pieces = pieces_of(text)
    elif not (pieces := split_text(clean(text))):  # a program may read any script
        raise InvalidRequest.of("speech_nothing", param="input")
    return SpeechRequest(tuple(pieces), language, model.choose(voice, language), speed, format, label)


def stored_speech_models(store: ModelStore) -> list[str]:
    """Returns the names of the speech models in the store."""
    return [name for name in store.names() if kind_of(store.root / name) == "speech"]


def open_speech_model(store: ModelStore, name: str) -> SpeechModel:
    """Returns a speech model by its name or path. `espeak` is the program espeak-ng, unless a stored model has that name.

    Raises:
        ModelNotFound: it is not in the store.
        InvalidRequest: it is a model of another kind.
    """
    if name == ESPEAK and name not in store.names():
        return SpeechModel(name, store.root, "espeak")
    try:
        stored = store.resolve(name)
    except ModelNotFound:
        if name != DEFAULT_MODEL:
            raise
        raise ModelNotFound.of("speech_model_missing", name=name, param="model") from None
    if kind_of(stored.path) != "speech":
        raise InvalidRequest.of("speech_model_kind", name=name, fit=DEFAULT_MODEL, param="model")
    return SpeechModel.at(stored.name, stored.path)

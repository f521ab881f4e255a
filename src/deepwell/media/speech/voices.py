"""The voices of Kokoro, and the names that OpenAI's clients send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from deepwell.errors import InvalidRequest

__all__ = ["ALIASES", "DEFAULT_VOICES", "SpokenLanguage", "Voice", "choose_voice", "voices_in"]

SpokenLanguage = Literal["en", "zh"]

DEFAULT_VOICES: Final[Mapping[SpokenLanguage, str]] = {"en": "af_heart", "zh": "zf_xiaoxiao"}

# OpenAI's name: the voice for English text, and the one for Chinese text.
ALIASES: Final[Mapping[str, tuple[str, str]]] = {
    "alloy": ("af_alloy", "zf_xiaoxiao"),
    "ash": ("am_michael", "zm_yunxi"),
    "ballad": ("bm_lewis", "zm_yunyang"),
    "cedar": ("am_fenrir", "zm_yunjian"),
    "coral": ("af_bella", "zf_xiaoyi"),
    "echo": ("am_echo", "zm_yunjian"),
    "fable": ("bm_fable", "zm_yunxia"),
    "marin": ("af_heart", "zf_xiaoxiao"),
    "nova": ("af_nova", "zf_xiaoyi"),
    "onyx": ("am_onyx", "zm_yunjian"),
    "sage": ("af_sarah", "zf_xiaobei"),
    "shimmer": ("af_sky", "zf_xiaoni"),
    "verse": ("am_puck", "zm_yunxi"),
}


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice by its name, such as `af_heart`: the first letter is the language, the second is f or m.

    Attributes:
        language: language of the person who spoke.
        british: the English is British.
    """

    name: str

    @property
    def language(self) -> SpokenLanguage:
        return "zh" if self.name.startswith("z") else "en"

    @property
    def british(self) -> bool:
        return self.name.startswith("b")

    @property
    def gender(self) -> Literal["female", "male"]:
        return "female" if self.name[1:2] == "f" else "male"

    @property
    def accent(self) -> str:
        """The language and the region, as BCP 47 writes them."""
        return {"a": "en-US", "b": "en-GB", "z": "zh-CN"}[self.name[0]]


def voices_in(folder: Path) -> list[Voice]:
    """Returns the voices of a model's folder, sorted by name."""
    names = sorted(path.stem for path in (folder / "voices").glob("*.bin"))
    return [Voice(name) for name in names if name[:1] in ("a", "b", "z")]


def choose_voice(asked: str | None, language: SpokenLanguage, known: Iterable[Voice]) -> Voice:
    """Returns the voice for a text: the one asked for, or the one that an alias or the default means in its language.

    Raises:
        InvalidRequest: there is no such voice, or an English voice is asked to read Chinese.
    """
    names = {voice.name: voice for voice in known}
    name = asked or DEFAULT_VOICES[language]
    if name in ALIASES:
        name = ALIASES[name][language == "zh"]
    if name not in names:
        raise InvalidRequest.of("speech_voice_unknown", voice=name, known=", ".join(names), param="voice")
    voice = names[name]
    if language == "zh" and voice.language != "zh":
        raise InvalidRequest.of(
            "speech_voice_language", voice=name, fit=DEFAULT_VOICES["zh"], alias="alloy", param="voice"
        )
    return voice

"""`Pronouncer`: from a text in Chinese and English to the phonemes of each piece."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidRequest
from deepwell.media.speech.chinese_numbers import spoken_chinese
from deepwell.media.speech.english import English
from deepwell.media.speech.english_numbers import spoken_english
from deepwell.media.speech.mandarin import HAN, Mandarin
from deepwell.media.speech.split import Pause, Piece, clean, cut_phonemes, split_text
from deepwell.media.speech.vocabulary import SYMBOLS
from deepwell.media.speech.voices import SpokenLanguage

__all__ = ["MOST_PHONEMES", "Pronouncer", "Utterance", "language_of", "pieces_of"]

MOST_PHONEMES: Final = 400
"""Longest input of the model in one go; its best length is between 100 and 250."""

_IS_HAN: Final = re.compile(f"[{HAN}]")
_ENGLISH_RUN: Final = re.compile(
    r"[A-Za-z\u00c0-\u024f\u0370-\u03ff][A-Za-z\u00c0-\u024f\u0370-\u03ff'’ \-/&@+.]*"
)
_PUNCTUATION: Final = str.maketrans(
    {
        "，": ", ",
        "、": ", ",
        "。": ". ",
        "．": ". ",
        "！": "! ",
        "？": "? ",
        "：": ": ",
        "；": "; ",
        "（": " (",
        "）": ") ",
        "《": " “",
        "》": "” ",
        "「": " “",
        "」": "” ",
        "『": " “",
        "』": "” ",
        "【": " “",
        "】": "” ",
        "‘": "“",
        "’": "'",
        "–": "—",
        "-": " ",
        "/": " ",
        "_": " ",
        "~": " ",
        "\n": " ",
    }
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """Phonemes that are said in one go, the text that they are of, and the pause behind them."""

    phonemes: str
    text: str
    pause: Pause


def language_of(text: str) -> SpokenLanguage:
    """Returns the language of a text: Chinese if it has at least as many Chinese characters as words in letters."""
    han = len(_IS_HAN.findall(text))
    words = len(re.findall(r"[^\W\d_]+", _IS_HAN.sub(" ", text)))
    return "zh" if han and han >= words else "en"


def pieces_of(text: str) -> list[Piece]:
    """Returns the pieces of a text as they will be said.

    Raises:
        InvalidRequest: the text has letters of other scripts, or nothing that can be said.
    """
    text = clean(text)
    for character in text:
        if character.isalpha() and not _is_readable(character):
            raise InvalidRequest.of("speech_script", character=character, param="input")
    pieces = split_text(text)
    if not pieces:
        raise InvalidRequest.of("speech_nothing", param="input")
    return pieces


def _is_readable(character: str) -> bool:
    if _IS_HAN.match(character):
        return True
    name = unicodedata.name(character, "")
    return name.startswith(
        ("LATIN ", "GREEK ", "FEMININE ORDINAL", "MASCULINE ORDINAL", "MODIFIER LETTER", "MICRO")
    )


class Pronouncer:
    """Pronounces texts with the lexicons in a model's folder, which are loaded when a text needs them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mandarin = Mandarin()
        self._english: dict[bool, English] = {}

    def prepare_libraries(self) -> None:
        """Loads the libraries and their dictionaries."""
        self._mandarin.prepare()

    def prepare(self) -> None:
        """Loads all that any text may need of the model's folder, so that the first text does not wait for it."""
        for british in (False, True):
            self._reader(british=british)

    def utterances(self, piece: Piece, language: SpokenLanguage, *, british: bool) -> list[Utterance]:
        """Returns the utterances of a piece, mostly one.

        Args:
            language: language of the text that the piece is of; numbers of a piece without words are said in it.
        """
        phonemes = self.phonemes(piece.text, language, british=british)
        parts = cut_phonemes(phonemes, MOST_PHONEMES)
        return [
            Utterance(
                part, piece.text if not place else "", "word" if place + 1 < len(parts) else piece.pause
            )
            for place, part in enumerate(parts)
        ]

    def phonemes(self, text: str, language: SpokenLanguage, *, british: bool) -> str:
        """Returns the phonemes of a text as the model reads them."""
        if any(map(str.isalpha, text)):
            language = language_of(text)
        text = spoken_chinese(text) if language == "zh" else text
        if _ENGLISH_RUN.search(text) or language == "en":
            reader = self._reader(british=british)
            text = self._spoken(text, language, reader)
        text = self._mandarin.phonemes(text.translate(_PUNCTUATION)) if _IS_HAN.search(text) else text
        text = "".join(symbol for symbol in text.translate(_PUNCTUATION) if symbol in SYMBOLS)
        text = re.sub(r"\s+", " ", text)
        return re.sub(r" (?=[,.;:!?)”])", "", text).strip()

    def _spoken(self, text: str, language: SpokenLanguage, reader: English) -> str:
        if language == "en" and not _IS_HAN.search(text):
            return reader.phonemes(spoken_english(text))
        if language == "en":
            text = spoken_english(text)
        return _ENGLISH_RUN.sub(lambda found: f" {reader.phonemes(spoken_english(found[0]))} ", text)

    def _reader(self, *, british: bool) -> English:
        if british not in self._english:
            self._english[british] = English(self._folder, british=british)
        return self._english[british]

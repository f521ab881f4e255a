"""Data of the head of sounds: clips with the features of their frames, and texts with their pronunciations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import DeepwellError
from deepwell.media.images.training.pictures import PictureSet
from deepwell.media.recognition.whisper import load_model
from deepwell.media.space.features import SoundEncoder
from deepwell.media.space.training.clips import Clip, shipped_clips
from deepwell.media.space.training.sentences import Language, sentences_of
from deepwell.media.space.training.words import chinese_words, english_phrases
from deepwell.media.speech.pronounce import Pronouncer, language_of
from deepwell.media.speech.voices import Voice

__all__ = ["Pronunciations", "features_of_sounds", "spelled_texts"]

_GRAMMAR: Final = 2950
"""Sentences of each language that nobody says."""

_LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")
_MOST_UNITS: Final = 46


def features_of_sounds(
    clips: Sequence[Clip],
    sounds: Sequence[NDArray[np.int16]],
    model: Path,
    folder: Path,
    threads: int,
    progress: Callable[[int, int], None] = lambda done, all: None,
) -> list[NDArray[np.float32]]:
    """Returns the features of clips, [frames, 512] each. They are computed once, and lie in the folder from then on."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder: SoundEncoder | None = None
    found: list[NDArray[np.float32]] = []
    for done, (clip, sound) in enumerate(zip(clips, sounds, strict=True)):
        progress(done, len(clips))
        path = folder / f"{clip.name}.npy"
        if not path.is_file():
            encoder = encoder or SoundEncoder(load_model(model, threads))
            partial = path.with_suffix(".partial.npy")
            np.save(partial, encoder.encode(sound).astype(np.float16))
            partial.replace(path)
        found.append(np.load(path, allow_pickle=False).astype(np.float32))
    return found


def spelled_texts(pictures: PictureSet, packages: Path) -> list[list[str]]:
    """Returns the texts that are learnt without a voice, by kind.

    They are training sentences; titles and tags of training pictures; common words and phrases of English; those of Chinese.
    None of them is a sentence, title or name of the other parts.
    """
    rows = [pictures.rows[index] for index in pictures.where("train")]
    words = [text for row in rows for text in (row.title, *row.tags, *row.titles_zh, *row.tags_zh)]
    kinds = [
        [text for language in _LANGUAGES for text in sentences_of(language, "train", _GRAMMAR, seed=1)],
        [text for text in words if text],
        english_phrases(packages),
        chinese_words(),
    ]
    kept = _others(pictures)
    return [[text for text in dict.fromkeys(kind) if text.casefold() not in kept] for kind in kinds]


def _others(pictures: PictureSet) -> set[str]:
    """Returns the texts of development and of the held-out part, which training never reads."""
    found: set[str] = set()
    for part in ("development", "held-out"):
        rows = [pictures.rows[index] for index in pictures.where(part)]
        found |= {text.casefold() for row in rows for text in (row.title, *row.titles_zh)}
        found |= {clip.text.casefold() for clips in shipped_clips(pictures, part) for clip in clips}
    return found


@dataclass(frozen=True, slots=True)
class Pronunciations:
    """Units of texts, as Kokoro's phonemes have them.

    Attributes:
        units: the symbols; their numbers are from 1.
        of: pronunciations of each text, American and British for English.
    """

    units: str
    of: dict[str, tuple[tuple[int, ...], ...]]

    @staticmethod
    def read(texts: Iterable[str], speech: Path) -> Pronunciations:
        """Returns the pronunciations of those texts that have some, and are not too long."""
        pronouncer = Pronouncer(speech)
        spoken: dict[str, list[str]] = {}
        for text in texts:
            language = language_of(text)
            try:
                found = [
                    pronouncer.phonemes(text, language, british=british)
                    for british in ((False, True) if language == "en" else (False,))
                ]
            except DeepwellError:
                continue
            if all(2 < len(one) <= _MOST_UNITS * 2 for one in found):
                spoken[text] = found
        units = "".join(sorted({unit for found in spoken.values() for one in found for unit in one}))
        numbers = {unit: number for number, unit in enumerate(units, 1)}
        of = {
            text: tuple(tuple(numbers[unit] for unit in one) for one in found)
            for text, found in spoken.items()
        }
        return Pronunciations(units, of)

    def said(self, clip: Clip) -> tuple[int, ...]:
        """Returns the units of a clip, as its voice says them."""
        found = self.of[clip.text]
        return found[min(int(Voice(clip.voice).british), len(found) - 1)]

    def short(self, text: str) -> bool:
        """Returns whether a text is short enough to be learnt without a voice."""
        return text in self.of and len(self.of[text][0]) <= _MOST_UNITS

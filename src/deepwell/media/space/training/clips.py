"""Clips: sentences said by Kokoro, made once and kept. Training, development and the held-out part share no voice."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.media.audio.decode import SAMPLE_RATE
from deepwell.media.images.training.pictures import PictureSet
from deepwell.media.space.training.sentences import Language, Part, sentences_of
from deepwell.media.speech.kokoro import Kokoro
from deepwell.media.speech.pronounce import Pronouncer, pieces_of
from deepwell.media.speech.voices import Voice

__all__ = ["VOICES", "Clip", "make_clips", "planned_clips", "shipped_clips", "spoken_captions"]

_TRAIN_EN: Final = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nova af_river am_adam am_echo am_fenrir am_liam am_michael "
    "am_onyx bf_alice bf_emma bm_daniel bm_fable"
)
VOICES: Final[dict[tuple[Language, Part], tuple[str, ...]]] = {
    ("en", "train"): tuple(_TRAIN_EN.split()),
    ("en", "development"): ("am_puck", "bf_isabella"),
    ("en", "held-out"): ("af_sarah", "af_sky", "am_eric", "bf_lily", "bm_george", "bm_lewis"),
    ("zh", "train"): ("zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao", "zm_yunjian", "zm_yunxi"),
    ("zh", "development"): ("zm_yunxia",),
    ("zh", "held-out"): ("zf_xiaoyi", "zm_yunyang"),
}
"""Kokoro's voices, dealt to the parts."""

_KOKORO_RATE: Final = 24_000
_TAPS: Final = 96
_QUIET: Final = 0.01  # of the loudest sample; sound below it is cut from both ends


_SENTENCES: Final[dict[Part, int]] = {"train": 243, "development": 60, "held-out": 150}
_CAPTIONS: Final[dict[tuple[Language, Part], int]] = {
    ("en", "train"): 200,
    ("zh", "train"): 120,
    ("en", "development"): 50,
    ("zh", "development"): 30,
    ("en", "held-out"): 80,
    ("zh", "held-out"): 40,
}
_SAYABLE: Final[dict[Language, re.Pattern[str]]] = {
    "en": re.compile(r"[A-Za-z][A-Za-z ’'\-,]{3,38}"),
    "zh": re.compile(r"[\u4e00-\u9fff]{2,12}"),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A sentence, and how it is said."""

    part: Part
    language: Language
    text: str
    voice: str
    speed: float

    @property
    def name(self) -> str:
        """The name of its file."""
        return sha256(f"{self.text}|{self.voice}|{self.speed}".encode()).hexdigest()[:20]


def planned_clips(texts: Sequence[str], language: Language, part: Part) -> list[Clip]:
    """Returns a clip for each text, said in turn by the voices of the part; speeds of training differ."""
    draw = random.Random(f"{language} {part}")  # noqa: S311
    voices = VOICES[language, part]
    found: list[Clip] = []
    for place, text in enumerate(texts):
        speed = round(draw.uniform(0.9, 1.15), 2) if part == "train" else 1.0
        found.append(Clip(part, language, text, voices[place % len(voices)], speed))
    return found


def spoken_captions(pictures: PictureSet, language: Language, part: Part) -> dict[str, int]:
    """Returns captions that can be said, with the number of the picture of each: of emoji and of clip art alone."""
    indices = pictures.where(part, sources={row.source for row in pictures.rows} - {"fashion"})
    random.Random(f"{part}{language}").shuffle(indices)  # noqa: S311
    found: dict[str, int] = {}
    for index in indices:
        row = pictures.rows[index]
        text = row.title if language == "en" else (*row.titles_zh, "")[0]
        if _SAYABLE[language].fullmatch(text):
            found[text] = index
    return dict(list(found.items())[: _CAPTIONS[language, part]])


def shipped_clips(pictures: PictureSet, part: Part) -> tuple[list[Clip], list[Clip]]:
    """Returns the clips of a part: sentences, and captions of its pictures. Training has 806."""
    sentences: list[Clip] = []
    captions: list[Clip] = []
    languages: tuple[Language, ...] = ("en", "zh")
    for language in languages:
        sentences += planned_clips(sentences_of(language, part, _SENTENCES[part]), language, part)
        captions += planned_clips(list(spoken_captions(pictures, language, part)), language, part)
    return sentences, captions


def make_clips(
    clips: Sequence[Clip],
    model: Path,
    folder: Path,
    threads: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[NDArray[np.int16]]:
    """Returns the sounds of clips at 16 kHz. Each is made once, and lies in the folder from then on.

    Args:
        model: folder of Kokoro.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kokoro: Kokoro | None = None
    pronouncer = Pronouncer(model)
    sounds: list[NDArray[np.int16]] = []
    for done, clip in enumerate(clips):
        progress(done, len(clips))
        path = folder / f"{clip.name}.npy"
        if not path.exists():
            kokoro = kokoro or Kokoro(model, threads)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, _said(clip, kokoro, pronouncer))
            part.replace(path)
        sounds.append(np.load(path))
    progress(len(clips), len(clips))
    return sounds


def _said(clip: Clip, kokoro: Kokoro, pronouncer: Pronouncer) -> NDArray[np.int16]:
    british = Voice(clip.voice).british
    sounds = [
        kokoro.sound(utterance.phonemes, clip.voice, clip.speed)
        for piece in pieces_of(clip.text)
        for utterance in pronouncer.utterances(piece, clip.language, british=british)
    ]
    sound = _resampled(np.concatenate(sounds))
    loud = np.flatnonzero(np.abs(sound) > _QUIET * np.abs(sound).max())
    sound = sound[max(loud[0] - SAMPLE_RATE // 20, 0) : loud[-1] + SAMPLE_RATE // 20]
    return np.clip(np.rint(sound * 32767.0), -32768, 32767).astype(np.int16)


def _resampled(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns sound of 24 kHz at 16 kHz: two samples for three, behind a low pass of a windowed sinc."""
    places = np.arange(-_TAPS, _TAPS + 1)
    taps = np.sinc(places / 3.0) * np.hamming(len(places)) * (2.0 / 3.0)
    wide = np.zeros(len(sound) * 2)
    wide[::2] = sound
    return np.convolve(wide, taps, mode="same")[::3].astype(np.float32)

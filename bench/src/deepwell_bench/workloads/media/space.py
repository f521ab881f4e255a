"""Held-out pictures, sentences and spoken captions of the space of text, image and sound. They are frozen by their hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidFile
from deepwell.media.images.training.pictures import Picture, PictureSet
from deepwell.media.images.training.shipped import HELD_OUT_SHA256
from deepwell.media.recognition.whisper import load_model
from deepwell.media.space.features import ImageEncoder, SoundEncoder, prepared_image
from deepwell.media.space.heads import unit
from deepwell.media.space.training.clips import Clip, make_clips, shipped_clips, spoken_captions
from deepwell.media.space.training.pictures import features_of_pictures
from deepwell.media.space.training.sentences import Language
from deepwell.media.space.training.spoken import features_of_sounds

__all__ = ["SpaceModels", "SpaceWorkload", "Spoken"]

Array = NDArray[np.float32]
_LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")
_BATCH: Final = 16


@dataclass(frozen=True, slots=True)
class SpaceModels:
    """The models below the heads.

    Attributes:
        embed: returns e5's unit vectors of texts.
        centre: what all of those share [384].
        image_encoder: file of EfficientNet-Lite0.
        speech: folder of Kokoro.
        recognition: folder of Whisper base.
    """

    embed: Callable[[Sequence[str]], Array]
    centre: Array
    image_encoder: Path
    speech: Path
    recognition: Path
    threads: int


@dataclass(frozen=True, slots=True)
class Spoken:
    """A clip: what it says, the place of its picture among the held-out ones or -1, its sound and its frames."""

    text: str
    language: Language
    voice: str
    picture: int
    sound: NDArray[np.int16]
    frames: Array


class SpaceWorkload:
    """Data of the rows on the space.

    Args:
        cache: folder for clips, which are made once.

    Raises:
        InvalidFile: the pictures are not the frozen ones.
    """

    def __init__(self, models: SpaceModels, pictures: PictureSet, cache: Path) -> None:
        if pictures.fingerprint("held-out") != HELD_OUT_SHA256:
            raise InvalidFile(
                "the held-out pictures are not the frozen ones", fix="make the set anew, or freeze it anew"
            )
        self._models, self._pictures, self._cache = models, pictures, cache
        self._indices = pictures.where("held-out")
        self.rows: list[Picture] = [pictures.rows[index] for index in self._indices]
        self._vectors: dict[str, Array] = {}

    @property
    def training_clips(self) -> int:
        """Number of clips of the training."""
        return sum(map(len, shipped_clips(self._pictures, "train")))

    def vectors(self, texts: Sequence[str]) -> Array:
        """Returns the space's vectors of texts [n, 384]."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            vectors = unit(self._models.embed(new) - self._models.centre)
            self._vectors |= dict(zip(new, vectors, strict=True))
        return np.stack([self._vectors[text] for text in texts])

    def image_features(
        self, changed: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None
    ) -> Array:
        """Returns the features of the held-out pictures [500, 2048], each changed before if a change is given."""
        encoder = ImageEncoder(self._models.image_encoder, self._models.threads)
        found: list[Array] = []
        for begin in range(0, len(self._indices), _BATCH):
            images = [self._pictures.images[index] for index in self._indices[begin : begin + _BATCH]]
            images = [changed(one) for one in images] if changed else images
            found.append(encoder.encode(np.stack([prepared_image(one) for one in images])))
        return np.concatenate(found)

    def training_pictures(self) -> tuple[Array, list[list[str]]]:
        """Returns the features of the training pictures [n, 2048], and the captions of each. They are computed once."""
        kept = self._pictures.where(
            "train", sources={row.source for row in self._pictures.rows} - {"fashion"}
        )
        encoder = ImageEncoder(self._models.image_encoder, self._models.threads)
        self._cache.mkdir(parents=True, exist_ok=True)
        features = features_of_pictures(self._pictures, kept, encoder, self._cache / "train.npz")
        return features, [self._pictures.rows[index].captions() for index in kept]

    def training_sounds(self) -> list[Spoken]:
        """Returns the clips of the training."""
        return self._spoken([clip for some in shipped_clips(self._pictures, "train") for clip in some], {})

    def sentences(self) -> list[Spoken]:
        """Returns the held-out sentences, said by unseen voices."""
        return self._spoken(shipped_clips(self._pictures, "held-out")[0], {})

    def captions(self) -> list[Spoken]:
        """Returns the spoken captions of held-out pictures."""
        places = {index: place for place, index in enumerate(self._indices)}
        of = {
            text: places[index]
            for language in _LANGUAGES
            for text, index in spoken_captions(self._pictures, language, "held-out").items()
        }
        return self._spoken(shipped_clips(self._pictures, "held-out")[1], of)

    def frames(self, sound: NDArray[np.int16]) -> Array:
        """Returns the features of a sound."""
        return self._encoder.encode(sound)

    def transcribed(self, spoken: Sequence[Spoken]) -> list[str]:
        """Returns what Whisper writes, told the language."""
        model: Any = load_model(self._models.recognition, self._models.threads)
        texts: list[str] = []
        for one in spoken:
            segments, _ = model.transcribe(one.sound.astype(np.float32) / 32768.0, language=one.language)
            texts.append("".join(segment.text for segment in segments).strip())
        return texts

    def _all_frames(self, clips: Sequence[Clip], sounds: Sequence[NDArray[np.int16]]) -> list[Array]:
        folder, models = self._cache / "sounds", self._models
        return features_of_sounds(clips, sounds, models.recognition, folder, models.threads)

    @cached_property
    def _encoder(self) -> SoundEncoder:
        return SoundEncoder(load_model(self._models.recognition, self._models.threads))

    def _spoken(self, clips: Sequence[Clip], pictures: dict[str, int]) -> list[Spoken]:
        sounds = make_clips(clips, self._models.speech, self._cache / "clips", self._models.threads)
        return [
            Spoken(clip.text, clip.language, clip.voice, pictures.get(clip.text, -1), sound, frames)
            for clip, sound, frames in zip(clips, sounds, self._all_frames(clips, sounds), strict=True)
        ]

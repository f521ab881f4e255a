"""`Space`: the encoders and the heads together. It makes vectors of texts, images and sounds that are compared by cosine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepwell.media.space.features import ImageEncoder, SoundEncoder, prepared_image
from deepwell.media.space.fusion import SIGNS, Fused, Fusion, Modality, Sensed
from deepwell.media.space.heads import Array, ImageHead, unit
from deepwell.media.space.sound import SoundHead
from deepwell.media.space.weights import SHIPPED, SpaceWeights

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

__all__ = ["Space"]


class Space:
    """One space of text, image and sound.

    Args:
        image_encoder: file that `deepwell media train space` makes.
        recognition: Whisper base, loaded by `media.recognition.whisper.load_model`.
        weights: folder of the heads.
        threads: processor threads of the image encoder.

    Raises:
        InvalidModelFile: the encoder or the heads cannot be used.
    """

    def __init__(
        self, image_encoder: Path, recognition: WhisperModel, weights: Path = SHIPPED, threads: int = 1
    ) -> None:
        found = SpaceWeights.read(weights)
        self.config = found.config
        self._centre = found.tensors["centre"]
        self._image_encoder = ImageEncoder(image_encoder, threads)
        self._sound_encoder = SoundEncoder(recognition)
        self._image, self._sound = ImageHead(found.part("image")), SoundHead(found.part("sound"))
        self._fusion = Fusion(found.part("fusion"))

    def text(self, vector: Array) -> Sensed:
        """Returns what a text is here. `vector` is e5's [384], of the text behind `config.prefix`."""
        return Sensed(unit(vector - self._centre), np.zeros(SIGNS, np.float32))

    def image(self, image: NDArray[np.uint8]) -> Sensed:
        """Returns what an image [h, w, 3] is here."""
        vectors, signs = self._image.sensed(self._image_encoder.encode(prepared_image(image)[None]))
        return Sensed(vectors[0], signs[0])

    def sound(self, samples: NDArray[np.int16]) -> Sensed:
        """Returns what the speech in a sound of 16 kHz is here."""
        return Sensed(*self._sound.sensed(self._sound_encoder.encode(samples)))

    def fused(self, present: Mapping[Modality, Sensed]) -> Fused:
        """Returns one vector of several modalities, and the weight that each had."""
        return self._fusion(present)

"""The models by which a server senses images and sounds, found in the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell.media.space.features import ENCODER_FILE
from deepwell.media.space.weights import SHIPPED, SpaceConfig
from deepwell.models.formats.kinds import kind_of
from deepwell.models.store.store import ModelStore

__all__ = ["MEMORY_BYTES", "SenseModels", "SensingLimits", "encoder_file", "find_models"]

MEMORY_BYTES: Final = 2 << 30
"""Memory for data that the process may take: an image of the most pixels, Whisper base and the image encoder."""

_HEARING: Final = (SpaceConfig().sound_encoder, "whisper-base")


@dataclass(frozen=True, slots=True)
class SenseModels:
    """Files and folders of the models. What is None is not here.

    Attributes:
        image: file of the image encoder.
        sound: folder of Whisper base.
        safety: folder of the model that tells how unsafe an image is.
        weights: folder of the heads and of the names.
    """

    image: Path | None = None
    sound: Path | None = None
    safety: Path | None = None
    weights: Path = SHIPPED


@dataclass(frozen=True, slots=True)
class SensingLimits:
    """Limits of the process.

    Attributes:
        threads: processor threads of the models; 0: all that this process may use.
        memory_bytes: memory for data that it may take.
        image_s, sound_s: processor time that one image, and one sound, may take.
    """

    threads: int = 0
    memory_bytes: int = MEMORY_BYTES
    image_s: float = 20.0
    sound_s: float = 60.0


def encoder_file(models_dir: Path) -> Path:
    """Returns the place of the image encoder's file beside a store."""
    return models_dir.parent / "space" / ENCODER_FILE


def find_models(models_dir: Path, safety: Path | None = None) -> SenseModels:
    """Returns the models that are here."""
    store = ModelStore(models_dir)
    names = store.names()
    sound = next(
        (
            store.root / name
            for name in _HEARING
            if name in names and kind_of(store.root / name) == "recognition"
        ),
        None,
    )
    encoder = encoder_file(models_dir)
    return SenseModels(encoder if encoder.is_file() else None, sound, safety)

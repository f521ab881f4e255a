"""A space without models: pictures and sounds whose bytes name the text that they mean, and e5 by the words of a text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepwell.errors import InvalidFile, ModelNotFound
from deepwell.media.space.heads import unit
from deepwell.media.space.options import SenseModels
from deepwell.media.space.process import Heard, Seen, Sensing
from deepwell.media.space.tags import Tag
from deepwell.media.space.weights import SHIPPED, SpaceWeights
from deepwell.storage.knowledge.stores import StoredStore

__all__ = ["PNG", "WAV", "FakeSensing", "WordEmbedder", "use_fake_space"]

PNG = b"\x89PNG\r\n\x1a\n"
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt "

Array = NDArray[np.float32]


class WordEmbedder:
    """e5's stand-in: the common centre, and a direction for each word."""

    name, hash, dimensions, max_tokens = "e5-small-q4", "word-1", 384, 32

    def __init__(self) -> None:
        self.centre = SpaceWeights.centre_of(SHIPPED)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(_words(text)) for text in texts]

    async def embed(self, texts: Sequence[str], input_type: str) -> Array:
        found = np.stack([self.centre + 0.4 * meaning(text) for text in texts])
        return unit(found.astype(np.float32))


def meaning(text: str) -> Array:
    """The direction of a text, of unit length."""
    found = np.zeros(384, np.float32)
    for word in _words(text):
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
        found += np.random.default_rng(seed).standard_normal(384).astype(np.float32)
    return unit(found)


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word not in ("query", "passage")]


@dataclass
class FakeSensing:
    """`Sensing` over files of the kind `PNG + b"red apple"`. A word `unsafe` makes a picture so."""

    models: SenseModels = field(default_factory=SenseModels)
    looked: list[str] = field(default_factory=list[str])

    async def image(self, tenant: str, data: bytes) -> Seen:
        if self.models.image is None:
            raise ModelNotFound.of("space_image_missing")
        if not data.startswith(PNG):
            raise InvalidFile.of("image_damaged", reason="it is none", param="image")
        shown = data[len(PNG) :].decode()
        self.looked.append(shown)
        tags = (Tag("fruit", "水果", 0.5),)
        unsafe = 0.99 if "unsafe" in shown else 0.01
        return Seen(meaning(shown), tags, "something", "某物", 8, 6, unsafe, np.ones(4, np.float32))

    async def hear(self, tenant: str, data: bytes) -> Heard:
        if self.models.sound is None:
            raise ModelNotFound.of("space_sound_missing")
        return Heard(meaning(data[len(WAV) :].decode()), np.ones(4, np.float32), 1.25)

    async def close(self) -> None: ...


class _Embedders:
    """`Embedders` with the one."""

    def __init__(self, _models_dir: Path | None = None) -> None:
        self._embedder = WordEmbedder()

    async def named(self, _name: str) -> WordEmbedder:
        return self._embedder

    async def of_store(self, _store: StoredStore) -> WordEmbedder:
        return self._embedder

    async def close(self) -> None: ...


def use_fake_space(patch: pytest.MonkeyPatch, *, image: bool = True, sound: bool = True) -> list[FakeSensing]:
    """Makes the servers of a test sense without models. Returns what they open."""
    opened: list[FakeSensing] = []
    here = Path(__file__)
    models = SenseModels(here if image else None, here if sound else None, here)

    def opening(models: SenseModels, limits: object = None) -> FakeSensing:
        opened.append(FakeSensing(models))
        return opened[-1]

    assert {"image", "hear", "close"} <= set(dir(Sensing))
    patch.setattr("deepwell.media.space.process.Sensing", opening)
    for place in ("media.space.options", "media.space.process", "server.senses.knowledge"):
        patch.setattr(f"deepwell.{place}.find_models", lambda *_: models)
    patch.setattr("deepwell.knowledge.embedders.Embedders", _Embedders)
    return opened

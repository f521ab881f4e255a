"""`knowledge_senses`: what looks at the pictures of knowledge bases and listens to their recordings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError, InvalidFile
from deepwell.knowledge.media.senses import Look, Senses, TranscriptSegment
from deepwell.media.images.decode import MOST_BYTES
from deepwell.media.images.process import ImageRefused
from deepwell.media.recognition.options import RecognitionOptions
from deepwell.media.space.anchored import anchored
from deepwell.media.space.options import find_models
from deepwell.media.space.process import Seen
from deepwell.media.space.weights import SpaceConfig
from deepwell.server.families.audio.recognisers import Recognisers
from deepwell.server.options import ImageServing, RecognitionServing
from deepwell.server.senses.space import ServerSpace

__all__ = ["description", "knowledge_senses"]

_CHUNK: Final = 1 << 20

Refused = Callable[[], object]
"""Is called where the safety model refuses a picture."""


def knowledge_senses(
    images: ImageServing,
    recognition: RecognitionServing,
    space: ServerSpace | None = None,
    refused: Refused | None = None,
) -> Senses:
    """Returns the senses of this process. They open their models when a file first needs them.

    Args:
        space: the space that others use too, who close it; None: one of its own.
        refused: is told of pictures that the safety model refuses.
    """
    own = ServerSpace(images) if space is None else None
    # Of their own: recordings of one process wait for each other, and an hour of ingestion would hold up requests.
    recognisers = Recognisers(recognition)

    async def close() -> None:
        await recognisers.close()
        if own is not None:
            await own.close()

    viewer = _SpaceViewer(images, space or own or ServerSpace(images), refused)
    return Senses(viewer, _RecogniserListener(recognition, recognisers), close)


def description(seen: Seen) -> str:
    """Returns what is seen in a picture as text, in English and Chinese; empty: nothing is recognised."""
    captions = " / ".join(dict.fromkeys(one for one in (seen.caption, seen.caption_zh) if one))
    names = ", ".join(dict.fromkeys(tag.name for tag in seen.tags if tag.name))
    names_zh = "、".join(dict.fromkeys(tag.name_zh for tag in seen.tags if tag.name_zh))
    words = "; ".join(one for one in (names, names_zh) if one)
    parts = (f"perhaps {captions}" if captions else "", f"words: {words}" if words else "")
    return ". ".join(part for part in parts if part)


class _SpaceViewer:
    """Looks at pictures by the space of text, image and sound."""

    def __init__(self, images: ImageServing, space: ServerSpace, refused: Refused | None) -> None:
        self._images, self._space, self._refused = images, space, refused

    def identity(self) -> str:
        try:
            models = find_models(self._images.models_dir or Path(os.devnull))
        except DeepwellError:
            return ""
        if models.image is None:
            return ""
        return "\0".join(
            _hash_of(path) for path in (models.image, *sorted(models.weights.glob("*.safetensors")))
        )

    async def look(self, tenant: str, path: Path) -> Look:
        data = await asyncio.to_thread(_bytes_of, path)
        try:
            seen = await self._space.look(tenant, data)
        except ImageRefused:
            if self._refused is not None:
                self._refused()
            raise
        vector = await asyncio.to_thread(anchored, seen.vector)
        return Look(description(seen), vector, SpaceConfig().text_encoder)


class _RecogniserListener:
    """Transcribes recordings by the recognition model of the setting."""

    def __init__(self, options: RecognitionServing, recognisers: Recognisers) -> None:
        self._options, self._recognisers = options, recognisers

    def identity(self) -> str:
        return self._options.model

    async def listen(self, tenant: str, path: Path) -> Sequence[TranscriptSegment]:
        recogniser = await self._recognisers.find(self._options.model)
        async with recogniser.hear(tenant, path, RecognitionOptions()) as hearing:
            return [TranscriptSegment(one.start, one.end, one.text) async for one in hearing.segments()]


def _bytes_of(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise InvalidFile.of("image_bytes", megabytes=MOST_BYTES >> 20)
    return path.read_bytes()


def _hash_of(path: Path) -> str:
    found = path.stat()
    return _hashed(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=16)
def _hashed(path: Path, _size: int, _changed: int) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()

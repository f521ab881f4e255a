"""`Vocabulary`: names for a vector of an image, in English and Chinese.

The shipped names are those of emoji. A vector is compared with each, less what that name has in common with any picture: some
names lie near everything. The limits from which a name is given were learnt on the development pictures of the space.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.errors import InvalidModelFile
from deepwell.media.space.heads import DIMENSIONS, Array
from deepwell.media.space.weights import SHIPPED

__all__ = ["MOST_TAGS", "Name", "Named", "Tag", "Vocabulary", "VocabularyLimits", "shipped_vocabulary"]

MOST_TAGS: Final = 5
"""Most tags of an image."""

_VECTORS: Final = "names.safetensors"
_NAMES: Final = "names.json"
_MOST_BYTES: Final = 16 << 20
_STEPS: Final = 127.0


@dataclass(frozen=True, slots=True)
class Name:
    """A name of the vocabulary.

    Attributes:
        name, name_zh: the name in two languages.
        caption: it says what a whole picture shows; otherwise it is a word about one.
    """

    name: str
    name_zh: str
    caption: bool


@dataclass(frozen=True, slots=True)
class Tag:
    """A name that was found.

    Attributes:
        name, name_zh: the name in two languages.
        score: cosine above what the name has in common with any picture.
    """

    name: str
    name_zh: str
    score: float


@dataclass(frozen=True, slots=True)
class Named:
    """Names of one image. All of them are guesses.

    Attributes:
        tags: the best first; empty: none is near.
        caption: the nearest caption; None: none is near.
    """

    tags: tuple[Tag, ...]
    caption: Tag | None


@dataclass(frozen=True, slots=True)
class VocabularyLimits:
    """Least scores, at which half of the names given are right for the pictures that they were learnt on.

    Attributes:
        tag: of a word.
        caption: of a caption.
    """

    tag: float = 0.34
    caption: float = 0.32


class Vocabulary:
    """A list of names with their vectors.

    Args:
        names: the names.
        vectors: unit vectors [n, 384] of the names, in the space.
        common: mean cosine of each name and pictures [n].
        limits: least scores.
    """

    def __init__(
        self, names: Sequence[Name], vectors: Array, common: Array, limits: VocabularyLimits | None = None
    ) -> None:
        self.names = tuple(names)
        self.limits = limits or VocabularyLimits()
        self._vectors, self._common = vectors, common
        self._captions = np.array([name.caption for name in self.names], bool)

    def scores(self, vectors: Array) -> Array:
        """Returns the scores of all names: [m, 384] -> [m, n]."""
        return vectors @ self._vectors.T - self._common

    def of(self, vector: Array) -> Named:
        """Returns the names of an image's vector [384]."""
        scores = self.scores(vector[None])[0]
        words = np.where(self._captions, np.float32(-1), scores)
        best = np.argsort(-words, kind="stable")[:MOST_TAGS]
        tags = tuple(self._tag(place, words) for place in best if words[place] >= self.limits.tag)
        captions = np.where(self._captions, scores, np.float32(-1))
        nearest = int(captions.argmax())
        return Named(tags, self._tag(nearest, captions) if captions[nearest] >= self.limits.caption else None)

    @staticmethod
    def read(folder: Path) -> Vocabulary:
        """Returns the vocabulary of a folder.

        Raises:
            InvalidModelFile: a file is missing, damaged or too large.
        """
        from safetensors.numpy import load_file

        try:
            if (folder / _VECTORS).stat().st_size > _MOST_BYTES:
                raise ValueError(f"{_VECTORS} is larger than {_MOST_BYTES >> 20} MB")
            fields: dict[str, Any] = json.loads((folder / _NAMES).read_text("utf-8"))
            names = [Name(*name, caption=False) for name in fields["tags"]]
            names += [Name(*name, caption=True) for name in fields["captions"]]
            found = load_file(folder / _VECTORS)
            vectors, common = found["vectors"].astype(np.float32), found["common"].astype(np.float32)
            if vectors.shape != (len(names), DIMENSIONS) or common.shape != (len(names),):
                raise ValueError("the files do not fit together")
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            return Vocabulary(names, vectors / lengths, common, VocabularyLimits(**fields["limits"]))
        except Exception as error:  # safetensors' own class has no base to name
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise InvalidModelFile.of("space_model_unusable", file=folder, reason=reason) from error

    def write(self, folder: Path) -> None:
        """Writes the vocabulary: vectors in 8 bits beside the names."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        order = np.argsort(self._captions, kind="stable")  # words first, as they are read
        steps = self._vectors[order] / np.abs(self._vectors[order]).max(1, keepdims=True) * _STEPS
        vectors = {
            "vectors": np.rint(steps).astype(np.int8),
            "common": self._common[order].astype(np.float16),
        }
        fields = {
            "limits": asdict(self.limits),
            "tags": [[one.name, one.name_zh] for one in self.names if not one.caption],
            "captions": [[one.name, one.name_zh] for one in self.names if one.caption],
        }
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        for name, data in (
            (_VECTORS, save(vectors)),
            (_NAMES, text.replace("],[", "],\n[").encode() + b"\n"),
        ):
            partial = folder / f".{name}.partial"
            partial.write_bytes(data)
            partial.replace(folder / name)

    def _tag(self, place: int, scores: Array) -> Tag:
        name = self.names[place]
        return Tag(name.name, name.name_zh, round(float(scores[place]), 3))


@cache
def shipped_vocabulary() -> Vocabulary:
    """Returns the vocabulary that comes with Deepwell."""
    return Vocabulary.read(SHIPPED)

"""`TextVectors`: e5's vectors of texts, each computed once and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.media.space.heads import DIMENSIONS

__all__ = ["Embed", "TextVectors"]

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
_AT_ONCE: Final = 500


class TextVectors:
    """Vectors by text. Texts that are added keep their numbers.

    Args:
        folder: where the texts and their vectors are kept.
        embed: returns unit vectors of texts [n, 384], the model's prefix included.

    Attributes:
        numbers: the number of each text.
        vectors: unit vectors [n, 384].
    """

    def __init__(self, folder: Path, embed: Embed) -> None:
        self._files = folder / "texts.json", folder / "texts.npy"
        self._embed = embed
        self.numbers: dict[str, int] = {}
        self.vectors = np.zeros((0, DIMENSIONS), np.float32)
        if all(file.is_file() for file in self._files):
            texts = json.loads(self._files[0].read_text("utf-8"))
            vectors = np.load(self._files[1], allow_pickle=False)
            if len(texts) <= len(vectors):  # a run that ended between the two files has written more vectors
                self.numbers = {text: number for number, text in enumerate(texts)}
                self.vectors = vectors[: len(texts)]

    def add(
        self, texts: Iterable[str], progress: Callable[[int, int], None] = lambda done, all: None
    ) -> None:
        """Computes the vectors of the texts that are new."""
        new = [text for text in dict.fromkeys(texts) if text and text not in self.numbers]
        for begin in range(0, len(new), _AT_ONCE):
            progress(begin, len(new))
            some = new[begin : begin + _AT_ONCE]
            self.vectors = np.concatenate([self.vectors, self._embed(some).astype(np.float32)])
            for text in some:
                self.numbers[text] = len(self.numbers)
            self._store()
        progress(len(new), len(new))

    def of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the vectors of texts that were added: [n, 384]."""
        return self.vectors[[self.numbers[text] for text in texts]]

    def _store(self) -> None:
        texts, vectors = self._files
        partial = vectors.with_suffix(".partial.npy")
        np.save(partial, self.vectors)
        partial.replace(vectors)
        partial = texts.with_suffix(".partial")
        partial.write_text(json.dumps(list(self.numbers), ensure_ascii=False), "utf-8")
        partial.replace(texts)

"""Embeds many texts once: the vectors are kept by the embedder's file and the texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepwell.dialogue.text import InputType
from deepwell.models.store.download import hash_file
from deepwell_bench.harness.assets import bench_cache

if TYPE_CHECKING:
    from deepwell.llm import LLM

__all__ = ["CachedEmbedder"]

_BLOCK = 1024  # texts a file: an interrupted run goes on at the next block


class CachedEmbedder:
    """An embedder of the store that remembers what it has embedded.

    The model is opened when the first text is not in the cache.

    Args:
        path: file or folder of the model. Its bytes are part of the cache's key.
        note: takes a line of progress for every block that is embedded.
    """

    def __init__(self, path: Path, note: Callable[[str], None] = lambda _: None) -> None:
        self._path = path
        self._note = note
        self._hash = _hash_of(path)
        self._folder = bench_cache() / "vectors" / self._hash[:16]
        self._llm: LLM | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the model's file, or of the names and hashes of a folder's files."""
        return self._hash

    def embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
        """Returns a vector of unit length for every text: [texts, hidden_size]."""
        self._folder.mkdir(parents=True, exist_ok=True)
        found = [
            self._block(texts[start : start + _BLOCK], input_type, start, len(texts))
            for start in range(0, len(texts), _BLOCK)
        ]
        return np.concatenate(found)

    def close(self) -> None:
        """Closes the model, if it was opened."""
        if self._llm is not None:
            self._llm.close()
            self._llm = None

    def __enter__(self) -> CachedEmbedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _block(
        self, texts: Sequence[str], input_type: InputType, done: int, total: int
    ) -> NDArray[np.float32]:
        path = self._folder / f"{_digest(input_type, texts)}.npy"
        if path.exists():
            return np.load(path)
        vectors = self._model().embed(texts, input_type=input_type)
        part = path.with_suffix(".part")
        with part.open("wb") as target:
            np.save(target, vectors)
        part.replace(path)
        if total > _BLOCK:
            self._note(f"embedded {done + len(texts):,} of {total:,} passages")
        return vectors

    def _model(self) -> LLM:
        if self._llm is None:
            from deepwell.llm import LLM

            self._llm = LLM(self._path)
        return self._llm


def _digest(input_type: str, texts: Sequence[str]) -> str:
    def parts() -> Iterator[bytes]:
        yield input_type.encode()
        for text in texts:
            yield sha256(text.encode()).digest()

    return sha256(b"".join(parts())).hexdigest()[:32]


def _hash_of(path: Path) -> str:
    if not path.is_dir():
        return hash_file(path)
    files = sorted(one for one in path.rglob("*") if one.is_file() and one.name != "manifest.json")
    named = [f"{one.relative_to(path).as_posix()} {hash_file(one)}\n" for one in files]
    return sha256("".join(named).encode()).hexdigest()

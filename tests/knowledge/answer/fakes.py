"""A writer that says what it is told to, and an embedder of words, so that contracts need no model."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.answer.text import content_words
from deepwell.knowledge.documents import Passage, Place

__all__ = ["FakeWriter", "WordEmbedder", "passage"]


class FakeWriter:
    """Answers with the given texts in order; an exception among them is raised. A token is a word or a Chinese character."""

    def __init__(
        self,
        answers: Sequence[str | Exception] = (),
        *,
        context: int = 2000,
        likely: Sequence[float] = (0.0, -9.0),
    ) -> None:
        self.asked: list[list[Mapping[str, str]]] = []
        self.chosen: list[list[Mapping[str, str]]] = []
        self._answers = list(answers)
        self._context = context
        self._likely = list(likely)

    def doubt(self) -> None:
        """Finds the second of two choices more likely from now on."""
        self._likely.reverse()

    def count(self, text: str) -> int:
        return len(text.split()) + sum(1 for one in text if one >= "\u3400")

    @property
    def context_tokens(self) -> int:
        return self._context

    async def write(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        regex: str | None = None,
    ) -> str:
        self.asked.append(list(messages))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def stream(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, temperature: float = 0.0
    ) -> AsyncIterator[str]:
        whole = await self.write(messages, max_tokens=max_tokens, temperature=temperature)
        for start in range(0, len(whole), 3):
            yield whole[start : start + 3]

    async def choose(self, messages: Sequence[Mapping[str, str]], choices: Sequence[str]) -> list[float]:
        self.chosen.append(list(messages))
        return self._likely[: len(choices)]


class WordEmbedder:
    """Vectors of content words, hashed into 512 places: texts with the same words have cosine 1."""

    name = "words"
    hash = "words-1"
    dimensions = 512
    max_tokens = 512

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed(
        self, texts: Sequence[str], input_type: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        found = np.full((len(texts), self.dimensions), 1e-3, np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in content_words(text):
                row[zlib.crc32(word.encode()) % self.dimensions] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def passage(text: str, key: int = 1, *, headings: tuple[str, ...] = (), page: int | None = None) -> Passage:
    return Passage(
        key,
        f"file-{key}",
        f"{key}.md",
        0.9,
        text,
        start=100 * key,
        end=100 * key + len(text),
        place=Place(page=page, headings=headings),
    )

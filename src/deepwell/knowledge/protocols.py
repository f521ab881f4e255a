"""Protocols of the models that knowledge uses: an embedder of texts, a scorer of pairs, and a language model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embedder", "Reranker", "TokenCounter", "Writer"]


class TokenCounter(Protocol):
    """Counts tokens as the embedder does."""

    @property
    def max_tokens(self) -> int:
        """The most tokens of a passage that are embedded at once, without the prompt and the tokens around it."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Returns the number of tokens of every text, without the prompt and the tokens around it."""
        ...


class Embedder(TokenCounter, Protocol):
    """Turns texts into vectors of unit length.

    Attributes:
        name: the model's name.
        hash: identity of weights, tokenizer and pooling. Vectors of another hash cannot be compared.
        dimensions: length of a vector.
    """

    name: str
    hash: str
    dimensions: int

    async def embed(
        self, texts: Sequence[str], input_type: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        """Returns one vector a text, as float32 [texts, dimensions]. A longer passage is the mean of its windows' vectors."""
        ...


class Reranker(Protocol):
    """Scores how well passages answer a query."""

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Returns one score a text, of all texts or of the first ones alone; higher is better.

        Scores are standardised over the texts of a query: any origin and unit will do, logarithms of likelihoods for example.

        Raises:
            DeepwellError: the texts cannot be scored. The search then keeps its own order.
        """
        ...


class Writer(Protocol):
    """A language model that answers conversations, as the answer side uses it."""

    def count(self, text: str) -> int:
        """Returns the number of tokens of a text."""
        ...

    @property
    def context_tokens(self) -> int:
        """The length of its context."""
        ...

    async def write(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        regex: str | None = None,
    ) -> str:
        """Returns the whole answer. `regex` constrains it."""
        ...

    def stream(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, temperature: float = 0.0
    ) -> AsyncIterator[str]:
        """Yields the answer in pieces."""
        ...

    async def choose(self, messages: Sequence[Mapping[str, str]], choices: Sequence[str]) -> list[float]:
        """Returns the log-likelihood of every choice as the answer."""
        ...

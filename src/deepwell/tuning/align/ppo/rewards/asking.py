"""`AskedModels` and `BaseEmbedder`: the models that graders ask while a run trains."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepwell.llm import AsyncLLM
from deepwell.tuning.align.ppo.rewards.protocol import Vectors
from deepwell.tuning.evaluate.graders import ModelAnswer

__all__ = ["AskedModels", "BaseEmbedder", "OpenedEmbedder"]

_MOST_TOKENS: Final = 64  # of a grade: an object with one number or label


class AskedModels:
    """Grading models, each loaded by the first answer that it grades. They answer without chance unless a grader sets it.

    Args:
        places: places of models by the names that graders have for them; other names are those of the store, or paths.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places
        self._opened: dict[str, AsyncLLM] = {}

    async def answer(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        schema: Mapping[str, Any],
        sampling: Mapping[str, Any],
    ) -> ModelAnswer:
        """Answers a conversation with JSON of a schema.

        Raises:
            DeepwellError: the model cannot be loaded, or cannot answer.
        """
        arguments: dict[str, Any] = {"temperature": 0, "max_completions_tokens": _MOST_TOKENS, **sampling}
        arguments["max_tokens"] = arguments.pop("max_completions_tokens")
        found = await self._model(model).chat([dict(one) for one in messages], schema=schema, **arguments)
        return ModelAnswer(found.text)

    def _model(self, name: str) -> AsyncLLM:
        if name not in self._opened:
            self._opened[name] = AsyncLLM(self._places.get(name, name))
        return self._opened[name]


class BaseEmbedder:
    """Embeds by the hidden states of the model as it was before training."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Returns a vector for each text."""
        # The vectors have an event loop of their own
        return (await asyncio.to_thread(self._vectors, texts)).tolist()


class OpenedEmbedder:
    """Embeds by a model of its own."""

    def __init__(self, model: str) -> None:
        self._model = AsyncLLM(model)

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Returns a vector for each text.

        Raises:
            DeepwellError: the model cannot be loaded.
        """
        return (await self._model.embed([one or " " for one in texts])).tolist()

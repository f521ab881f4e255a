"""Features that our engine computes: embeddings of texts, or the likelihoods that it gives to the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from deepwell.llm import LLM

__all__ = ["choice_log_likelihoods", "embedding_vectors"]

_LONGEST: Final = 2000  # characters of a text that a prompt shows: a topic shows early


def embedding_vectors(model: LLM, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
    """Returns an embedding of each text, [texts, hidden_size]. Texts beyond the context lose their end."""
    return model.embed([_fitting(model, text) for text in texts], progress=progress)


def choice_log_likelihoods(
    model: LLM, texts: Sequence[str], classes: Sequence[str], *, progress: bool = False
) -> NDArray[np.float32]:
    """Returns how likely the model finds each class behind each text, [texts, classes].

    A value is the mean log probability of the tokens of the name of the class, less that behind an empty text: what the model
    finds likely anyway says nothing of the text.
    """
    asked = [(_prompt(text[:_LONGEST], classes), f" {name}") for text in ("", *texts) for name in classes]
    scores = model.score(asked, progress=progress)
    means = np.array([np.mean(one.logprobs) for one in scores], np.float32).reshape(-1, len(classes))
    return means[1:] - means[0]


def _prompt(text: str, classes: Sequence[str]) -> str:
    return f"Text: {text}\n\nWhich of these describes the text: {', '.join(classes)}?\nAnswer:"


def _fitting(model: LLM, text: str) -> str:
    """Returns the beginning of a text that fits the model's context."""
    room = model.context
    while len(tokens := model.tokenize(text)) > room:
        text = text[: max(1, len(text) * room // len(tokens) - 8)]
    return text

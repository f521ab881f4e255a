"""Logits of training texts: by weights that never saw them, where a template of theirs would give them away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from deepwell.bench.workloads.safety.classifier.training import FOLDS, TrainingSet, written_folds
from deepwell.bench.workloads.safety.prompts import Prompt
from deepwell.safety.classifier.detector import LinearDetector
from deepwell.safety.classifier.training import Example, TrainingOptions, train
from deepwell.safety.classifier.weights import CATEGORIES
from deepwell.safety.normalise import normalised

__all__ = ["examples", "logits", "out_of_fold"]


def examples(prompts: Sequence[Prompt]) -> list[Example]:
    """Returns texts to learn from: of an injection its core alone."""
    return [
        Example(_folded(one.core if one.category == "injection" else one.text), one.category)
        for one in prompts
    ]


def logits(detector: LinearDetector, prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    """Returns the highest logits of texts: [texts, categories]."""
    found = [detector.logits(_folded(one.text)) for one in prompts]
    return np.array(found, dtype=np.float64).reshape(len(prompts), len(CATEGORIES))


def out_of_fold(
    texts: TrainingSet,
    read: Sequence[Example],
    options: TrainingOptions,
    said: Callable[[str], None] = lambda _: None,
) -> tuple[list[Prompt], NDArray[np.float64]]:
    """Returns the written benign texts of the training side, and the logits each has where its template was left out.

    Args:
        read: the examples of `texts.train`, in its order.
    """
    folds = written_folds()
    places = [folds.get(one.id, -1) if one.category == "benign" else -1 for one in texts.train]
    prompts: list[Prompt] = []
    scores: list[NDArray[np.float64]] = []
    for fold in range(FOLDS):
        own = [one for one, place in zip(texts.train, places, strict=True) if place == fold]
        kept = [one for one, place in zip(read, places, strict=True) if place != fold]
        said(f"fold {fold + 1} of {FOLDS}: {len(own):,} texts left out")
        prompts += own
        scores.append(logits(LinearDetector(train(kept, options, said)), own))
    return prompts, np.concatenate(scores)


def _folded(text: str) -> str:
    """Returns the reading of a text that the classifier is trained on."""
    return normalised(text).views[0].text

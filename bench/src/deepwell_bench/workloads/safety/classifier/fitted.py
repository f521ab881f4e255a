"""Trains the classifier of a fold, with the options and thresholds that ship, and keeps it in the cache of benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.classifier.calibration import calibrated
from deepwell.safety.classifier.detector import LinearDetector
from deepwell.safety.classifier.training import Example, TrainingOptions, train
from deepwell.safety.classifier.weights import CATEGORIES, Weights, read_weights, write_weights
from deepwell.safety.normalise import normalised
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.workloads.safety.classifier.training import Fold, TrainingSet, training_set
from deepwell_bench.workloads.safety.prompts import Prompt, digest_of

__all__ = ["MAX_FALSE_POSITIVES", "OPTIONS", "Fitted", "fit", "fitted"]

OPTIONS: Final = TrainingOptions()
MAX_FALSE_POSITIVES: Final = 0.01
"""Share of the benign prompts of the development split that may be found, over all three categories."""
_DIVIDED: Final = "by recall"
"""Way in which the categories share these: a part of the name under which weights are kept."""
_JUDGED: Final = ("written", "chats")
"""Families of benign prompts by which thresholds are chosen; passages are easier, and would hide the hard ones."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Trained weights, and what they were trained on.

    Attributes:
        weights: with thresholds.
        texts: the training set.
        train_sha256: digest of the ids of the texts trained on.
    """

    weights: Weights
    texts: TrainingSet
    train_sha256: str


def fit(fold: Fold = "shipped", said: Callable[[str], None] = lambda _: None) -> Fitted:
    """Trains a fold. Raises as `training_set`."""
    texts = training_set(fold)
    said(
        f"{fold}: {len(texts.train):,} texts, {len(texts.development):,} for thresholds, {texts.dropped} left out"
    )
    return fit_on(texts, said)


def fit_on(texts: TrainingSet, said: Callable[[str], None] = lambda _: None) -> Fitted:
    """Trains on a training set, and chooses thresholds on its development side."""
    examples = [
        Example(folded(one.core if one.category == "injection" else one.text), one.category)
        for one in texts.train
    ]
    weights = train(examples, OPTIONS, said)
    detector = LinearDetector(weights)
    benign = [one for one in texts.development if one.category == "benign" and one.family in _JUDGED]
    attacks = {
        category: logits(detector, [one for one in texts.development if one.category == category])
        for category in CATEGORIES
    }
    chosen = calibrated(weights, logits(detector, benign), attacks, max_false_positives=MAX_FALSE_POSITIVES)
    return Fitted(chosen, texts, digest_of(texts.train))


def fitted(fold: Fold, said: Callable[[str], None] = lambda _: None) -> Weights:
    """Returns the weights of a fold from the cache, where they were trained on the same texts with the same options."""
    texts = training_set(fold)
    data = f"{digest_of(texts.train)} {digest_of(texts.development)}"
    name = f"{data} {asdict(OPTIONS)} {MAX_FALSE_POSITIVES} {_DIVIDED}"
    kept = bench_cache() / "safety" / f"weights-{sha256(name.encode()).hexdigest()[:16]}.safetensors"
    if not kept.exists():
        part = kept.with_suffix(".part")
        write_weights(fit_on(texts, said).weights, part)
        part.replace(kept)
    return read_weights(kept)


def folded(text: str) -> str:
    """Returns the reading of a text that the classifier is trained on."""
    return normalised(text).views[0].text


def logits(detector: LinearDetector, prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    """Returns the highest logits of texts: [texts, categories]."""
    found = [detector.logits(folded(one.text)) for one in prompts]
    return np.array(found).reshape(len(prompts), len(CATEGORIES))

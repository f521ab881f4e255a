"""Trains the classifier of a fold, with the options and thresholds that ship, and keeps it in the cache of benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Final

import numpy as np

from deepwell.bench.harness.assets import bench_cache
from deepwell.bench.harness.proportions import wilson
from deepwell.bench.workloads.safety.classifier.others import found_by_others
from deepwell.bench.workloads.safety.classifier.scores import examples, logits, out_of_fold
from deepwell.bench.workloads.safety.classifier.training import FOLDS, Fold, TrainingSet, training_set
from deepwell.bench.workloads.safety.prompts import digest_of
from deepwell.safety.classifier.calibration import calibrated
from deepwell.safety.classifier.detector import LinearDetector
from deepwell.safety.classifier.training import TrainingOptions, train
from deepwell.safety.classifier.weights import CATEGORIES, Weights, read_weights, write_weights

__all__ = ["MAX_FALSE_POSITIVES", "OPTIONS", "Fitted", "fit", "fitted"]

OPTIONS: Final = TrainingOptions()
MAX_FALSE_POSITIVES: Final = 0.02
"""Share of benign prompts that all detectors of requests together may find."""
_Z: Final = 0.8416
"""Of the one-sided 80 % interval, whose upper end has to be within this share."""
_FEWEST: Final = 0.5
"""Where other detectors leave the classifier no text: less than one, since a share of nothing cannot be asked for."""
_RULE: Final = f"by recall, {FOLDS} folds, all detectors, upper end of 80 %"
"""Way in which thresholds are chosen: a part of the name under which weights are kept."""
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
    """Trains on a training set, and chooses thresholds on texts that the weights which score them never saw."""
    read = examples(texts.train)
    weights = train(read, OPTIONS, said)
    detector = LinearDetector(weights)
    benign = [one for one in texts.development if one.category == "benign" and one.family in _JUDGED]
    attacks = {
        category: logits(detector, [one for one in texts.development if one.category == category])
        for category in CATEGORIES
    }
    left_out, scores = out_of_fold(texts, read, OPTIONS, said)
    scores = np.concatenate([logits(detector, benign), scores])
    others = np.array(found_by_others(one.text for one in [*benign, *left_out]))
    most = _most(len(others)) - int(others.sum())
    said(f"{len(others):,} benign texts: {others.sum()} found by others, at most {most} more")
    share = max(most, _FEWEST) / int((~others).sum())
    return Fitted(
        calibrated(weights, scores[~others], attacks, max_false_positives=share),
        texts,
        digest_of(texts.train),
    )


def _most(texts: int) -> int:
    """Returns the largest number of false positives whose interval ends below the bar."""
    fits = (number for number in range(texts) if wilson(number, texts, z=_Z)[1] <= MAX_FALSE_POSITIVES)
    return max(fits, default=0)


def fitted(fold: Fold, said: Callable[[str], None] = lambda _: None) -> Weights:
    """Returns the weights of a fold from the cache, where they were trained on the same texts with the same options."""
    texts = training_set(fold)
    data = f"{digest_of(texts.train)} {digest_of(texts.development)}"
    name = f"{data} {asdict(OPTIONS)} {MAX_FALSE_POSITIVES} {_RULE}"
    kept = bench_cache() / "safety" / f"weights-{sha256(name.encode()).hexdigest()[:16]}.safetensors"
    if not kept.exists():
        part = kept.with_suffix(".part")
        write_weights(fit_on(texts, said).weights, part)
        part.replace(kept)
    return read_weights(kept)

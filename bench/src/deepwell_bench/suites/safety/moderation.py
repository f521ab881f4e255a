"""Moderation of answers against people's scores: one category of harm after another takes no part in training."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.safety.moderation.scorer import Moderator
from deepwell_bench.workloads.safety.moderated import JUDGED, Scored
from deepwell_bench.workloads.safety.moderation_fold import Folds, trained

__all__ = ["area", "bench_moderation", "judgement"]

_TERCILES: Final = ("short", "middle", "long")
_SAMPLES: Final = 500
_REFUSAL: Final = re.compile(
    r"\bI(?:'m| am)? (?:sorry|afraid)|\bsorry\b|\bI (?:can(?:no|')t|won't|will not|am unable|am not able)|as an AI",
    re.IGNORECASE,
)
_HEAD: Final = 160


def bench_moderation(report: Report) -> dict[str, Any]:
    """Trains and judges moderation. The figures of length and of a pattern of refusals stand beside its own."""
    weights, left_out = trained(report.note)
    answers = left_out.answers
    length = np.array([float(len(one.text)) for one in answers])
    refusal = np.array([-float(_REFUSAL.search(one.text[:_HEAD]) is not None) for one in answers])
    moderator = Moderator(weights)
    value = judgement(left_out)
    beside = {"length": judgement(_with(left_out, length)), "refusal": judgement(_with(left_out, refusal))}
    report.table(
        "Area under the curve, each category judged by a model that has not seen it",
        ("figure", "moderation", "length alone", "refusal pattern"),
        [
            (name, float(value[name]), float(beside["length"][name]), float(beside["refusal"][name]))
            for name in value
            if name.startswith("auc")
        ],
    )
    value |= {
        "answers": len(answers),
        "harmful": int(left_out.harmful.sum()),
        "near_texts_dropped": left_out.dropped,
        "length_auc": beside["length"]["auc"],
        "refusal_auc": beside["refusal"]["auc"],
        "long_harmless": _long_harmless(answers, length),
        "long_interval": _interval(left_out, length),
        "ms_a_text": _milliseconds(moderator, [one.text for one in answers]),
    }
    return value


def judgement(left_out: Folds) -> dict[str, Any]:
    """Returns the areas under the curve: the mean of categories, of all answers, within terciles of length, and each."""
    answers, harmful, outputs = left_out.answers, left_out.harmful, left_out.outputs
    categories = np.array([one.category for one in answers])
    each = {name: area(harmful[categories == name], outputs[categories == name]) for name in JUDGED}
    tercile = _terciles(np.array([float(len(one.text)) for one in answers]))
    within = [area(harmful[tercile == place], outputs[tercile == place]) for place in range(3)]
    return {
        "auc": rounded(float(np.mean(list(each.values())))),
        "auc_all_answers": rounded(area(harmful, outputs)),
        "auc_within_terciles": rounded(float(np.mean(within))),
        **{f"auc_{name}": rounded(one) for name, one in zip(_TERCILES, within, strict=True)},
        **{f"auc_{name}": rounded(one) for name, one in each.items()},
    }


def area(harmful: NDArray[np.bool_], outputs: NDArray[np.float64]) -> float:
    """Returns the area under the receiver's curve; equal outputs count half."""
    values, places, counts = np.unique(outputs, return_inverse=True, return_counts=True)
    del values
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positive = int(harmful.sum())
    return float(
        (ranks[harmful].sum() - positive * (positive + 1) / 2) / (positive * (len(harmful) - positive))
    )


def _with(left_out: Folds, outputs: NDArray[np.float64]) -> Folds:
    return Folds(left_out.answers, outputs, left_out.dropped)


def _terciles(length: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.digitize(length, np.quantile(length, [1 / 3, 2 / 3]))


def _long_harmless(answers: Sequence[Scored], length: NDArray[np.float64]) -> int:
    return sum(not one.harmful for one, place in zip(answers, _terciles(length), strict=True) if place == 2)


def _interval(left_out: Folds, length: NDArray[np.float64]) -> list[float]:
    """Returns the interval of 95 % of the longest tercile's area, by drawing answers with replacement."""
    places = np.flatnonzero(_terciles(length) == 2)
    draw = np.random.default_rng(17)
    found: list[float] = []
    for _ in range(_SAMPLES):
        chosen = draw.choice(places, len(places))
        harmful = left_out.harmful[chosen]
        if 0 < harmful.sum() < len(chosen):
            found.append(area(harmful, left_out.outputs[chosen]))
    return [rounded(float(one)) for one in np.quantile(found, [0.025, 0.975])]


def _milliseconds(moderator: Moderator, texts: Sequence[str]) -> float:
    begin = time.perf_counter()
    for text in texts:
        moderator.moderate(text)
    return rounded((time.perf_counter() - begin) / len(texts) * 1000)

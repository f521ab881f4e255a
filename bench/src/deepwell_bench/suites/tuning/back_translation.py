"""Back-translation: which rewritings of real sentences pass the filters, and what they are worth at 100 labels.

Sentences come from the pool of Rotten Tomatoes, accuracy is measured on its held-out set, which nothing else touches.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell.tuning.data.active.features import HashedFeatures
from deepwell.tuning.data.active.learner import SoftmaxRegression
from deepwell.tuning.data.active.pool import accuracy
from deepwell.tuning.data.augment.augment import Augmented, augment
from deepwell.tuning.data.augment.filters import REASONS
from deepwell.tuning.data.augment.rewriters import BackTranslation, Rewriter
from deepwell.tuning.data.augment.translators import Apertium, ModelTranslator
from deepwell.tuning.data.records import Record
from deepwell_bench.workloads.tuning.labelled import LabelledSet, LabelledText, drawn, rotten_tomatoes

__all__ = ["bench_back_translation"]

SENTENCES: Final = 200
LABELS: Final = 100


class _Kept:
    """Rewritings that were made already, by text."""

    varied = False

    def __init__(self, rewriter: Rewriter, texts: Sequence[str]) -> None:
        self.name = rewriter.name
        self._texts = dict(zip(texts, rewriter.rewrite(texts), strict=True))

    def rewrite(self, texts: Sequence[str], *, number: int = 0) -> list[str]:
        return [self._texts[text] for text in texts]


def bench_back_translation(
    report: Report, *, model: str = "qwen2.5-coder-0.5b", seeds: int = 20, sentences: int = SENTENCES
) -> dict[str, Any]:
    """Returns shares, distinctness and label agreement of both ways, and accuracies with and without their texts.

    Args:
        seeds: number of draws of 100 labels.
        sentences: number of sentences that are rewritten.
    """
    data = rotten_tomatoes()
    chosen = drawn(data.pool, sentences, "deepwell:back-translation")
    rewriters = _rewriters(report, [one.text for one in chosen], model)
    value: dict[str, Any] = {"sentences": sentences, "seeds": seeds, "labels": min(LABELS, sentences)}
    rows: list[tuple[Any, ...]] = []
    for name, rewriter in rewriters.items():
        found = augment(_records(chosen), rewriter)
        rows.append(_row(name, found))
        account, key = found.to_json(), name.replace("-", "_")
        value[f"{key}_accepted"] = rounded(account["accepted_share"])
        value[f"{key}_distinctness"] = rounded(account["distinctness"])
        value[f"{key}_label_agreement"] = rounded(found.label_agreement or 0.0)
        value[f"{key}_source_agreement"] = rounded(found.source_agreement or 0.0)
        for source, text in found.pairs[:3]:
            report.note(f"{name}: {source}\n     -> {text}")
    columns = ("way", "accepted", "refused", "distinctness", "label agreement", "of the sources")
    report.table(f"{sentences} sentences", columns, rows)
    return value | _accuracies(report, data, chosen, rewriters, seeds)


def _rewriters(report: Report, texts: Sequence[str], model: str) -> Mapping[str, _Kept]:
    """Returns both ways, whose rewritings are made once."""
    from deepwell.llm import LLM

    found = {"en-es-en": _Kept(BackTranslation(Apertium(), "en", "es", varied=False), texts)}
    with LLM(model) as opened:
        report.note(f"en-es-en: Apertium; en-zh-en: {opened!r}, greedy")
        found["en-zh-en"] = _Kept(BackTranslation(ModelTranslator(opened), "en", "zh"), texts)
    return found


def _accuracies(
    report: Report,
    data: LabelledSet,
    chosen: Sequence[LabelledText],
    rewriters: Mapping[str, _Kept],
    seeds: int,
) -> dict[str, Any]:
    """Returns the accuracy at 100 labels, and the differences that the rewritings of those 100 make, with 95 % intervals.

    The label check of each draw knows the labels of that draw alone.
    """
    held_out = [one.text for one in data.held_out]
    answers = data.numbers(data.held_out)
    plain: list[float] = []
    with_texts: dict[str, list[float]] = {name: [] for name in rewriters}
    for seed in range(seeds):
        labelled = drawn(chosen, min(LABELS, len(chosen)), f"deepwell:labels:{seed}")
        plain.append(_accuracy(data, _records(labelled), held_out, answers))
        for name, rewriter in rewriters.items():
            records = augment(_records(labelled), rewriter).records
            with_texts[name].append(_accuracy(data, records, held_out, answers))
    rows = [("as they are", f"{100 * statistics.fmean(plain):.2f} %", "")]
    value: dict[str, Any] = {"accuracy_plain": rounded(statistics.fmean(plain))}
    for name, found in with_texts.items():
        low, mean, high = _interval([b - a for a, b in zip(plain, found, strict=True)])
        key = name.replace("-", "_")
        value[f"accuracy_{key}"] = rounded(statistics.fmean(found))
        value[f"{key}_points"] = rounded(100 * mean, 3)
        value[f"{key}_points_low"] = rounded(100 * low, 3)
        value[f"{key}_points_high"] = rounded(100 * high, 3)
        shown = f"{100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
        rows.append((f"with {name}", f"{100 * statistics.fmean(found):.2f} %", shown))
    title = f"accuracy on {len(held_out)} held-out sentences at {LABELS} labels, {seeds} draws"
    report.table(title, ("training texts", "accuracy", "points, 95 % of the mean"), rows)
    return value


def _accuracy(
    data: LabelledSet, records: Sequence[Record], held_out: Sequence[str], answers: Sequence[int]
) -> float:
    features = HashedFeatures([one.text for one in records])
    labels = [data.classes.index(one.label or "") for one in records]
    model = SoftmaxRegression(len(data.classes)).fit(features, range(len(records)), labels)
    return accuracy(model, features.transform(held_out), answers)


def _records(texts: Sequence[LabelledText]) -> list[Record]:
    return [
        Record(({"role": "user", "content": one.text},), line=line, label=one.label, format="text")
        for line, one in enumerate(texts, 1)
    ]


def _row(name: str, found: Augmented) -> tuple[Any, ...]:
    account = found.to_json()
    agreements = [f"{one or 0:.2f}" for one in (found.label_agreement, found.source_agreement)]
    refused = ", ".join(f"{reason} {n}" for reason in REASONS if (n := account["refused"][reason]))
    return (
        name,
        f"{found.accepted} of {found.tried}",
        refused,
        f"{account['distinctness']:.2f}",
        *agreements,
    )


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    means = rng.choice(np.asarray(values), (10_000, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), statistics.fmean(values), float(high)

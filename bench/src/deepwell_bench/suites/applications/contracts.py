"""`deepwell bench contracts`: held-out licence texts, labelled by rules, by a model, and by both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.rules import Decision, RuleSet
from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import InvalidRequest
from deepwell_bench.suites.applications.joined import explained, joined_figures
from deepwell_bench.workloads.applications import example

__all__ = ["bench_contracts"]

Encoder = Callable[[Sequence[str]], NDArray[np.float32]]


def bench_contracts(report: Report, encode: Encoder) -> dict[str, Any]:
    """Returns F1 over the labels of the held-out texts, which share no family with those of the development half.

    Raises:
        InvalidRequest: the held-out texts are others than those that were frozen.
    """
    data, model, review = example("contracts.data"), example("contracts.model"), example("contracts.review")
    reading, evaluate = example("contracts.reading"), example("contracts.evaluate")
    known, held = data.licence_texts("development"), data.licence_texts("held_out")
    if data.digest(held) != data.HELD_OUT_SHA256:
        raise InvalidRequest(
            "the held-out texts are not those that were frozen", fix="restore `examples/contracts`"
        )
    report.note(f"{len(known)} texts to learn from, {len(held)} held out; their passages are embedded")
    views = model.encoded([one.text for one in (*known, *held)], encode)
    learned = model.LabelModel.fit(known, views[: len(known)])
    judged: dict[str, list[Any]] = {"rules": [], "model": [], "joined": []}
    decisions = list[Decision]()
    with RuleSet.load(reading.RULES) as rules:
        for one, view in zip(held, views[len(known) :], strict=True):
            scores = learned.scores(one.text, view)
            asked = {label: score for label, score in scores.items() if label in one.asked}
            alone = review.review(rules, one.text)
            both = review.review(rules, one.text, asked, dict(zip(model.QUESTIONS, view.found, strict=True)))
            decisions += [alone.decision, both.decision]
            for name, labels in (
                ("rules", alone.labels),
                ("model", review.by_model(scores)),
                ("joined", both.labels),
            ):
                judged[name].append(evaluate.Judged(one.family, one.labels, labels & frozenset(one.asked)))
    value: dict[str, Any] = {
        "texts": len(held),
        "families": len({one.family for one in held}),
        "shared_families": len({one.family for one in held} & {one.family for one in known}),
    }
    value |= joined_figures(report, judged, str)
    for part, asked in (("terms", data.TERMS), ("categories", data.CATEGORIES)):
        for name, items in judged.items():
            kept = [item for item, one in zip(items, held, strict=True) if one.asked is asked]
            value[f"{part}_{name}"] = rounded(evaluate.micro(kept))
    value["explained"] = rounded(explained(decisions))
    return value

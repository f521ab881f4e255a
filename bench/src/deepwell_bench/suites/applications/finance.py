"""`deepwell bench finance`: held-out Chinese loan contracts, reviewed by rules, by a model, and by both."""

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
from deepwell_bench.workloads.knowledge.law import law_articles

__all__ = ["bench_finance"]

Encoder = Callable[[Sequence[str]], NDArray[np.float32]]


def bench_finance(report: Report, encode: Encoder, reader: Any) -> dict[str, Any]:
    """Returns F1 over the fields and findings of 96 contracts from 6 families of templates.

    Args:
        encode: the encoder of sentences.
        reader: the language model that reads names.

    Raises:
        InvalidRequest: the held-out contracts are others than those that were frozen.
    """
    generate, reading = example("finance.generate"), example("finance.reading")
    model, review = example("finance.model"), example("finance.review")
    evaluate = example("contracts.evaluate")
    held = generate.contracts("held_out")
    if generate.digest(held) != generate.HELD_OUT_SHA256:
        raise InvalidRequest(
            "the held-out contracts are not those that were frozen", fix="restore `examples/finance`"
        )
    learned = model.ClauseModel.fit(generate.contracts("development"), encode)
    found = [reading.sentences(reading.tidy(one.text)) for one in held]
    flat = encode([sentence for one in found for sentence in one])
    ends = np.cumsum([len(one) for one in found])
    vectors = np.split(flat, ends[:-1])
    report.note(f"{len(held)} contracts, {len(flat)} sentences; the language model reads the parties")
    parties = model.named(reader, found)
    judged: dict[str, list[Any]] = {"rules": [], "model": [], "joined": []}
    decisions = list[Decision]()
    with RuleSet.load(reading.RULES) as rules:
        for number, one in enumerate(held):
            alone = review.review(rules, one.text)
            proposed = model.proposals(learned, vectors[number], parties[number])
            both = review.review(rules, one.text, proposed)
            decisions += [alone.decision, both.decision]
            true = _statements(one.fields, one.findings)
            for name, fields, findings in (
                ("rules", alone.fields, alone.findings),
                ("model", *model.alone(learned, found[number], vectors[number], parties[number])),
                ("joined", both.fields, both.findings),
            ):
                judged[name].append(evaluate.Judged(one.family, true, _statements(fields, findings)))
    value: dict[str, Any] = {"contracts": len(held), "families": len({one.family for one in held})}
    value |= joined_figures(report, judged, lambda one: one.split("=")[0])
    for name, items in judged.items():
        for part, chosen in (("fields", True), ("findings", False)):
            kept = [
                evaluate.Judged(one.family, _kept(one.true, chosen), _kept(one.said, chosen)) for one in items
            ]
            value[f"{part}_{name}"] = rounded(evaluate.micro(kept))
    value["explained"] = rounded(explained(decisions))
    value["cited"] = rounded(_cited(generate.FINDINGS))
    return value


def _statements(fields: Any, findings: Any) -> frozenset[str]:
    return frozenset([*(f"{name}={value}" for name, value in fields.items()), *findings])


def _kept(statements: frozenset[str], fields: bool) -> frozenset[str]:
    return frozenset(one for one in statements if ("=" in one) is fields)


def _cited(findings: Any) -> float:
    """Returns the share of findings whose article is in the pinned collection of statutes."""
    known = {(name.removeprefix("中华人民共和国"), article) for name, article, _ in law_articles()}
    return sum(one in known for one in findings.values()) / len(findings)

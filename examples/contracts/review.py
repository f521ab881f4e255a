"""Reviews a licence text: by rules alone, by the model alone, and by both, with the reasons of each decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deepwell.agents.rules import Decision, Fact, RuleSet
from examples.contracts.data import CATEGORIES, TERMS
from examples.contracts.reading import says

__all__ = ["NAMES", "Review", "by_model", "review"]

NAMES: Final = {one.lower().replace(" ", "_").replace("-", "_"): one for one in (*TERMS, *CATEGORIES)}
"""Labels by their names in the rule set."""

_LEAST, _MOST = 0.001, 0.999


@dataclass(frozen=True, slots=True)
class Review:
    """The review of a text.

    Attributes:
        labels: terms, and at most one category.
        decision: the decision with its explanation.
    """

    labels: frozenset[str]
    decision: Decision


def by_model(scores: Mapping[str, float]) -> frozenset[str]:
    """Returns the labels by the model alone: terms that are likelier than not, and the likeliest category."""
    terms = {label for label in TERMS if scores[label] >= 0.5}
    return frozenset(terms | {max(CATEGORIES, key=lambda one: scores[one])})


def review(
    rules: RuleSet,
    text: str,
    scores: Mapping[str, float] | None = None,
    found: Mapping[str, str] | None = None,
) -> Review:
    """Returns the review of a text.

    Args:
        scores: what the model says, by label; None: the rules decide alone.
        found: the passage that the model looked at for each label.
    """
    said = says(text)
    facts = [Fact("says", {"term": one.name}, 1.0, one.passage) for one in said.values()]
    names = {label: name for name, label in NAMES.items()}
    for label, score in (scores or {}).items():
        kind = "term" if label in TERMS else "category"
        source = (found or {}).get(label, "")
        facts.append(Fact(kind, {"label": names[label]}, min(max(score, _LEAST), _MOST), source))
    decision = rules.decide(facts)
    if scores is None:
        labels = {NAMES[str(one.arguments["label"])] for one in decision.derived_by("found")}
    else:
        labels = {NAMES[str(one.arguments["label"])] for one in decision.accepted if one.name != "says"}
    return Review(frozenset(labels), decision)

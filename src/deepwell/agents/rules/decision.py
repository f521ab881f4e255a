"""`Decision`: an outcome, the facts that were accepted and denied, and an explanation that names rules and facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deepwell.agents.rules.facts import Fact, Text
from deepwell.messages import Language, render

__all__ = ["Decision", "Denied", "Explanation", "Step"]

StepKind = Literal[
    "rule", "row", "constraint", "threshold", "score", "single", "unfit", "conflict", "default"
]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a decision: a rule, row or threshold, the facts that it used, and what follows.

    Attributes:
        kind: "rule" derives; "row" is a row of a table; "constraint" forbids facts together; "threshold": the score is below
            it; "score": denying is cheaper than accepting; "single": another such fact holds; "unfit": the fact is of no type
            of the rule set; "conflict": certain facts break a constraint; "default": no rule named an outcome.
        rule: label of the rule, or `table/row`.
        text: the step in words, in both languages.
        facts: the facts that were used.
        concludes: the fact that follows; None where one is denied.
        absent: atoms that the step needs not to hold.
        cites: a citation that the rule's author gave, such as an article of a law.
    """

    kind: StepKind
    rule: str
    text: Text
    facts: tuple[Fact, ...] = ()
    concludes: Fact | None = None
    absent: tuple[str, ...] = ()
    cites: str = ""

    def said(self, language: Language) -> str:
        """Returns the step in a language, with its citation."""
        text = self.text.get(language) or self.text.get("en") or self.text.get("zh") or self.rule
        if not self.cites:
            return text
        return text + (f"（依据：{self.cites}）" if language == "zh" else f" [{self.cites}]")

    def json(self) -> dict[str, Any]:
        """Returns the step as JSON."""
        return {
            "kind": self.kind,
            "rule": self.rule,
            "text": dict(self.text),
            "facts": [fact.json() for fact in self.facts],
            "concludes": self.concludes.json() if self.concludes else None,
            "absent": list(self.absent),
            "cites": self.cites,
        }


@dataclass(frozen=True, slots=True)
class Denied:
    """A proposed fact that does not hold, and the step that denied it."""

    fact: Fact
    step: Step


@dataclass(frozen=True, slots=True)
class Explanation:
    """The steps that lead to a decision, in an order in which each uses only what came before.

    Attributes:
        steps: derivations and hit rows.
        denials: a step for each denied fact.
        outcome: the last step, which names the outcome.
    """

    steps: tuple[Step, ...]
    denials: tuple[Denied, ...]
    outcome: Step

    def text(self, language: Language = "en") -> str:
        """Returns the explanation for people: one line a step."""
        steps = [*self.steps, *(denied.step for denied in self.denials)]
        lines = [f"- {step.said(language)}{_where(step, language)}" for step in steps]
        return "\n".join([self.outcome.said(language), *lines])


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision of a rule set on the facts of a case.

    Attributes:
        outcome: name of the outcome; "conflict" where the certain facts break a hard rule.
        accepted: the facts that hold, certain ones and proposals, in the order in which they came.
        denied: the proposals that do not, each with its reason.
        derived: the facts that rules and rows derived and that the manifest declares.
        tied: whether another choice of facts has the same cost, so that the order of the facts decided.
        rules: name and version of the rule set.
        notes: what a rule could not compute, such as a division by zero; it derived nothing from it.
    """

    outcome: str
    accepted: tuple[Fact, ...]
    denied: tuple[Denied, ...]
    derived: tuple[Fact, ...]
    explanation: Explanation
    tied: bool = False
    rules: str = ""
    notes: tuple[str, ...] = ()

    def derived_by(self, name: str) -> tuple[Fact, ...]:
        """Returns the derived facts of a type."""
        return tuple(fact for fact in self.derived if fact.name == name)

    def why(self, fact: Fact) -> tuple[Step, ...]:
        """Returns the steps that concluded or denied a fact; none for an accepted fact that no rule touched."""
        steps = [one for one in self.explanation.steps if one.concludes == fact]
        return (*steps, *(one.step for one in self.denied if one.fact == fact))

    def json(self) -> dict[str, Any]:
        """Returns the decision as JSON."""
        return {
            "rules": self.rules,
            "outcome": self.outcome,
            "accepted": [fact.json() for fact in self.accepted],
            "denied": [{"fact": one.fact.json(), "because": one.step.json()} for one in self.denied],
            "derived": [fact.json() for fact in self.derived],
            "tied": self.tied,
            "notes": list(self.notes),
            "steps": [step.json() for step in self.explanation.steps],
            "because": self.explanation.outcome.json(),
        }


def _where(step: Step, language: Language) -> str:
    """Returns the rule and the sources of a step, in brackets."""
    parts = [render("rules_by", language, {"rule": step.rule})[0]]
    parts += [one.source for one in step.facts if one.source]
    joined = ("；" if language == "zh" else "; ").join(dict.fromkeys(parts))
    return f"（{joined}）" if language == "zh" else f" ({joined})"

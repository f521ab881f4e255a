"""`run_cases`: decides the examples of a rule set, compares them with what is expected, and looks for missing reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepwell.agents.rules.decision import Decision, Step
from deepwell.agents.rules.facts import Fact
from deepwell.agents.rules.ruleset import RuleSet
from deepwell.agents.rules.schema import facts_from_json

__all__ = ["CaseResult", "run_cases", "unexplained"]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The result of one example.

    Attributes:
        differences: what was decided and expected where they differ, such as `outcome: approve, expected reject`.
        unexplained: parts of the decision without a reason in both languages; see `unexplained`.
    """

    name: str
    decision: Decision
    differences: tuple[str, ...]
    unexplained: tuple[str, ...]


def run_cases(rules: RuleSet) -> list[CaseResult]:
    """Returns the results of a rule set's cases. Raises as `RuleSet.decide` and `facts_from_json`."""
    results = list[CaseResult]()
    for case in rules.manifest.cases:
        decision = rules.decide(facts_from_json(list(case.facts)))
        found = {
            "accepted": decision.accepted,
            "denied": tuple(one.fact for one in decision.denied),
            "derived": decision.derived,
        }
        differences = list[str]()
        if case.expect.get("outcome", decision.outcome) != decision.outcome:
            differences.append(f"outcome: {decision.outcome}, expected {case.expect['outcome']}")
        for key, facts in found.items():
            if key in case.expect:
                differences += _differences(key, facts, case.expect[key])
        for key in sorted(case.expect.keys() - {"outcome", *found}):
            differences.append(f"{key}: unknown")
        results.append(CaseResult(case.name, decision, tuple(differences), tuple(unexplained(decision))))
    return results


def unexplained(decision: Decision) -> list[str]:
    """Returns the parts of a decision without a reason: each must name a rule, in both languages, and the facts it used.

    Parts are the outcome, every denied proposal and every derived fact. An outcome that no rule named needs no facts.
    """
    missing = list[str]()
    outcome = decision.explanation.outcome
    if not _explains(outcome, facts_needed=outcome.kind not in ("default", "row")):
        missing.append(f"outcome {decision.outcome}")
    missing += [f"denied {one.fact}" for one in decision.denied if not _explains(one.step, facts_needed=True)]
    concluded = {step.concludes: step for step in decision.explanation.steps if step.concludes is not None}
    for fact in decision.derived:
        step = concluded.get(fact)
        # A rule may only need that something is absent, and a row may fit whatever the facts are.
        if step is None or not _explains(step, facts_needed=step.kind == "rule" and not step.absent):
            missing.append(f"derived {fact}")
    return missing


def _explains(step: Step, *, facts_needed: bool) -> bool:
    said = all(step.text.get(language, "").strip() for language in ("en", "zh"))
    return said and (bool(step.rule) or step.kind == "default") and (bool(step.facts) or not facts_needed)


def _differences(key: str, facts: Sequence[Fact], expected: Iterable[object]) -> list[str]:
    found, wanted = sorted(map(str, facts)), sorted(map(str, expected))
    return [] if found == wanted else [f"{key}: {', '.join(found)}, expected {', '.join(wanted)}"]

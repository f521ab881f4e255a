"""`decide`: one decision, from the proposed facts over tables and logic to the outcome and its explanation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deepwell.agents.rules.decision import Decision, Denied, Explanation, Step, StepKind
from deepwell.agents.rules.facts import DoesNotFit, Fact, FactType, Text
from deepwell.agents.rules.logic.wire import Candidate, Instance, RuleInfo, Solve, Solved
from deepwell.agents.rules.manifest import Manifest
from deepwell.agents.rules.proof import LANGUAGES, Prover, Values, both
from deepwell.agents.rules.tables.deciding import TableRunner, decide_table, screened
from deepwell.errors import InvalidRequest
from deepwell.messages import Language, render

__all__ = ["CONFLICT", "DECIDED", "Solver", "decide", "weight"]

CONFLICT = "conflict"
"""Outcome where the certain facts break a hard rule."""

DECIDED = "decided"
"""Outcome of a rule set that declares none."""

_MOST_FACTS = 5000
_SCALE = 1000


class Solver(TableRunner, Protocol):
    """Runs programs and tables: the confined process."""

    def solve(self, asked: Solve) -> Solved:
        """Returns which candidates hold, and why."""
        ...


def weight(score: float, neutral: float) -> int:
    """Returns what denying a fact costs: its log odds above those of a neutral score, in thousandths.

    Negative: accepting it costs as much. With independent errors the cheapest choice is the most probable one.
    """
    return round(_SCALE * (_log_odds(score) - _log_odds(neutral)))


def _log_odds(score: float) -> float:
    return math.log(score) - math.log1p(-score)


@dataclass(slots=True)
class _Proposals:
    """Facts on their way: those still possible by their atom, and those that are denied, by their number."""

    facts: Sequence[Fact]
    atoms: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    denied: dict[int, Step] = field(default_factory=dict[int, Step])

    def best(self, atom: str) -> Fact:
        """Returns the fact with the highest score among those that say the same."""
        return max((self.facts[number] for number in self.atoms[atom]), key=lambda fact: fact.score)


def decide(manifest: Manifest, rules: Sequence[RuleInfo], facts: Sequence[Fact], solver: Solver) -> Decision:
    """Returns the decision of a rule set on facts; see `RuleSet.decide`."""
    if len(facts) > _MOST_FACTS:
        raise InvalidRequest.of("rules_facts_many", number=len(facts), most=_MOST_FACTS)
    types = {**manifest.facts, **manifest.derived}
    proposals = _screened(manifest, facts, solver)
    atoms = [*proposals.atoms]
    candidates = [_candidate(manifest, proposals.best(atom), atom) for atom in atoms]
    singles = _singles(manifest, proposals, candidates)
    solved = solver.solve(Solve(manifest.program, candidates, singles))
    held = {atoms[number]: proposals.best(atoms[number]) for number in solved.accepted}
    if solved.conflict:
        held = {one.atom: proposals.best(one.atom) for one in candidates if one.certain}
    prover = Prover(rules, types, held)
    _deny(proposals, solved, held, prover, singles)
    accepted = tuple(facts[number] for atom in held for number in proposals.atoms[atom])
    denied = tuple(Denied(facts[number], step) for number, step in sorted(proposals.denied.items()))
    name = f"{manifest.name} {manifest.version}"
    if solved.conflict:
        outcome = _conflict(solved, prover)
        return Decision(CONFLICT, accepted, denied, (), Explanation((), denied, outcome), rules=name)
    steps = prover.steps(solved.instances, _wanted(manifest, solved.instances))
    said = [*steps.values()]
    derived = {step.concludes: None for step in said if step.concludes and step.concludes.name in types}
    known = [*(proposals.best(atom) for atom in held), *derived]
    results = list[Fact]()
    for table in manifest.tables:
        if not table.proposals:
            found = decide_table(solver, table, known, types)
            said += found
            concluded = [step.concludes for step in found if step.concludes is not None]
            known += concluded
            results += concluded
    chosen, outcome = _outcome(manifest, said)
    return Decision(
        chosen,
        tuple(fact for fact in facts if any(fact is one for one in accepted)),
        denied,
        (*derived, *results),
        Explanation(tuple(said), denied, outcome),
        solved.tied,
        name,
        tuple(solved.notes),
    )


def _said(manifest: Manifest, fact: Fact) -> Mapping[Language, str]:
    kind = manifest.facts.get(fact.name)
    fits = kind is not None and kind.arguments.keys() == fact.arguments.keys()
    return {one: kind.said(fact.arguments, one) if kind and fits else str(fact) for one in LANGUAGES}


def _screened(manifest: Manifest, facts: Sequence[Fact], solver: Solver) -> _Proposals:
    """Returns the facts that fit their types, pass the tables over proposals, and reach their thresholds."""
    proposals = _Proposals(facts)
    fitting = dict[int, tuple[FactType, Fact, str]]()
    for number, fact in enumerate(facts):
        if not 0 <= fact.score <= 1:
            raise InvalidRequest.of("rules_score_range", fact=str(fact)[:200], score=fact.score)
        try:
            kind = manifest.facts.get(fact.name)
            if kind is None:
                raise DoesNotFit("rules_fact_unknown", name=fact.name[:80], known=", ".join(manifest.facts))
            arguments = kind.checked(fact.arguments)
        except DoesNotFit as error:
            if fact.score == 1:
                raise InvalidRequest.of("rules_fact_unfit", fact=str(fact)[:200], reason=str(error)) from None
            reasons: Text = {one: render(error.note.key, one, error.note.values)[0] for one in LANGUAGES}
            proposals.denied[number] = _denial(manifest, fact, "unfit", "type", reasons)
            continue
        checked = Fact(fact.name, arguments, fact.score, fact.source)
        fitting[number] = kind, checked, kind.atom(arguments)
    verdicts = _verdicts(manifest, {number: fact for number, (_, fact, _) in fitting.items()}, solver)
    for number, (kind, fact, atom) in fitting.items():
        verdict, step = verdicts.get(number, ("", None))
        if verdict == "deny" and step is not None:
            proposals.denied[number] = _denial(
                manifest, fact, "row", step.rule, step.text, (fact,), step.cites
            )
        elif fact.score == 0 or (fact.score < kind.threshold and verdict != "accept"):
            numbers = {"score": f"{fact.score:.3g}", "threshold": f"{kind.threshold:.3g}"}
            reasons = both("rules_below", dict.fromkeys(LANGUAGES, numbers))
            proposals.denied[number] = _denial(manifest, fact, "threshold", f"{kind.name}.threshold", reasons)
        else:
            proposals.atoms.setdefault(atom, []).append(number)
    return proposals


def _verdicts(
    manifest: Manifest, facts: Mapping[int, Fact], solver: Solver
) -> dict[int, tuple[str, Step | None]]:
    """Returns the verdicts of tables over proposals by the fact's number; a certain fact has none."""
    found = dict[int, tuple[str, Step | None]]()
    for table in manifest.tables:
        if not table.proposals:
            continue
        numbers = [n for n, fact in facts.items() if fact.name == table.proposals and fact.score < 1]
        for number, verdict in zip(
            numbers, screened(solver, table, [facts[n] for n in numbers]), strict=True
        ):
            if verdict is not None and found.get(number, ("", None))[0] != "deny":
                found[number] = verdict
    return found


def _denial(
    manifest: Manifest,
    fact: Fact,
    kind: StepKind,
    rule: str,
    reasons: Text,
    facts: tuple[Fact, ...] = (),
    cites: str = "",
) -> Step:
    said = _said(manifest, fact)
    text = both("rules_denied", {one: {"fact": said[one], "reason": reasons[one]} for one in LANGUAGES})
    return Step(kind, rule, text, facts or (fact,), None, cites=cites)


def _candidate(manifest: Manifest, fact: Fact, atom: str) -> Candidate:
    certain = fact.score == 1
    neutral = manifest.facts[fact.name].neutral
    return Candidate(atom, 0 if certain else weight(fact.score, neutral), certain)


def _singles(manifest: Manifest, proposals: _Proposals, candidates: Sequence[Candidate]) -> list[list[int]]:
    """Returns the numbers of candidates of which at most one can hold."""
    groups = dict[str, list[int]]()
    for number, atom in enumerate(proposals.atoms):
        name = proposals.best(atom).name
        if manifest.facts[name].single:
            groups.setdefault(name, []).append(number)
    for name, group in groups.items():
        certain = [candidates[number].atom for number in group if candidates[number].certain]
        if len(certain) > 1:
            raise InvalidRequest.of("rules_single_certain", name=name, facts=", ".join(certain)[:300])
    return [group for group in groups.values() if len(group) > 1]


def _deny(
    proposals: _Proposals,
    solved: Solved,
    held: Mapping[str, Fact],
    prover: Prover,
    singles: Sequence[Sequence[int]],
) -> None:
    """Adds the reason why each candidate that does not hold is denied."""
    atoms = [*proposals.atoms]
    left = [number for number, atom in enumerate(atoms) if atom not in held]
    for place, number in enumerate(left):
        fact = proposals.best(atoms[number])
        others = [held[atoms[n]] for group in singles if number in group for n in group if atoms[n] in held]
        if solved.conflict:
            step = _reason(prover, fact, "conflict", CONFLICT, both("rules_no_choice", {"en": {}, "zh": {}}))
        elif others:
            said: Values = {one: {"other": prover.said(others[0], one)} for one in LANGUAGES}
            step = _reason(
                prover, fact, "single", f"{fact.name}.single", both("rules_single", said), (fact, others[0])
            )
        elif solved.violations[place]:
            broken = prover.step(solved.violations[place][0], "constraint")
            step = _reason(prover, fact, "constraint", broken.rule, broken.text, broken.facts, broken)
        else:
            score = f"{fact.score:.3g}"
            values: Values = {one: {"score": score} for one in LANGUAGES}
            step = _reason(prover, fact, "score", f"{fact.name}.neutral", both("rules_below_neutral", values))
        for same in proposals.atoms[atoms[number]]:
            proposals.denied[same] = step


def _reason(
    prover: Prover,
    fact: Fact,
    kind: StepKind,
    rule: str,
    reasons: Text,
    facts: tuple[Fact, ...] = (),
    broken: Step | None = None,
) -> Step:
    text = both(
        "rules_denied",
        {one: {"fact": prover.said(fact, one), "reason": reasons[one]} for one in LANGUAGES},
    )
    absent, cites = (broken.absent, broken.cites) if broken else ((), "")
    return Step(kind, rule, text, facts or (fact,), None, absent, cites)


def _conflict(solved: Solved, prover: Prover) -> Step:
    steps = [prover.step(one, "conflict") for one in solved.violations[0]]
    reason = {
        one: ("；" if one == "zh" else "; ").join(step.said(one) for step in steps) for one in LANGUAGES
    }
    text = both("rules_conflict", {one: {"reason": reason[one]} for one in LANGUAGES})
    facts = tuple({str(fact): fact for step in steps for fact in step.facts}.values())
    return Step("conflict", ", ".join(dict.fromkeys(step.rule for step in steps)), text, facts)


def _wanted(manifest: Manifest, instances: Sequence[Instance]) -> list[str]:
    heads = dict.fromkeys(one.head.text for one in instances if one.head and _shown(manifest, one))
    return [*heads]


def _shown(manifest: Manifest, one: Instance) -> bool:
    return one.head is not None and (one.head.name in manifest.derived or one.head.name == "outcome")


def _outcome(manifest: Manifest, steps: Sequence[Step]) -> tuple[str, Step]:
    """Returns the outcome that comes first in the manifest among those that steps name, and why."""
    if not manifest.outcomes:
        return DECIDED, Step("default", "", both("rules_decided", {"en": {}, "zh": {}}))
    order = [*manifest.outcomes]
    named = list[tuple[int, Step]]()
    for step in steps:
        fact = step.concludes
        if fact is None:
            continue
        name = fact.arguments.get("1") if fact.name == "outcome" else fact.arguments.get("outcome")
        if name is None:
            continue
        if name not in order:
            raise InvalidRequest.of("rules_outcome_unknown", outcome=str(name)[:80], known=", ".join(order))
        named.append((order.index(str(name)), step))
    if not named:
        text = both(
            "rules_default",
            {one: {"outcome": manifest.outcomes[manifest.default].get(one, "")} for one in LANGUAGES},
        )
        return manifest.default, Step("default", "default", text)
    place, step = min(named, key=lambda one: one[0])
    text = both(
        "rules_outcome",
        {
            one: {"outcome": manifest.outcomes[order[place]].get(one, ""), "reason": step.text.get(one, "")}
            for one in LANGUAGES
        },
    )
    return order[place], Step(step.kind, step.rule, text, step.facts, step.concludes, step.absent, step.cites)

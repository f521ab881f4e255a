"""`compare`: whether clingo's choice, its derivations and the explanations made of them agree with the second evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepwell.agents.rules.logic.parse import parse_program
from deepwell.agents.rules.logic.solve import solve
from deepwell.agents.rules.logic.wire import Candidate, Instance, Solve, Solved
from deepwell.agents.rules.reference.datalog import Datalog

__all__ = ["Agreement", "compare"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The comparison of one program.

    Attributes:
        fault: in which they differ; empty if in nothing.
        atoms: atoms that rules derived.
        conflict: every choice of facts breaks a constraint.
        tied: several choices have the least cost.
    """

    fault: str
    atoms: int
    conflict: bool = False
    tied: bool = False


def compare(source: str, candidates: Sequence[tuple[str, int]]) -> Agreement:
    """Returns whether both agree on the cheapest choice, on all that follows from it, and on what speaks against the others."""
    asked = Solve(source, [Candidate(atom, weight, False) for atom, weight in candidates], [])
    datalog = Datalog(source)
    solved, best = solve(asked), datalog.cheapest(candidates)
    if solved.conflict or best is None:
        fault = "" if solved.conflict and best is None else f"conflict: {solved.conflict}, {best}"
        return Agreement(fault, 0, conflict=True)
    chosen = tuple(solved.accepted)
    if chosen not in best[1]:
        return Agreement(f"choice: {chosen}, not among {best}", 0)
    if solved.tied != (len(best[1]) > 1):
        return Agreement(f"tied: {solved.tied}, {best}", 0)
    facts = [candidates[number][0] for number in chosen]
    model = datalog.model(facts)
    heads = {one.head.text for one in solved.instances if one.head is not None}
    if heads | set(facts) != model.atoms:
        return Agreement(f"atoms: {sorted(heads ^ model.atoms)[:5]}", len(heads))
    fault = _unfounded(solved.instances, facts) or _wrong_violation(solved, datalog, source, candidates)
    return Agreement(fault, len(heads), tied=solved.tied)


def _unfounded(instances: Sequence[Instance], facts: Sequence[str]) -> str:
    """Returns what is wrong with the derivations: each atom needs one whose premises were derived before."""
    known, left = set(facts), [one for one in instances if one.head is not None]
    while left:
        ready = [one for one in left if all(atom.text in known for atom in one.positive)]
        if not ready:
            return f"unfounded: {left[0]}"
        known |= {one.head.text for one in ready if one.head is not None}
        left = [one for one in left if one.head is not None and one.head.text not in known]
    return ""


def _wrong_violation(
    solved: Solved, datalog: Datalog, source: str, candidates: Sequence[tuple[str, int]]
) -> str:
    """Returns whether a denied candidate is said to break constraints other than those that it breaks."""
    facts = [candidates[number][0] for number in solved.accepted]
    labels = [rule.label for rule in parse_program(source).rules]
    denied = sorted(set(range(len(candidates))) - {*solved.accepted})
    for number, violations in zip(denied, solved.violations, strict=True):
        atom, weight = candidates[number]
        broken = {*datalog.model([*facts, atom]).violated}
        if broken != {labels[one.rule] for one in violations}:
            return f"violations of {atom}: {violations}, {broken}"
        if not violations and weight > 0:
            return f"{atom} is denied without a reason"
    return ""

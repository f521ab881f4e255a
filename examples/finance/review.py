"""Reviews a contract: sentences become proposals, proposals and what the sentences state become a decision, and that a report.

The same rule set decides for rules alone (the patterns propose) and for both together (the model proposes too).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deepwell.agents.rules import Decision, Fact, RuleSet
from examples.finance import reading
from examples.finance.generate import CEILING

__all__ = ["ROLES", "Proposals", "Review", "facts_of", "pattern_proposals", "review"]

ROLES: Final = ("lender", "borrower", "guarantor")
"""Parties of a contract."""

_PATTERN_SCORE = 0.9  # of what a pattern proposes
_LEAST_SCORE = 0.05
_KINDS_A_SENTENCE = 3
_PUBLIC = re.compile(r"(小学|中学|大学|学校|幼儿园|医院|卫生院|[财教公水税]\w{0,3}局|政府|委员会|法院)$")
_ROLE_WORD = re.compile(
    r"^(甲方|乙方|丙方|贷款人|出借人|借款人|保证人|担保人|债权人|债务人|用户\w?|\w{0,4}方)$"
)


@dataclass(frozen=True, slots=True)
class Proposals:
    """Facts that patterns or a model take for true, each with a score.

    Attributes:
        clauses: score by kind and number of the sentence.
        parties: score by role and name.
    """

    clauses: Mapping[tuple[str, int], float]
    parties: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Review:
    """The review of a contract.

    Attributes:
        sentences: sentences of the tidy text, by their number.
        fields: what the contract states; see `generate.FIELDS`.
        findings: what it lacks and what the law does not allow.
        decision: the decision with its explanation.
    """

    sentences: tuple[str, ...]
    fields: Mapping[str, str | float]
    findings: frozenset[str]
    decision: Decision


def pattern_proposals(found: Sequence[str]) -> Proposals:
    """Returns what the patterns propose about the sentences of a contract."""
    clauses = {(kind, at): _PATTERN_SCORE for at, one in enumerate(found) for kind in reading.kinds(one)}
    parties = {(role, name): _PATTERN_SCORE for role in ROLES if (name := reading.party(role, found))}
    return Proposals(clauses, parties)


def review(rules: RuleSet, text: str, model: Proposals | None = None, *, ceiling: float = CEILING) -> Review:
    """Returns the review of a contract by rules alone, or by rules and a model.

    Args:
        model: what the model proposes about the sentences of the tidy text.
        ceiling: highest lawful cost in per cent a year.

    Raises:
        InvalidRequest: the facts do not fit the rule set.
    """
    found = reading.sentences(reading.tidy(text))
    decision = rules.decide(facts_of(text, found, model, ceiling))
    findings = frozenset(
        str(one.arguments["kind"]).replace("_", "-") for one in decision.derived_by("finding")
    )
    return Review(tuple(found), _fields(decision, found), findings, decision)


def facts_of(text: str, found: Sequence[str], model: Proposals | None, ceiling: float) -> list[Fact]:
    """Returns the facts of a contract: proposals with their scores, and what sentences state for certain."""
    own = pattern_proposals(found)
    clauses, parties = dict(own.clauses), dict(own.parties)
    if model is not None:
        clauses = dict.fromkeys(own.clauses, _LEAST_SCORE) | _likely(model.clauses)
        for key, score in model.parties.items():
            parties[key] = max(score, parties.get(key, 0.0))
    facts = [
        Fact("clause", {"kind": kind, "at": at}, score, found[at]) for (kind, at), score in clauses.items()
    ]
    if model is not None:
        facts += [Fact("pattern", {"kind": kind, "at": at}, 1.0, found[at]) for kind, at in own.clauses]
    facts += [
        Fact("party", {"role": role, "name": name}, score)
        for (role, name), score in parties.items()
        if 0 < len(name) <= 80
    ]
    for at in sorted({at for _, at in clauses}):
        facts += _stated(found[at], at)
    flat = reading.tidy(text)
    courts = {at: court for _, at in clauses if (court := reading.court_of(found[at]))}
    for name in sorted({name for _, name in parties}):
        facts += _about(name, flat, courts)
    return [*facts, Fact("ceiling", {"rate": round(ceiling * 100)})]


def _likely(scores: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """Returns the likeliest kinds of each sentence."""
    kept: dict[tuple[str, int], float] = {}
    taken: dict[int, int] = {}
    for (kind, at), score in sorted(scores.items(), key=lambda one: -one[1]):
        taken[at] = taken.get(at, 0) + 1
        if score >= _LEAST_SCORE and taken[at] <= _KINDS_A_SENTENCE:
            kept[kind, at] = min(score, 0.999)
    return kept


def _stated(sentence: str, at: int) -> list[Fact]:
    """Returns what a sentence states, whatever it is about."""
    facts = list[Fact]()
    if reading.amount(sentence):
        facts.append(Fact("money", {"at": at}, 1.0, sentence))
    year, share = reading.per_cent_a_year(sentence), reading.per_cent(sentence)
    if year is not None and share is not None:
        for name, rate in (("yearly", year), ("monthly", share), ("daily", share * 365)):
            facts.append(Fact(name, {"at": at, "rate": round(rate * 100)}, 1.0, sentence))
    if reading.months(sentence):
        facts.append(Fact("span", {"at": at}, 1.0, sentence))
    if reading.court_of(sentence):
        facts.append(Fact("court_named", {"at": at}, 1.0, sentence))
    return facts


def _about(name: str, flat: str, courts: Mapping[int, str]) -> list[Fact]:
    facts = list[Fact]()
    if name in flat:
        facts.append(Fact("written", {"name": name}))
    if _ROLE_WORD.match(name):
        facts.append(Fact("role_word", {"name": name}))
    if _PUBLIC.search(name):
        facts.append(Fact("public", {"name": name}))
    behind = flat[flat.find(name) + len(name) :][:24].split("\n")[0] if name in flat else ""
    for at, court in courts.items():
        city = re.split("市", court)[0][-2:]
        if "市" in court and city in behind:
            facts.append(Fact("beside", {"name": name, "at": at}))
    return facts


def _fields(decision: Decision, found: Sequence[str]) -> dict[str, str | float]:
    """Returns what the accepted facts state; of several clauses of a kind, the one with the highest score counts."""
    fields: dict[str, str | float] = {
        str(one.arguments["role"]): str(one.arguments["name"])
        for one in decision.accepted
        if one.name == "party"
    }
    best: dict[str, Fact] = {}
    for one in decision.accepted:
        if one.name == "clause" and one.score > getattr(best.get(str(one.arguments["kind"])), "score", 0.0):
            best[str(one.arguments["kind"])] = one
    readers = (
        ("principal", "principal", reading.amount),
        ("rate", "rate", reading.per_cent_a_year),
        ("months", "term", reading.months),
        ("guarantee_months", "period_ok", reading.guarantee_months),
    )
    for field, kind, read in readers:
        if kind in best and (value := read(found[int(best[kind].arguments["at"])])):
            fields[field] = round(value, 3)
    return fields

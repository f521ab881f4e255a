"""Messages between a rule set and the confined child that reads and solves its programs."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "Atom",
    "Candidate",
    "Examine",
    "Examined",
    "Finding",
    "Instance",
    "ModelCheck",
    "RuleInfo",
    "Solve",
    "Solved",
    "TableRun",
    "TableRuns",
]


class Finding(msgspec.Struct, array_like=True, frozen=True):
    """One fault or doubt of a rule set, as a text of the catalogue.

    Attributes:
        level: "error" refuses the rule set; "warning" is likely a mistake; "note" says what was not checked.
        where: file, line, row or name.
        key: key of the text in the catalogue.
    """

    level: str
    where: str
    key: str
    values: dict[str, Any] = {}


class Atom(msgspec.Struct, array_like=True, frozen=True):
    """A ground atom: its text, which tells atoms apart, and its parts."""

    text: str
    name: str
    terms: list[int | str]


class RuleInfo(msgspec.Struct, array_like=True, frozen=True):
    """A rule of a program, as its author wrote it.

    Attributes:
        kind: "rule", "constraint" or "weak".
        places: for each variable the predicate and the position where it stands first; empty and 0: in none.
        labelled: whether the label is the author's; otherwise it is the line.
        fact: whether the rule has no body.
    """

    label: str
    line: int
    kind: str
    source: str
    text: dict[str, str]
    cites: str
    head: str
    variables: list[str]
    places: list[tuple[str, int]]
    labelled: bool
    fact: bool


class Examine(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """Asks for a program's rules and faults.

    Attributes:
        inputs: name, number of arguments, and limits of the integers of each argument (None: no integer).
        outputs: the same of the derived facts that the manifest declares.
    """

    source: str
    inputs: list[tuple[str, int, list[tuple[int, int] | None]]]
    outputs: list[tuple[str, int]]


class Examined(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """The rules of a program, and what is wrong with it."""

    rules: list[RuleInfo]
    findings: list[Finding]


class Candidate(msgspec.Struct, array_like=True, frozen=True):
    """A fact that may hold. A certain one must; others cost `weight` when they are denied, or `-weight` when accepted."""

    atom: str
    weight: int
    certain: bool


class Solve(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """Asks which candidates hold, and why. `singles`: groups of which at most one holds."""

    source: str
    candidates: list[Candidate]
    singles: list[list[int]]


class Instance(msgspec.Struct, array_like=True, frozen=True):
    """A rule with values for its variables, whose body holds.

    Attributes:
        rule: number of the rule in the program.
        head: what it derives; None for a constraint.
        positive: atoms that its body needs, those inside of aggregates too.
        negative: atoms that must not hold, `_any` standing for any value.
        values: values of the rule's variables, in the order of `RuleInfo.variables`.
    """

    rule: int
    head: Atom | None
    positive: list[Atom]
    negative: list[str]
    values: list[int | str]


class Solved(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """The answer: which candidates hold, all derivations from them, and what speaks against each of the others.

    Attributes:
        conflict: the certain facts break a constraint; `violations` has one item, which says which.
        violations: for every denied candidate, in their order, the constraints that it would break.
        notes: what the grounder could not compute, such as a division by zero.
    """

    accepted: list[int]
    tied: bool
    conflict: bool
    instances: list[Instance]
    violations: list[list[Instance]]
    notes: list[str]


class TableRun(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """Asks for the rows of a table that hit, once for each context. `decision` is a decision model in JSON (JDM)."""

    decision: str
    contexts: list[dict[str, Any]]


class ModelCheck(msgspec.Struct, tag=7, array_like=True, frozen=True):
    """Asks which expressions of a decision model zen-engine cannot read. The answer is `Examined`, without rules."""

    name: str
    decision: str


class TableRuns(msgspec.Struct, tag=6, array_like=True, frozen=True):
    """For every context the rows that hit, as (node, number of the row, its id), and the result."""

    hits: list[list[tuple[str, int, str]]]
    results: list[Any]

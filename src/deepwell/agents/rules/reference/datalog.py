"""`Datalog`: a small evaluator of stratified Datalog with negation, arithmetic and aggregates, in plain Python.

It is a check of the engine and not an engine: it takes only the syntax tree from clingo, tries rules again and again until
nothing new follows (naive evaluation, stratum by stratum), and calculates with integers of any size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from deepwell.agents.rules.logic.parse import parse_program
from deepwell.agents.rules.reference.syntax import (
    Aggregate,
    Atom,
    Clause,
    Comparison,
    Literal,
    Name,
    Negation,
    Operation,
    Range,
    Term,
    Value,
    Variable,
    atom_of,
    names,
    read_clauses,
)

__all__ = ["MOST_ATOMS", "Datalog", "Model"]

MOST_ATOMS: Final = 20_000
"""Most atoms of a model: a program that goes on for ever is stopped."""

_Binding = dict[str, Value]
_Held = dict[tuple[str, int], dict[tuple[Value, ...], None]]

_COMPARE: Final[Mapping[str, Callable[[tuple[int, int, str], tuple[int, int, str]], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Model:
    """The atoms that follow from a program.

    Attributes:
        atoms: all atoms that hold, in clingo's notation.
        violated: labels of the constraints whose bodies hold.
    """

    atoms: frozenset[str]
    violated: tuple[str, ...]


class _Undefined(Exception):
    """Raised for arithmetic without a result; the instance of the rule does not exist then."""


class Datalog:
    """A program that may be evaluated with several sets of facts.

    Args:
        source: the program, in clingo's notation.

    Raises:
        ValueError: the program is refused or not stratified.
    """

    def __init__(self, source: str) -> None:
        program = parse_program(source)
        if program.findings:
            raise ValueError(f"refused: {program.findings[0]}")
        clauses = read_clauses(program)
        self._constraints = [one for one in clauses if one.head is None]
        self._strata = [*_strata([one for one in clauses if one.head is not None])]

    def model(self, facts: Iterable[str] = ()) -> Model:
        """Returns the one model of the program with further facts, which are atoms in clingo's notation.

        Raises:
            ValueError: the program is not safe, or has more than `MOST_ATOMS` atoms.
        """
        return _Evaluation(self._strata, [atom_of(one) for one in facts]).model(self._constraints)

    def cheapest(self, candidates: Sequence[tuple[str, int]]) -> tuple[int, list[tuple[int, ...]]] | None:
        """Returns the least cost of a choice of candidates that breaks no constraint, and all choices that have it.

        All choices are tried. A denied candidate costs its weight if it is positive, an accepted one the negative of a
        negative weight. None: every choice breaks a constraint.
        """
        found = list[tuple[int, tuple[int, ...]]]()
        for size in range(len(candidates) + 1):
            for chosen in combinations(range(len(candidates)), size):
                if not self.model(candidates[number][0] for number in chosen).violated:
                    paid = [
                        abs(weight)
                        for number, (_, weight) in enumerate(candidates)
                        if (number in chosen) == (weight < 0)
                    ]
                    found.append((sum(paid), chosen))
        if not found:
            return None
        least = min(cost for cost, _ in found)
        return least, [chosen for cost, chosen in found if cost == least]


def _strata(clauses: Sequence[Clause]) -> Iterator[list[Clause]]:
    """Yields the rules in groups, so that what a group negates or counts is complete before it."""
    level = {one.head.key: 0 for one in clauses if one.head is not None}
    for _ in range(len(level) + 2):
        changed = False
        for one in clauses:
            assert one.head is not None
            for atom, below in _read(one.body):
                least = level.get(atom.key, 0) + below
                if level[one.head.key] < least:
                    level[one.head.key], changed = least, True
        if not changed:
            break
    else:
        raise ValueError("the program is not stratified")
    for number in sorted({*level.values()}):
        yield [one for one in clauses if one.head is not None and level[one.head.key] == number]


def _read(body: Sequence[Literal]) -> Iterator[tuple[Atom, bool]]:
    """Yields the atoms that a body reads, and whether each must be complete first."""
    for literal in body:
        match literal:
            case Atom():
                yield literal, False
            case Negation(atom):
                yield atom, True
            case Aggregate(_, elements):
                for element in elements:
                    yield from ((atom, True) for atom, _ in _read(element.conditions))
            case Comparison():
                pass


class _Evaluation:
    """One evaluation: the atoms that hold so far."""

    def __init__(self, strata: Sequence[Sequence[Clause]], facts: Sequence[Atom]) -> None:
        self._held: _Held = {}
        for atom in facts:
            self._held.setdefault(atom.key, {})[tuple(_value(term, {}) for term in atom.terms)] = None
        for clauses in strata:
            while sum(self._apply(one) for one in clauses):
                pass

    def model(self, constraints: Sequence[Clause]) -> Model:
        violated = [one.label for one in constraints if next(self._bindings(one.body, {}), None) is not None]
        atoms = frozenset(
            f"{name}({','.join(map(str, values))})" if values else name
            for (name, _), held in self._held.items()
            for values in held
        )
        return Model(atoms, tuple(violated))

    def _apply(self, clause: Clause) -> int:
        """Adds what a rule derives, and returns how many atoms are new."""
        assert clause.head is not None
        held = self._held.setdefault(clause.head.key, {})
        before, new = len(held), list[tuple[Value, ...]]()
        for binding in self._bindings(clause.body, {}):
            try:
                new += _expanded(clause.head.terms, binding)
            except _Undefined:
                continue
        held.update(dict.fromkeys(new))
        if len(held) > MOST_ATOMS:
            raise ValueError(f"the program has more than {MOST_ATOMS} atoms")
        return len(held) - before

    def _bindings(self, literals: Sequence[Literal], binding: _Binding) -> Iterator[_Binding]:
        """Yields all values of the variables for which literals hold. The first one that can be decided is taken first.

        An aggregate comes after all that may give values to variables that it shares with the rest of the rule.
        """
        if not literals:
            yield binding
            return
        for place in sorted(range(len(literals)), key=lambda n: isinstance(literals[n], Aggregate)):
            if _ready(literals[place], binding):
                rest = [*literals[:place], *literals[place + 1 :]]
                for extended in self._holds(literals[place], binding):
                    yield from self._bindings(rest, extended)
                return
        raise ValueError(f"a variable of {literals} is not safe")

    def _holds(self, literal: Literal, binding: _Binding) -> Iterator[_Binding]:
        try:
            match literal:
                case Atom():
                    yield from self._matches(literal, binding)
                case Negation(atom):
                    if next(self._matches(atom, binding), None) is None:
                        yield binding
                case Comparison():
                    yield from _compared(literal, binding)
                case Aggregate():
                    yield from self._aggregate(literal, binding)
        except _Undefined:
            return

    def _matches(self, atom: Atom, binding: _Binding) -> Iterator[_Binding]:
        terms = [
            term if isinstance(term, Variable) and term.name not in binding else _value(term, binding)
            for term in atom.terms
        ]
        for values in [*self._held.get(atom.key, ())]:
            extended = dict(binding)
            for term, value in zip(terms, values, strict=True):
                if not isinstance(term, Variable):
                    if term != value:
                        break
                elif term.name != "_" and extended.setdefault(term.name, value) != value:
                    break
            else:
                yield extended

    def _aggregate(self, one: Aggregate, binding: _Binding) -> Iterator[_Binding]:
        """Yields the binding with the variables that equal the aggregate. Its own variables are seen by nothing else."""
        tuples = dict[tuple[Value, ...], None]()
        for element in one.elements:
            for inner in self._bindings(element.conditions, binding):
                try:
                    tuples[tuple(_value(term, inner) for term in element.terms)] = None
                except _Undefined:
                    continue
        found = _aggregated(one.function, [*tuples])
        extended: _Binding = dict(binding)
        for sign, term in one.guards:
            if sign == "=" and isinstance(term, Variable) and term.name not in extended:
                if found is None:
                    return  # the least or greatest of nothing is no value of this language
                extended[term.name] = found
                continue
            # The least of nothing lies above everything, the greatest below.
            mine = _ordered(found) if found is not None else (9 if one.function == "min" else -9, 0, "")
            if not _COMPARE[sign](mine, _ordered(_value(term, extended))):
                return
        yield extended


def _ready(literal: Literal, binding: _Binding) -> bool:
    match literal:
        case Atom() | Negation():
            return literal.needed <= binding.keys()
        case Comparison((left, right), ("=",)):
            known_left, known_right = names(left) <= binding.keys(), names(right) <= binding.keys()
            assigns = (isinstance(left, Variable) and known_right) or (
                isinstance(right, Variable) and known_left
            )
            return assigns or (known_left and known_right)
        case Comparison():
            return literal.needed <= binding.keys()
        case Aggregate(_, _, guards):
            return all(isinstance(term, Variable) or names(term) <= binding.keys() for _, term in guards)


def _compared(one: Comparison, binding: _Binding) -> Iterator[_Binding]:
    if one.signs == ("=",):
        left, right = one.terms
        if isinstance(right, Variable) and right.name not in binding:
            left, right = right, left
        if isinstance(left, Variable) and left.name not in binding:
            for value in _several(right, binding):
                yield {**binding, left.name: value}
        elif _value(left, binding) in _several(right, binding):
            yield binding
        return
    values = [_ordered(_value(term, binding)) for term in one.terms]
    if all(_COMPARE[sign](a, b) for sign, a, b in zip(one.signs, values, values[1:], strict=False)):
        yield binding


def _expanded(terms: Sequence[Term], binding: _Binding) -> list[tuple[Value, ...]]:
    """Returns the values of terms; a range has several."""
    found: list[tuple[Value, ...]] = [()]
    for term in terms:
        found = [(*one, value) for one in found for value in _several(term, binding)]
    return found


def _several(term: Term, binding: _Binding) -> Sequence[Value]:
    if not isinstance(term, Range):
        return [_value(term, binding)]
    return range(_number(term.low, binding), _number(term.high, binding) + 1)


def _value(term: Term, binding: _Binding) -> Value:
    match term:
        case int() | Name():
            return term
        case Variable(name):
            return binding[name]
        case Operation(sign, left, right):
            return _calculated(sign, _number(left, binding), _number(right, binding))
        case Range():
            raise _Undefined


def _number(term: Term, binding: _Binding) -> int:
    value = _value(term, binding)
    if not isinstance(value, int):
        raise _Undefined
    return value


def _calculated(sign: str, left: int, right: int) -> int:
    match sign:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "|":
            return abs(left)
        case _ if right == 0:
            raise _Undefined
        case _:  # division goes towards zero
            quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
            return quotient if sign == "/" else left - right * quotient


def _aggregated(function: str, tuples: Sequence[tuple[Value, ...]]) -> Value | None:
    if function == "count":
        return len(tuples)
    firsts = [one[0] for one in tuples if one]
    if function.startswith("sum"):
        return sum(one for one in firsts if isinstance(one, int) and (one > 0 or function == "sum"))
    if not firsts:
        return None
    return min(firsts, key=_ordered) if function == "min" else max(firsts, key=_ordered)


def _ordered(value: Value) -> tuple[int, int, str]:
    return (0, value, "") if isinstance(value, int) else (value.rank, 0, value.text)

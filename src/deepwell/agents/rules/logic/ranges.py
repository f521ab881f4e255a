"""`overflows`: finds arithmetic that may leave 32 bits, where clingo would go on with a wrong number without a word.

Every argument of every predicate gets the interval of the integers that it may hold: facts have the limits of their types,
rules pass intervals on, and comparisons with numbers narrow them. An interval that keeps growing is widened to all integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from clingo import SymbolType, ast

from deepwell.agents.rules.facts import LARGEST
from deepwell.agents.rules.logic.parse import Program, Rule
from deepwell.agents.rules.logic.wire import Finding

__all__ = ["Interval", "overflows"]

Interval = tuple[float, float]
"""Smallest and largest integer; infinities where there is no end."""

_ALL: Final = (float("-inf"), float("inf"))
_ROUNDS: Final = 12
_Predicate = tuple[str, int]
_Ranges = dict[_Predicate, list[Interval | None]]


def overflows(
    program: Program, inputs: Sequence[tuple[str, int, Sequence[tuple[int, int] | None]]]
) -> Iterator[Finding]:
    """Yields the rules in which arithmetic may leave 32 bits, with the term.

    Args:
        inputs: name, number of arguments, and the limits of each argument, None where it is no integer.
    """
    constants = {name: int(value) for name, value in program.constants.items() if _is_number(value)}
    given: _Ranges = {(name, arity): [*limits] for name, arity, limits in inputs}
    ranges = dict(given)
    for turn in range(2 * _ROUNDS):
        following = _derived(program, given, ranges, constants)
        widened = {key: _widened(ranges.get(key), held, turn >= _ROUNDS) for key, held in following.items()}
        if widened == ranges:
            break
        ranges = widened
    # What was widened is narrowed by the rules once more: from ranges that are wide enough none follows that is too narrow.
    for _ in range(2):
        ranges = _derived(program, given, ranges, constants)
    for rule in program.rules:
        values = _variables(rule, ranges, constants)
        for term in _arithmetic(rule) if values is not None else ():
            found = _term(term, values or {}, constants)
            if found is not None and (found[0] < -LARGEST or found[1] > LARGEST):
                values_said = {"term": str(term)[:80], "most": LARGEST}
                yield Finding("error", f"line {rule.line}", "rules_overflow", values_said)
                break


def _derived(program: Program, given: _Ranges, ranges: _Ranges, constants: Mapping[str, int]) -> _Ranges:
    """Returns the ranges that follow from others by one application of every rule."""
    found: _Ranges = {key: [*held] for key, held in given.items()}
    for rule in program.rules:
        values = _variables(rule, ranges, constants)
        if rule.head is None or values is None:
            continue
        key = (rule.head.name, len(rule.head.arguments))
        if key in given:
            continue
        terms = [_term(term, values, constants) for term in rule.head.arguments]
        before = found.get(key, [None] * key[1])
        found[key] = [_join(one, other) for one, other in zip(before, terms, strict=True)]
    return found


def _widened(
    before: list[Interval | None] | None, after: list[Interval | None], widen: bool
) -> list[Interval | None]:
    """Returns the joined ranges; an end that still moves late is given up."""
    if before is None:
        return after
    found = list[Interval | None]()
    for one, other in zip(before, after, strict=True):
        joined = _join(one, other)
        if widen and joined is not None and one is not None:
            joined = (
                joined[0] if joined[0] == one[0] else _ALL[0],
                joined[1] if joined[1] == one[1] else _ALL[1],
            )
        found.append(joined)
    return found


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdigit()


def _join(one: Interval | None, other: Interval | None) -> Interval | None:
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def _meet(one: Interval | None, other: Interval) -> Interval | None:
    """Returns what both intervals hold. Without a number there is nothing to narrow."""
    if one is None:
        return None
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, high) if low <= high else (low, low)


def _variables(
    rule: Rule, ranges: _Ranges, constants: Mapping[str, int]
) -> dict[str, Interval | None] | None:
    """Returns the interval of each variable; None: the body needs a predicate that nothing derives yet."""
    values = dict[str, Interval | None]()
    for atom in rule.positive():
        limits = ranges.get((atom.name, len(atom.arguments)))
        if limits is None:
            return None
        for term, interval in zip(atom.arguments, limits, strict=True):
            if term.ast_type == ast.ASTType.Variable:
                known = values.get(term.name)
                values[term.name] = interval if known is None else _meet(known, interval or known)
    for literal in rule.aggregates():
        for guard in (literal.atom.left_guard, literal.atom.right_guard):
            if guard is not None and guard.term.ast_type == ast.ASTType.Variable:
                values.setdefault(guard.term.name, _aggregate(literal.atom, ranges, constants))
    for _ in range(3):  # an assignment may need one after it
        for literal in rule.comparisons():
            _compare(literal.atom, values, constants)
    return values


def _aggregate(atom: Any, ranges: _Ranges, constants: Mapping[str, int]) -> Interval:
    """Returns the interval of an aggregate: a number of elements is bounded by memory, a sum by nothing that is known."""
    if atom.function == ast.AggregateFunction.Count:
        return 0, 10**6
    if atom.function in (ast.AggregateFunction.Sum, ast.AggregateFunction.SumPlus):
        return _ALL
    joined: Interval | None = None
    for element in atom.elements:
        inner = dict[str, Interval | None]()
        for condition in element.condition:
            if condition.atom.ast_type == ast.ASTType.SymbolicAtom:
                symbol = condition.atom.symbol
                limits = ranges.get((symbol.name, len(symbol.arguments)), [])
                for term, interval in zip(symbol.arguments, limits, strict=False):
                    if term.ast_type == ast.ASTType.Variable:
                        inner[term.name] = interval
        if element.terms:
            joined = _join(joined, _term(element.terms[0], inner, constants))
    return joined or _ALL


def _compare(atom: Any, values: dict[str, Interval | None], constants: Mapping[str, int]) -> None:
    sides = [atom.term, *(guard.term for guard in atom.guards)]
    for guard, left, right in zip(atom.guards, sides, sides[1:], strict=False):
        for variable, other, swapped in ((left, right, False), (right, left, True)):
            if variable.ast_type != ast.ASTType.Variable or variable.name == "_":
                continue
            bound = _term(other, values, constants)
            if bound is None:
                continue
            narrowed = _narrowed(guard.comparison, bound, swapped)
            if variable.name in values:
                values[variable.name] = _meet(values[variable.name], narrowed)
            elif guard.comparison == ast.ComparisonOperator.Equal:
                values[variable.name] = bound


def _narrowed(comparison: Any, bound: Interval, swapped: bool) -> Interval:
    less = {ast.ComparisonOperator.LessThan: 1, ast.ComparisonOperator.LessEqual: 0}
    more = {ast.ComparisonOperator.GreaterThan: 1, ast.ComparisonOperator.GreaterEqual: 0}
    if swapped:
        less, more = more, less
    if comparison in less:
        return _ALL[0], bound[1] - less[comparison]
    if comparison in more:
        return bound[0] + more[comparison], _ALL[1]
    return bound if comparison == ast.ComparisonOperator.Equal else _ALL


def _term(term: Any, values: Mapping[str, Interval | None], constants: Mapping[str, int]) -> Interval | None:
    """Returns the interval of a term; None: it is no number."""
    match term.ast_type:
        case ast.ASTType.Variable:
            return values.get(term.name)
        case ast.ASTType.SymbolicTerm:
            if term.symbol.type == SymbolType.Number:
                return term.symbol.number, term.symbol.number
            number = constants.get(str(term))
            return None if number is None else (number, number)
        case ast.ASTType.Function:
            number = constants.get(term.name)
            return None if number is None else (number, number)
        case ast.ASTType.Interval:
            return _join(_term(term.left, values, constants), _term(term.right, values, constants))
        case ast.ASTType.UnaryOperation:
            found = _term(term.argument, values, constants)
            if found is None:
                return None
            if term.operator_type == ast.UnaryOperator.Minus:
                return -found[1], -found[0]
            return 0, max(abs(found[0]), abs(found[1]))
        case ast.ASTType.BinaryOperation:
            left, right = _term(term.left, values, constants), _term(term.right, values, constants)
            return None if left is None or right is None else _operation(term.operator_type, left, right)
        case _:
            return None


def _operation(operator: Any, left: Interval, right: Interval) -> Interval:
    match operator:
        case ast.BinaryOperator.Plus:
            return left[0] + right[0], left[1] + right[1]
        case ast.BinaryOperator.Minus:
            return left[0] - right[1], left[1] - right[0]
        case ast.BinaryOperator.Multiplication:
            products = [0.0 if 0 in (a, b) else a * b for a in left for b in right]
            return min(products), max(products)
        case ast.BinaryOperator.Division:  # towards zero; a divisor of 0 derives nothing
            most = max(abs(left[0]), abs(left[1]))
            return (0 if left[0] >= 0 and right[0] >= 0 else -most), most
        case _:
            most = max(abs(right[0]), abs(right[1]))
            return -most, most


def _arithmetic(rule: Rule) -> Iterator[Any]:
    """Yields the operations in a rule outside of aggregates, inner ones first."""
    found = list[Any]()

    class Operations(ast.Transformer):
        def visit_BinaryOperation(self, node: Any) -> Any:
            self.visit_children(node)
            found.append(node)
            return node

        def visit_BodyAggregate(self, node: Any) -> Any:
            return node

    for part in ([rule.head] if rule.head is not None else []) + list(rule.body):
        Operations().visit(part)
    yield from found

"""`examine`: checks a logic program without solving it: safety, definitions, strata, labels and explanations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from clingo import ast

from deepwell.agents.rules.logic.parse import Program, Rule, parse_program, predicates_of, variables_of
from deepwell.agents.rules.logic.ranges import overflows
from deepwell.agents.rules.logic.solve import bound_variables
from deepwell.agents.rules.logic.wire import Examine, Examined, Finding, RuleInfo

__all__ = ["OUTCOME", "examine", "unsafe_variables"]

OUTCOME: Final = ("outcome", 1)
"""Predicate with which a program names the outcome of a decision."""

_Predicate = tuple[str, int]


def examine(asked: Examine) -> Examined:
    """Returns the rules of a program and all that is wrong with it."""
    program = parse_program(asked.source)
    if program.findings:
        return Examined([], program.findings)
    inputs = {(name, arity) for name, arity, _ in asked.inputs}
    outputs = {*map(tuple, asked.outputs), OUTCOME}
    findings = [
        *_unsafe(program),
        *_definitions(program, inputs, outputs),
        *_strata(program),
        *_labels(program),
        *_least_of_nothing(program),
        *overflows(program, asked.inputs),
    ]
    return Examined([_info(rule) for rule in program.rules], findings)


def unsafe_variables(rule: Rule) -> list[str]:
    """Returns the variables of a rule that no positive atom or assignment gives a value, so that it has no finite meaning."""
    outside = variables_of(rule.head) if rule.head is not None else dict[str, None]()
    outside |= dict.fromkeys(bound_variables(rule))
    bound = _bound_by(rule.body, set(), outside.keys())
    unsafe = [name for name in outside if name not in bound]
    for literal in rule.aggregates():
        for element in literal.atom.elements:
            inner = _bound_by(element.condition, {*bound, *outside}, ())
            used = dict[str, None]()
            for part in (*element.terms, *element.condition):
                used |= variables_of(part)
            unsafe += [name for name in used if name not in inner and name not in outside]
    if rule.cost:
        source = rule.source[rule.source.rfind("[") :]
        used = variables_of(_weak_terms(source))
        unsafe += [name for name in used if name not in bound]
    return [*dict.fromkeys(unsafe)]


def _weak_terms(terms: str) -> Any:
    found = list[Any]()
    ast.parse_string(f":~ a. {terms}", found.append)
    return found[-1]


def _bound_by(literals: Iterable[Any], known: set[str], outside: Collection[str]) -> set[str]:
    """Returns the known variables and those that literals give a value, in any order.

    Args:
        outside: variables that stand outside of aggregates: one that counts them needs their values first.
    """
    bound, literals = set(known), [*literals]
    while True:
        before = len(bound)
        for literal in literals:
            if literal.sign == ast.Sign.NoSign:
                bound |= _gives(literal.atom, bound, outside)
        if len(bound) == before:
            return bound


def _gives(atom: Any, bound: set[str], outside: Collection[str]) -> set[str]:
    match atom.ast_type:
        case ast.ASTType.SymbolicAtom:
            return {name for term in atom.symbol.arguments for name in _solvable(term)}
        case ast.ASTType.Comparison:
            sides, found = [atom.term, *(guard.term for guard in atom.guards)], set[str]()
            for guard, left, right in zip(atom.guards, sides, sides[1:], strict=False):
                if guard.comparison == ast.ComparisonOperator.Equal:
                    for one, other in ((left, right), (right, left)):
                        if variables_of(other).keys() <= bound:
                            found |= _solvable(one)
            return found
        case ast.ASTType.BodyAggregate:
            found = set[str]()
            parts = [part for element in atom.elements for part in (*element.terms, *element.condition)]
            shared = {name for part in parts for name in variables_of(part) if name in outside}
            if not shared <= bound:
                return found
            for guard in (atom.left_guard, atom.right_guard):
                if guard is not None and guard.comparison == ast.ComparisonOperator.Equal:
                    found |= _solvable(guard.term)
            return found
        case _:
            return set()


def _solvable(term: Any) -> set[str]:
    """Returns the variable that equals a value if the term does: the term is a*X + b with numbers a and b, a not 0."""
    if term.ast_type == ast.ASTType.Variable:
        return {term.name} - {"_"}
    if term.ast_type == ast.ASTType.UnaryOperation and term.operator_type == ast.UnaryOperator.Minus:
        return _solvable(term.argument)
    if term.ast_type != ast.ASTType.BinaryOperation:
        return set()
    left, right = term.left, term.right
    plain = not variables_of(left) or not variables_of(right)
    match term.operator_type:
        case ast.BinaryOperator.Plus | ast.BinaryOperator.Minus if plain:
            return _solvable(left) | _solvable(right)
        case ast.BinaryOperator.Multiplication if plain:
            number = right if variables_of(left) else left
            zero = str(number) == "0" or number.ast_type != ast.ASTType.SymbolicTerm
            return set() if zero else _solvable(left) | _solvable(right)
        case _:
            return set()


def _unsafe(program: Program) -> Iterator[Finding]:
    for rule in program.rules:
        if names := unsafe_variables(rule):
            yield Finding("error", f"line {rule.line}", "rules_unsafe", {"variables": ", ".join(names)})


def _predicate(atom: Any) -> _Predicate:
    return atom.name, len(atom.arguments)


def _definitions(program: Program, inputs: set[_Predicate], outputs: set[_Predicate]) -> Iterator[Finding]:
    heads = {_predicate(rule.head): rule for rule in program.rules if rule.head is not None}
    used = dict[_Predicate, Rule]()
    for rule in program.rules:
        for literal in rule.body:
            for atom, _ in predicates_of(literal):
                used.setdefault(_predicate(atom), rule)
    for (name, arity), rule in used.items():
        if (name, arity) not in inputs and (name, arity) not in heads:
            known = sorted(f"{n}/{a}" for n, a in inputs | heads.keys() if n == name)
            key = "rules_arity" if known else "rules_undefined"
            values = {"predicate": f"{name}/{arity}", "known": ", ".join(known)}
            yield Finding("error", f"line {rule.line}", key, values)
    for predicate, rule in heads.items():
        named = f"{predicate[0]}/{predicate[1]}"
        if predicate in inputs:
            yield Finding("error", f"line {rule.line}", "rules_input_derived", {"predicate": named})
        elif predicate not in used and predicate not in outputs:
            yield Finding("warning", f"line {rule.line}", "rules_unused", {"predicate": named})
    for name, arity in sorted(outputs - heads.keys() - {OUTCOME}):
        yield Finding("warning", name, "rules_never_derived", {"predicate": f"{name}/{arity}"})
    for name, arity in sorted(inputs - used.keys()):
        yield Finding("note", name, "rules_input_unread", {"predicate": f"{name}/{arity}"})


def _strata(program: Program) -> Iterator[Finding]:
    """Yields the rules whose head depends on its own absence: they would have no answer, or several."""
    edges = dict[_Predicate, dict[_Predicate, None]]()
    for rule in program.rules:
        if rule.head is not None:
            for literal in rule.body:
                for atom, _ in predicates_of(literal):
                    edges.setdefault(_predicate(rule.head), {}).setdefault(_predicate(atom))
    reach = {predicate: _reachable(predicate, edges) for predicate in edges}
    for rule in program.rules:
        if rule.head is None:
            continue
        head = _predicate(rule.head)
        for literal in rule.body:
            for atom, negated in predicates_of(literal):
                other = _predicate(atom)
                if negated and (other == head or head in reach.get(other, ())):
                    values = {"head": head[0], "other": other[0]}
                    yield Finding("error", f"line {rule.line}", "rules_not_stratified", values)


def _reachable(start: _Predicate, edges: Mapping[_Predicate, Mapping[_Predicate, None]]) -> set[_Predicate]:
    found, left = set[_Predicate](), [start]
    while left:
        for other in edges.get(left.pop(), ()):
            if other not in found:
                found.add(other)
                left.append(other)
    return found


def _least_of_nothing(program: Program) -> Iterator[Finding]:
    """Yields the rules that take the least or greatest of what may be nothing: clingo answers with an infinity then."""
    for rule in program.rules:
        for literal in rule.aggregates():
            atom = literal.atom
            guards = [one for one in (atom.left_guard, atom.right_guard) if one is not None]
            assigns = any(
                one.comparison == ast.ComparisonOperator.Equal and one.term.ast_type == ast.ASTType.Variable
                for one in guards
            )
            extreme = atom.function in (ast.AggregateFunction.Min, ast.AggregateFunction.Max)
            if extreme and assigns and all(len(one.condition) for one in atom.elements):
                yield Finding(
                    "error", f"line {rule.line}", "rules_least_of_nothing", {"aggregate": str(atom)[:80]}
                )


def _labels(program: Program) -> Iterator[Finding]:
    counts = Counter(rule.label for rule in program.rules)
    for rule in program.rules:
        where, label = f"line {rule.line}", {"label": rule.label}
        if counts[rule.label] > 1 and rule.labelled:
            yield Finding("warning", where, "rules_label_twice", label)
        if not rule.body:
            continue  # data, which explains itself
        if not rule.labelled:
            yield Finding("warning", where, "rules_label_missing")
        if missing := [language for language in ("en", "zh") if language not in rule.text]:
            yield Finding("warning", where, "rules_text_missing", {**label, "languages": ", ".join(missing)})
        known = set(bound_variables(rule))
        for language, text in rule.text.items():
            for name in _placeholders(text):
                if name not in known:
                    values = {**label, "name": name, "language": language}
                    yield Finding("error", where, "rules_placeholder", values)


def _placeholders(text: str) -> Iterator[str]:
    for part in text.split("{")[1:]:
        name, closed, _ = part.partition("}")
        if closed and name.isidentifier():
            yield name


def _info(rule: Rule) -> RuleInfo:
    variables = bound_variables(rule)
    places = dict[str, tuple[str, int]]()
    atoms = [*rule.positive(), *rule.negative(), *([rule.head] if rule.head is not None else [])]
    for atom in atoms:
        for position, term in enumerate(atom.arguments):
            if term.ast_type == ast.ASTType.Variable:
                places.setdefault(term.name, (atom.name, position))
    return RuleInfo(
        rule.label,
        rule.line,
        rule.kind,
        rule.source,
        rule.text,
        rule.cites,
        rule.head.name if rule.head is not None else "",
        variables,
        [places.get(name, ("", 0)) for name in variables],
        rule.labelled,
        not rule.body,
    )

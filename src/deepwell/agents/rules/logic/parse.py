"""`parse_program`: reads a logic program, and refuses what could run code, read files or have more than one answer.

The language is Datalog with integers (terms without structure), negation, comparisons, arithmetic and aggregates, in clingo's
notation, with hard constraints (`:- ...`) and weak ones (`:~ ... . [weight@level]`). Comments in front of a rule name and
explain it::

    % rule: rate_too_high
    % en: The rate of {R} % is above the ceiling of {C} %.
    % zh: 利率 {R}% 高于上限 {C}%。
    % cites: Civil Code, article 680
    unlawful(rate) :- rate(R), ceiling(C), R > C.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from clingo import SymbolType, ast

from deepwell.agents.rules.facts import LARGEST
from deepwell.agents.rules.logic.wire import Finding

__all__ = ["MOST_CHARACTERS", "Program", "Rule", "parse_program", "predicates_of", "variables_of"]

MOST_CHARACTERS: Final = 256 << 10
"""Most characters of the programs of a rule set, together."""

_FORBIDDEN: Final = re.compile(r"#\s*(include|script)\b")
_QUIET: Final = re.compile(r'"(?:\\.|[^"\\\n])*"|%\*.*?\*%|%[^\n]*', re.DOTALL)
_NUMBER: Final = re.compile(r"(?<![\w])(0[xob]\w+|\d+)")
_ANNOTATION: Final = re.compile(r"%\s*(rule|en|zh|cites)\s*[:：]\s*(.*)")
_LABEL: Final = re.compile(r"[A-Za-z][\w.-]{0,63}\Z")
_OPERATORS: Final = {
    ast.BinaryOperator.Plus,
    ast.BinaryOperator.Minus,
    ast.BinaryOperator.Multiplication,
    ast.BinaryOperator.Division,
    ast.BinaryOperator.Modulo,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, a constraint (whose head is None) or a weak constraint (which has a cost).

    Attributes:
        head: the atom, a `Function` of the syntax tree.
        body: literals of the syntax tree.
        cost: weight, level and terms of a weak constraint, as its notation has them.
    """

    label: str
    line: int
    source: str
    head: Any
    body: tuple[Any, ...]
    cost: str = ""
    text: dict[str, str] = field(default_factory=dict[str, str])
    cites: str = ""
    labelled: bool = False

    @property
    def kind(self) -> str:
        """Kind of the rule: "rule", "constraint" or "weak"."""
        return "weak" if self.cost else "constraint" if self.head is None else "rule"

    def positive(self) -> Iterator[Any]:
        """Yields the atoms that the body needs, outside of aggregates."""
        for literal in self.body:
            if _is_atom(literal) and literal.sign == ast.Sign.NoSign:
                yield literal.atom.symbol

    def negative(self) -> Iterator[Any]:
        """Yields the atoms that must not hold, outside of aggregates."""
        for literal in self.body:
            if _is_atom(literal) and literal.sign == ast.Sign.Negation:
                yield literal.atom.symbol

    def comparisons(self) -> Iterator[Any]:
        """Yields the literals that compare or assign."""
        for literal in self.body:
            if literal.atom.ast_type == ast.ASTType.Comparison:
                yield literal

    def aggregates(self) -> Iterator[Any]:
        """Yields the literals with an aggregate."""
        for literal in self.body:
            if literal.atom.ast_type == ast.ASTType.BodyAggregate:
                yield literal


@dataclass(slots=True)
class Program:
    """A program as it was read.

    Attributes:
        constants: the `#const` definitions, as clingo writes them.
        findings: why it is refused; empty if it is not.
    """

    rules: list[Rule] = field(default_factory=list[Rule])
    constants: dict[str, str] = field(default_factory=dict[str, str])
    findings: list[Finding] = field(default_factory=list[Finding])


def parse_program(source: str) -> Program:
    """Returns the rules of a program. What is refused stands in its findings, with the line."""
    program = Program()
    if _refused_text(source, program):
        return program
    messages = list[str]()
    reader = _Reader(program)
    try:
        ast.parse_string(source, reader.read, logger=lambda _, message: messages.append(message))
    except RuntimeError as error:
        for message in messages or [str(error)]:
            line, reason = _located(message)
            program.findings.append(Finding("error", f"line {line}", "rules_syntax", {"reason": reason}))
    return program


def variables_of(node: Any) -> dict[str, None]:
    """Returns the names of the variables in a part of the syntax tree, in their order; `_` is none."""
    found = dict[str, None]()

    class Names(ast.Transformer):
        def visit_Variable(self, node: Any) -> Any:
            if node.name != "_":
                found.setdefault(node.name)
            return node

    Names().visit(node)
    return found


def predicates_of(literal: Any) -> Iterator[tuple[Any, bool]]:
    """Yields the atoms of a literal's aggregate, or its own, and whether each is negated or inside of an aggregate."""
    if _is_atom(literal):
        yield literal.atom.symbol, literal.sign != ast.Sign.NoSign
    elif literal.atom.ast_type == ast.ASTType.BodyAggregate:
        for element in literal.atom.elements:
            for condition in element.condition:
                if _is_atom(condition):
                    yield condition.atom.symbol, True


def _is_atom(literal: Any) -> bool:
    return literal.atom.ast_type == ast.ASTType.SymbolicAtom


def _located(message: str) -> tuple[str, str]:
    found = re.match(r"<string>:(\d+):[\d-]+: error: (.*)", message, re.DOTALL)
    return (found[1], " ".join(found[2].split())) if found else ("?", " ".join(message.split())[:200])


def _refused_text(source: str, program: Program) -> bool:
    """Returns whether a program may not even be parsed: `#include` would read files."""
    if len(source) > MOST_CHARACTERS:
        program.findings.append(Finding("error", "", "rules_too_long", {"most": MOST_CHARACTERS}))
    if "\0" in source:
        program.findings.append(Finding("error", "", "rules_syntax", {"reason": "a NUL character"}))
    for found in _FORBIDDEN.finditer(source):
        line = source.count("\n", 0, found.start()) + 1
        program.findings.append(
            Finding("error", f"line {line}", "rules_refused", {"construct": f"#{found[1]}"})
        )
    if program.findings:
        return True
    quiet = _QUIET.sub(lambda one: "\n" * one[0].count("\n") or " ", source)
    for found in _NUMBER.finditer(quiet):
        if not found[1].isdigit() or len(found[1]) > 10 or int(found[1]) > LARGEST:
            line = quiet.count("\n", 0, found.start()) + 1
            program.findings.append(
                Finding("error", f"line {line}", "rules_number_large", {"number": found[1][:20]})
            )
    return bool(program.findings)


class _Refused(Exception):
    def __init__(self, construct: Any) -> None:
        super().__init__(str(construct))


class _Reader:
    """Collects the statements of a program with the comments in front of them."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._notes = dict[str, str]()

    def read(self, statement: Any) -> None:
        if statement.ast_type == ast.ASTType.Comment:
            if found := _ANNOTATION.match(statement.value):
                self._notes[found[1]] = found[2].strip()
            return
        notes, self._notes = self._notes, {}
        line = statement.location.begin.line
        try:
            self._statement(statement, notes, line)
        except _Refused as error:
            finding = Finding("error", f"line {line}", "rules_refused", {"construct": str(error)[:120]})
            self._program.findings.append(finding)

    def _statement(self, statement: Any, notes: dict[str, str], line: int) -> None:
        match statement.ast_type:
            case ast.ASTType.Program:
                if statement.name != "base" or statement.parameters:
                    raise _Refused(statement)
            case ast.ASTType.Definition:
                _check_term(statement.value)
                self._program.constants[statement.name] = str(statement.value)
            case ast.ASTType.Rule:
                self._add(statement, _head(statement.head), "", notes, line)
            case ast.ASTType.Minimize:
                # Two matches of one weak constraint count twice only if their terms differ: its variables make them differ.
                for term in (statement.weight, statement.priority, *statement.terms):
                    _check_term(term)
                self._add(statement, None, f"{statement.weight}@{statement.priority}", notes, line)
            case _:
                raise _Refused(statement)

    def _add(self, statement: Any, head: Any, cost: str, notes: dict[str, str], line: int) -> None:
        for literal in statement.body:
            _check_literal(literal)
        label = notes.get("rule", "")
        if label and not _LABEL.match(label):
            self._program.findings.append(
                Finding("error", f"line {line}", "rules_label_wrong", {"label": label[:80]})
            )
        text = {language: notes[language] for language in ("en", "zh") if notes.get(language)}
        cites = notes.get("cites", "")
        self._program.rules.append(
            Rule(
                label or f"line {line}",
                line,
                str(statement),
                head,
                tuple(statement.body),
                cost,
                text,
                cites,
                bool(label),
            )
        )


def _head(head: Any) -> Any:
    """Returns the atom of a head, None for a constraint."""
    if head.ast_type != ast.ASTType.Literal or head.sign != ast.Sign.NoSign:
        raise _Refused(head)
    if head.atom.ast_type == ast.ASTType.BooleanConstant and not head.atom.value:
        return None
    if head.atom.ast_type != ast.ASTType.SymbolicAtom:
        raise _Refused(head)
    return _check_atom(head.atom.symbol, head=True)


def _check_atom(atom: Any, *, head: bool = False) -> Any:
    if atom.ast_type != ast.ASTType.Function or atom.external or not atom.name or atom.name.startswith("_"):
        raise _Refused(atom)
    for term in atom.arguments:
        if head and term.ast_type == ast.ASTType.Interval:
            _check_term(term.left)
            _check_term(term.right)
        else:
            _check_term(term)
    return atom


def _check_literal(literal: Any, *, inside: bool = False) -> None:
    if literal.ast_type != ast.ASTType.Literal or literal.sign == ast.Sign.DoubleNegation:
        raise _Refused(literal)
    atom, negated = literal.atom, literal.sign != ast.Sign.NoSign
    match atom.ast_type:
        case ast.ASTType.SymbolicAtom:
            _check_atom(atom.symbol)
        case ast.ASTType.Comparison:
            if negated:
                raise _Refused(literal)
            _check_comparison(atom)
        case ast.ASTType.BodyAggregate if not inside and not negated:
            _check_aggregate(atom)
        case _:
            raise _Refused(literal)


def _check_comparison(atom: Any) -> None:
    _check_term(atom.term)
    guards = list(atom.guards)
    for guard in guards:
        interval = guard.term.ast_type == ast.ASTType.Interval
        if interval and len(guards) == 1 and guard.comparison == ast.ComparisonOperator.Equal:
            _check_term(guard.term.left)
            _check_term(guard.term.right)
        else:
            _check_term(guard.term)


def _check_aggregate(atom: Any) -> None:
    for guard in (atom.left_guard, atom.right_guard):
        if guard is not None:
            _check_term(guard.term)
    for element in atom.elements:
        for term in element.terms:
            _check_term(term)
        for condition in element.condition:
            _check_literal(condition, inside=True)


def _check_term(term: Any) -> None:
    """Checks that a term is a variable, a number, a constant, a string, or arithmetic of such."""
    match term.ast_type:
        case ast.ASTType.Variable:
            pass
        case ast.ASTType.SymbolicTerm:
            symbol = term.symbol
            plain = symbol.type in (SymbolType.Number, SymbolType.String) or (
                symbol.type == SymbolType.Function and symbol.positive and not symbol.arguments
            )
            if not plain or (symbol.type == SymbolType.Function and not symbol.name):
                raise _Refused(term)
        case ast.ASTType.UnaryOperation if term.operator_type in (
            ast.UnaryOperator.Minus,
            ast.UnaryOperator.Absolute,
        ):
            _check_term(term.argument)
        case ast.ASTType.BinaryOperation if term.operator_type in _OPERATORS:
            _check_term(term.left)
            _check_term(term.right)
        case ast.ASTType.Function if not term.external and term.name and not term.arguments:
            pass
        case _:
            raise _Refused(term)

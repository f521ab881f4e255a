"""Programs as plain data: `read_clauses` copies what the evaluator needs out of clingo's syntax tree, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

from clingo import SymbolType, ast

from deepwell.agents.rules.logic.parse import Program, Rule

__all__ = [
    "Aggregate",
    "Atom",
    "Clause",
    "Comparison",
    "Element",
    "Literal",
    "Name",
    "Negation",
    "Operation",
    "Range",
    "Term",
    "Value",
    "Variable",
    "atom_of",
    "names",
    "read_clauses",
]


class Name(NamedTuple):
    """A constant or a string. Numbers come before constants, and those before strings, as clingo orders them.

    Attributes:
        rank: 1 for a constant, 2 for a string.
    """

    rank: int
    text: str

    def __str__(self) -> str:
        if self.rank == 1:
            return self.text
        escaped = self.text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        return f'"{escaped}"'


Value = int | Name


@dataclass(frozen=True)
class Variable:
    """A variable; `_` stands for another one each time."""

    name: str


@dataclass(frozen=True)
class Operation:
    """Arithmetic: `+`, `-`, `*`, `/`, `\\` of two terms, or `|` (the amount) of the first."""

    operator: str
    left: Term
    right: Term


@dataclass(frozen=True)
class Range:
    """All integers from one to another."""

    low: Term
    high: Term


Term = int | Name | Variable | Operation | Range


@dataclass(frozen=True)
class Atom:
    """An atom that must hold."""

    name: str
    terms: tuple[Term, ...]

    @property
    def key(self) -> tuple[str, int]:
        """The predicate: name and number of arguments."""
        return self.name, len(self.terms)

    @cached_property
    def needed(self) -> frozenset[str]:
        """The variables that must have values before the atom can be looked up: those inside of arithmetic."""
        return frozenset[str]().union(*(names(one) for one in self.terms if not isinstance(one, Variable)))


@dataclass(frozen=True)
class Negation:
    """An atom that must not hold."""

    atom: Atom

    @cached_property
    def needed(self) -> frozenset[str]:
        """The variables that must have values."""
        return frozenset[str]().union(*(names(one) for one in self.atom.terms))


@dataclass(frozen=True)
class Comparison:
    """A chain of terms with a sign (`=`, `!=`, `<`, `<=`, `>`, `>=`) between each two."""

    terms: tuple[Term, ...]
    signs: tuple[str, ...]

    @cached_property
    def needed(self) -> frozenset[str]:
        """The variables of all terms."""
        return frozenset[str]().union(*(names(one) for one in self.terms))


@dataclass(frozen=True)
class Element:
    """Part of an aggregate: for every way in which the conditions hold the values of the terms."""

    terms: tuple[Term, ...]
    conditions: tuple[Literal, ...]


@dataclass(frozen=True)
class Aggregate:
    """`count`, `sum`, `sum+`, `min` or `max` of the values of elements, compared with terms.

    Attributes:
        guards: sign and term; the aggregate stands left of the sign.
    """

    function: str
    elements: tuple[Element, ...]
    guards: tuple[tuple[str, Term], ...] = field(default=())


Literal = Atom | Negation | Comparison | Aggregate


@dataclass(frozen=True)
class Clause:
    """A rule; without a head it is a constraint."""

    label: str
    head: Atom | None
    body: tuple[Literal, ...]


_OPERATORS: Final = {
    ast.BinaryOperator.Plus: "+",
    ast.BinaryOperator.Minus: "-",
    ast.BinaryOperator.Multiplication: "*",
    ast.BinaryOperator.Division: "/",
    ast.BinaryOperator.Modulo: "\\",
}
_SIGNS: Final = {
    ast.ComparisonOperator.Equal: "=",
    ast.ComparisonOperator.NotEqual: "!=",
    ast.ComparisonOperator.LessThan: "<",
    ast.ComparisonOperator.LessEqual: "<=",
    ast.ComparisonOperator.GreaterThan: ">",
    ast.ComparisonOperator.GreaterEqual: ">=",
}
_SWAPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_FUNCTIONS: Final = {
    ast.AggregateFunction.Count: "count",
    ast.AggregateFunction.Sum: "sum",
    ast.AggregateFunction.SumPlus: "sum+",
    ast.AggregateFunction.Min: "min",
    ast.AggregateFunction.Max: "max",
}


def names(term: Term) -> frozenset[str]:
    """Returns the variables of a term; `_` is none."""
    match term:
        case Variable("_"):
            return frozenset()
        case Variable(name):
            return frozenset((name,))
        case Operation(_, left, right) | Range(left, right):
            return names(left) | names(right)
        case _:
            return frozenset()


def read_clauses(program: Program) -> list[Clause]:
    """Returns the rules and hard constraints of a program; weak constraints derive nothing."""
    reader = _Reader({})
    for name, text in program.constants.items():
        reader.constants[name] = reader.term(_parsed(f"x({text})").arguments[0])
    return [reader.clause(rule) for rule in program.rules if rule.kind != "weak"]


def atom_of(text: str) -> Atom:
    """Returns the atom of a text in clingo's notation."""
    return _Reader({}).atom(_parsed(text))


def _parsed(atom: str) -> Any:
    found = list[Any]()
    ast.parse_string(f"{atom}.", found.append)
    return found[-1].head.atom.symbol


class _Reader:
    def __init__(self, constants: dict[str, Term]) -> None:
        self.constants = constants

    def clause(self, rule: Rule) -> Clause:
        head = self.atom(rule.head) if rule.head is not None else None
        return Clause(rule.label, head, tuple(self.literal(one) for one in rule.body))

    def atom(self, node: Any) -> Atom:
        return Atom(node.name, tuple(self.term(one) for one in node.arguments))

    def literal(self, node: Any) -> Literal:
        atom = node.atom
        match atom.ast_type:
            case ast.ASTType.SymbolicAtom:
                found = self.atom(atom.symbol)
                return found if node.sign == ast.Sign.NoSign else Negation(found)
            case ast.ASTType.Comparison:
                terms = (self.term(atom.term), *(self.term(guard.term) for guard in atom.guards))
                return Comparison(terms, tuple(_SIGNS[guard.comparison] for guard in atom.guards))
            case _:
                return self._aggregate(atom)

    def _aggregate(self, atom: Any) -> Aggregate:
        elements = [
            Element(
                tuple(self.term(term) for term in one.terms),
                tuple(self.literal(part) for part in one.condition),
            )
            for one in atom.elements
        ]
        guards = list[tuple[str, Term]]()
        if atom.left_guard is not None:
            sign = _SIGNS[atom.left_guard.comparison]
            guards.append((_SWAPPED.get(sign, sign), self.term(atom.left_guard.term)))
        if atom.right_guard is not None:
            guards.append((_SIGNS[atom.right_guard.comparison], self.term(atom.right_guard.term)))
        return Aggregate(_FUNCTIONS[atom.function], tuple(elements), tuple(guards))

    def term(self, node: Any) -> Term:
        match node.ast_type:
            case ast.ASTType.Variable:
                return Variable(node.name)
            case ast.ASTType.SymbolicTerm:
                symbol = node.symbol
                if symbol.type == SymbolType.Number:
                    return symbol.number
                if symbol.type == SymbolType.String:
                    return Name(2, symbol.string)
                return self.constants.get(symbol.name, Name(1, symbol.name))
            case ast.ASTType.Function:
                return self.constants.get(node.name, Name(1, node.name))
            case ast.ASTType.Interval:
                return Range(self.term(node.left), self.term(node.right))
            case ast.ASTType.UnaryOperation:
                inner = self.term(node.argument)
                minus = node.operator_type == ast.UnaryOperator.Minus
                return Operation("-", 0, inner) if minus else Operation("|", inner, 0)
            case _:
                return Operation(_OPERATORS[node.operator_type], self.term(node.left), self.term(node.right))

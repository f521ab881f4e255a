"""`solve`: finds with clingo which candidates hold, derives what follows, and says why.

Three programs are grounded. The first chooses: candidates hold or not, hard constraints hold always, and the cost is least.
The second has the chosen facts and, for each rule, a twin that derives `_because(number, head, positive, negative, values)`
from the same body: with stratified negation there is one answer, which holds every derivation. The third, once for each
denied candidate, adds that one and derives the constraints that it breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from clingo import Control, MessageCode, Symbol, SymbolType, ast

from deepwell.agents.rules.logic.parse import Program, Rule, parse_program, variables_of
from deepwell.agents.rules.logic.wire import Atom, Candidate, Instance, Solve, Solved
from deepwell.errors import InvalidRequest

__all__ = ["bound_variables", "solve"]

_BECAUSE, _ELEMENT = "_because", "_element"


def solve(asked: Solve) -> Solved:
    """Returns the cheapest choice of candidates under the program's constraints, and the reasons.

    Raises:
        InvalidRequest: the program is refused, or clingo cannot ground it.
    """
    program, twins = _prepared(asked.source)
    base, notes = _statements(program, lambda rule: rule.kind == "rule"), dict[str, None]()
    chosen = _choose(asked, program, notes)
    if chosen is None:
        certain = [one.atom for one in asked.candidates if one.certain]
        instances = _instances(f"{_facts(certain)}{base}{twins}", notes)
        broken = [one for one in instances if program.rules[one.rule].kind == "constraint"]
        return Solved([], False, True, _kept(instances, program), [broken], [*notes])
    accepted, tied = chosen
    facts = [asked.candidates[number].atom for number in accepted]
    instances = _instances(f"{_facts(facts)}{base}{twins}", notes)
    before = {(one.rule, *map(str, one.values)) for one in instances if one.head is None}
    violations = list[list[Instance]]()
    for number in sorted(set(range(len(asked.candidates))) - set(accepted)):
        with_it = _instances(f"{_facts([*facts, asked.candidates[number].atom])}{base}{twins}", notes)
        new = (one for one in with_it if one.head is None and (one.rule, *map(str, one.values)) not in before)
        violations.append(sorted(new, key=lambda one: program.rules[one.rule].kind == "weak"))
    return Solved(accepted, tied, False, _kept(instances, program), violations, [*notes])


@lru_cache(maxsize=4)
def _prepared(source: str) -> tuple[Program, str]:
    """Returns a program and the twins of its rules. Reading takes longer than deciding, and a child decides many cases."""
    program = parse_program(source)
    if program.findings:
        found = program.findings[0]
        raise InvalidRequest.of("rules_refused_program", where=found.where, reason=str(found.values))
    return program, "".join(map(_twins, range(len(program.rules)), program.rules))


def _kept(instances: Iterable[Instance], program: Program) -> list[Instance]:
    return [one for one in instances if program.rules[one.rule].kind != "constraint"]


def _facts(atoms: Iterable[str]) -> str:
    return "".join(f"{atom}.\n" for atom in atoms)


def _statements(program: Program, wanted: Callable[[Rule], bool]) -> str:
    constants = "".join(f"#const {name} = {value}.\n" for name, value in program.constants.items())
    return constants + "".join(f"{rule.source}\n" for rule in program.rules if wanted(rule))


def _choose(asked: Solve, program: Program, notes: dict[str, None]) -> tuple[list[int], bool] | None:
    """Returns the numbers of the candidates that hold, and whether others would cost as little; None: none are possible."""
    lines = [_statements(program, lambda _: True)]
    lines += [_candidate(number, one) for number, one in enumerate(asked.candidates)]
    for group in asked.singles:
        # Certain facts that contradict each other are found before; a certain one excludes the others.
        lines.append(f":- 2 <= #count {{ {'; '.join(f'{n} : _ok({n})' for n in group)} }}.\n")
    control = _grounded("".join(lines), ["--opt-mode=optN"], notes)
    control.configuration.solve.models = 0  # type: ignore[union-attr]
    models = list[list[int]]()
    with control.solve(yield_=True) as handle:
        for model in handle:
            if not model.cost or model.optimality_proven:
                held = (one for one in model.symbols(atoms=True) if one.name == "_ok")
                models.append(sorted(one.arguments[0].number for one in held))
            if len(models) == 2:
                break
    if not models:
        return None
    return min(models), len(models) > 1


def _candidate(number: int, one: Candidate) -> str:
    if one.certain:
        return f"_ok({number}). {one.atom}.\n"
    lines = f"{{ _ok({number}) }}. {one.atom} :- _ok({number}).\n"
    if one.weight > 0:
        return f"{lines}:~ not _ok({number}). [{one.weight}@0, _fact, {number}]\n"
    if one.weight < 0:
        return f"{lines}:~ _ok({number}). [{-one.weight}@0, _fact, {number}]\n"
    return f"{lines}:~ not _ok({number}). [1@-1, _fact, {number}]\n"


def _grounded(source: str, options: Sequence[str], notes: dict[str, None]) -> Control:
    errors = list[str]()

    def log(code: MessageCode, message: str) -> None:
        text = " ".join(message.split())
        if code == MessageCode.OperationUndefined:
            notes.setdefault(text.partition("info: ")[2] or text)
        elif code == MessageCode.RuntimeError:
            errors.append(text)

    control = Control([*options, "--warn=none", "--warn=operation-undefined"], logger=log, message_limit=20)
    try:
        control.add("base", [], source)
        control.ground([("base", [])])
    except RuntimeError as error:
        reason = (errors or [str(error)])[0][:300]
        raise InvalidRequest.of("rules_refused_program", where="logic", reason=reason) from None
    return control


def _instances(source: str, notes: dict[str, None]) -> list[Instance]:
    """Returns the rules whose bodies hold, in the order of the program."""
    control = _grounded(source, [], notes)
    found, inside = list[tuple[int, Symbol]](), dict[tuple[int, str, str], list[Atom]]()
    with control.solve(yield_=True) as handle:
        for model in handle:
            for symbol in model.symbols(atoms=True):
                if symbol.name == _BECAUSE:
                    found.append((symbol.arguments[0].number, symbol))
                elif symbol.name == _ELEMENT:
                    number, head, values, atom = symbol.arguments
                    inside.setdefault((number.number, str(head), str(values)), []).append(_atom(atom))
    instances = list[Instance]()
    for number, symbol in sorted(found):
        _, head, positive, negative, values = symbol.arguments
        held = [_atom(one) for one in positive.arguments]
        held += inside.get((number, str(head), str(values)), [])
        instances.append(
            Instance(
                number,
                None if str(head) == "_none" else _atom(head),
                held,
                [str(one) for one in negative.arguments],
                [_term(one) for one in values.arguments],
            )
        )
    return instances


def _atom(symbol: Symbol) -> Atom:
    return Atom(str(symbol), symbol.name, [_term(one) for one in symbol.arguments])


def _term(symbol: Symbol) -> int | str:
    if symbol.type == SymbolType.Number:
        return symbol.number
    return symbol.string if symbol.type == SymbolType.String else str(symbol)


class _Renamed(ast.Transformer):
    """Gives variables other names: those of an aggregate would otherwise mean the same in a copy of its rule."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {*names}

    def visit_Variable(self, node: Any) -> Any:
        return node.update(name=f"Own_{node.name}") if node.name in self._names else node


class _Named(ast.Transformer):
    """Replaces each `_` by a variable or a constant of its own, so that an atom can stand in a head."""

    def __init__(self, name: Callable[[], str], *, variable: bool) -> None:
        self._name = name
        self._variable = variable

    def visit_Variable(self, node: Any) -> Any:
        if node.name != "_":
            return node
        if self._variable:
            return node.update(name=self._name())
        return ast.Function(node.location, self._name(), [], 0)


def _twins(number: int, rule: Rule) -> str:
    """Returns the rules that derive from a rule's body that it holds, and with what."""
    used = dict[str, None]()

    def fresh() -> str:
        used.setdefault(f"Any_{number}_{len(used)}")
        return next(reversed(used))

    body, positive, negative = list[str](), list[str](), list[str]()
    for literal in rule.body:
        named: Any = literal
        if literal.atom.ast_type == ast.ASTType.SymbolicAtom:
            if literal.sign == ast.Sign.NoSign:
                named = _Named(fresh, variable=True).visit(literal)
                positive.append(str(named))
            else:
                negative.append(str(_Named(lambda: "_any", variable=False).visit(literal.atom)))
        body.append(str(named))
    head = "_none" if rule.head is None else str(rule.head)
    values = _tuple(bound_variables(rule))
    parts = f"{number},{head},{_tuple(positive)},{_tuple(negative)},{values}"
    lines = [f"{_BECAUSE}({parts}) :- {'; '.join(body) or '#true'}.\n"]
    for literal in rule.aggregates():
        for element in literal.atom.elements:
            outside = {*bound_variables(rule), *(variables_of(rule.head) if rule.head is not None else ())}
            own = _Renamed({name for one in element.condition for name in variables_of(one)} - outside)
            conditions: list[Any] = [
                own.visit(_Named(fresh, variable=True).visit(one))
                if one.sign == ast.Sign.NoSign
                else own.visit(one)
                for one in element.condition
            ]
            for condition in conditions:
                if condition.atom.ast_type == ast.ASTType.SymbolicAtom and condition.sign == ast.Sign.NoSign:
                    inner = "; ".join([*body, *map(str, conditions)])
                    lines.append(f"{_ELEMENT}({number},{head},{values},{condition}) :- {inner}.\n")
    return "".join(lines)


def bound_variables(rule: Rule) -> list[str]:
    """Returns the variables of a rule that have values outside of its aggregates."""
    found = dict[str, None]()
    for literal in rule.body:
        if literal.atom.ast_type == ast.ASTType.BodyAggregate:
            for guard in (literal.atom.left_guard, literal.atom.right_guard):
                found |= variables_of(guard.term) if guard is not None else {}
        else:
            found |= variables_of(literal)
    return [*found]


def _tuple(terms: Sequence[str]) -> str:
    return f"({','.join(terms)}{',' if len(terms) == 1 else ''})"

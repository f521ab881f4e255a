"""`random_program`: a seeded random program of the whole language that rule sets may use, with candidates for its facts."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

__all__ = ["RandomProgram", "random_program"]

_MOST_CANDIDATES: Final = 5
_NUMBERS: Final = range(-2, 7)
_NAMES: Final = ("a", "b", "c", '"a b"', '"甲"')
_COMPARISONS: Final = ("=", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class RandomProgram:
    """A program with facts that may hold.

    Attributes:
        source: the program, with facts that hold always.
        candidates: further facts with the cost of denying them; a negative one is the cost of accepting.
        inputs: name and number of arguments of the predicates that no rule derives.
    """

    source: str
    candidates: tuple[tuple[str, int], ...]
    inputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Predicate:
    name: str
    kinds: str  # "n" for each argument that is a number, "s" for each that is a name
    level: int


class _Writer:
    """Writes one program. Every variable is called after its kind, so that arithmetic meets numbers."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._inputs = [
            _Predicate("e0", "n", 0),
            _Predicate("e1", random.choice(["s", "ss"]), 0),
            _Predicate("e2", random.choice(["ns", "nn", "sn"]), 0),
        ]
        kinds = ["", "n", "s", "nn", "ns", "ss"]
        self._derived = [_Predicate(f"p{n}", random.choice(kinds), 1 + n // 2) for n in range(6)]

    def program(self) -> RandomProgram:
        random = self._random
        lines = [f"{self._ground(random.choice(self._inputs))}." for _ in range(random.randint(2, 10))]
        if random.random() < 0.3:
            lines.append(f"#const limit = {random.choice(_NUMBERS)}.")
            lines.append("e0(limit).")
        for predicate in self._derived:
            lines += [self._rule(predicate) for _ in range(random.randint(1, 3))]
        lines += [f":- {self._body(9)[0]}." for _ in range(random.randint(0, 3))]
        atoms = {
            self._ground(random.choice(self._inputs)) for _ in range(random.randint(0, _MOST_CANDIDATES))
        }
        candidates = tuple((atom, self._weight()) for atom in sorted(atoms) if f"{atom}." not in lines)
        if len(candidates) > 1 and random.random() < 0.6:
            one, other = random.sample([atom for atom, _ in candidates], 2)
            lines.append(
                random.choice(
                    [f":- {one}, {other}.", f":- {one}, not {other}.", f":- not {one}, not {other}."]
                )
            )
        inputs = tuple((one.name, len(one.kinds)) for one in self._inputs)
        return RandomProgram("\n".join(lines), candidates, inputs)

    def _weight(self) -> int:
        # Small numbers have equal sums now and then, so that some choices cost the same.
        return self._random.choice([1, -1]) * self._random.choice([1, 1, 2, 3, 5, 100, 1000])

    def _ground(self, predicate: _Predicate) -> str:
        terms = [str(self._random.choice(_NUMBERS if kind == "n" else _NAMES)) for kind in predicate.kinds]
        return f"{predicate.name}({','.join(terms)})" if terms else predicate.name

    def _rule(self, head: _Predicate) -> str:
        random = self._random
        body, numbers, names = self._body(head.level)
        terms, more = list[str](), list[str]()
        for place, kind in enumerate(head.kinds):
            if kind == "n" and numbers and random.random() < 0.35:
                # Bounded, for a rule that reads its own head would count for ever.
                name = f"H{place}"
                more += [f"{name} = {self._sum(numbers)}", f"-9 <= {name}", f"{name} < 12"]
                terms.append(name)
            elif kind == "n":
                terms.append(random.choice(numbers) if numbers else str(random.choice(_NUMBERS)))
            else:
                terms.append(random.choice(names) if names else random.choice(_NAMES))
        atom = f"{head.name}({','.join(terms)})" if terms else head.name
        if random.random() < 0.05 and head.kinds == "n":
            low = random.choice(_NUMBERS)
            return f"{head.name}({low}..{low + random.randint(-1, 3)})."
        parts = [body, *more]
        return f"{atom} :- {', '.join(parts)}."

    def _sum(self, numbers: list[str]) -> str:
        random = self._random
        other = random.choice([*numbers, str(random.choice(_NUMBERS))])
        operator = random.choice(["+", "-", "*", "/", "\\"])
        term = f"{random.choice(numbers)} {operator} {other}"
        return f"|{term}|" if random.random() < 0.15 else term

    def _body(self, level: int) -> tuple[str, list[str], list[str]]:
        """Returns a body that reads predicates of lower levels, of its own without negation, and its variables by kind."""
        random = self._random
        parts, numbers, names = list[str](), list[str](), list[str]()
        readable = [*self._inputs, *(one for one in self._derived if one.level <= level)]
        below = [*self._inputs, *(one for one in self._derived if one.level < level)]
        for _ in range(random.randint(1, 3)):
            parts.append(self._positive(random.choice(readable), numbers, names))
        if random.random() < 0.5:
            parts.append(f"not {self._bound(random.choice(below), numbers, names)}")
        if numbers and random.random() < 0.45:
            parts.append(f"{self._sum(numbers)} {random.choice(_COMPARISONS)} {random.choice(numbers)}")
        if names and random.random() < 0.2:
            parts.append(
                f"{random.choice(names)} {random.choice(_COMPARISONS)} {random.choice([*names, *_NAMES])}"
            )
        if numbers and random.random() < 0.1:
            parts.append(f"{random.choice(_NUMBERS)} < {random.choice(numbers)} <= {random.choice(_NUMBERS)}")
        if random.random() < 0.1:
            low = random.choice(_NUMBERS)
            parts.append(f"V = {low}..{low + 2}")
            numbers.append("V")
        if random.random() < 0.25:
            parts.append(self._aggregate(random.choice([one for one in below if one.kinds]), numbers, names))
        random.shuffle(parts)
        return ", ".join(parts), [*dict.fromkeys(numbers)], [*dict.fromkeys(names)]

    def _positive(self, predicate: _Predicate, numbers: list[str], names: list[str]) -> str:
        random, terms = self._random, list[str]()
        for kind in predicate.kinds:
            chance = random.random()
            if chance < 0.12:
                terms.append("_")
            elif chance < 0.25:
                terms.append(str(random.choice(_NUMBERS if kind == "n" else _NAMES)))
            elif kind == "n":
                terms.append(f"N{random.randint(0, 2)}")
                numbers.append(terms[-1])
            else:
                terms.append(f"S{random.randint(0, 2)}")
                names.append(terms[-1])
        return f"{predicate.name}({','.join(terms)})" if terms else predicate.name

    def _bound(self, predicate: _Predicate, numbers: list[str], names: list[str]) -> str:
        random, terms = self._random, list[str]()
        for kind in predicate.kinds:
            known = numbers if kind == "n" else names
            if known and random.random() < 0.7:
                terms.append(random.choice(known))
            else:
                terms.append(
                    "_" if random.random() < 0.5 else str(random.choice(_NUMBERS if kind == "n" else _NAMES))
                )
        return f"{predicate.name}({','.join(terms)})" if terms else predicate.name

    def _aggregate(self, predicate: _Predicate, numbers: list[str], names: list[str]) -> str:
        """Returns an aggregate over the atoms of a predicate, some of whose arguments may be the rule's variables."""
        random, terms, own = self._random, list[str](), list[str]()
        for place, kind in enumerate(predicate.kinds):
            known = numbers if kind == "n" else names
            if known and random.random() < 0.3:
                terms.append(random.choice(known))
            else:
                terms.append(f"{'L' if kind == 'n' else 'M'}{place}")
                own.append(terms[-1])
        # A number comes first, for a sum takes only numbers.
        own = sorted(own) or ["1"]
        function = random.choice(["count", "sum", "min", "max"] if own[0][0] == "L" else ["count"])
        elements = f"{','.join(own)} : {predicate.name}({','.join(terms)})"
        if function in ("min", "max"):
            elements += "; 0"
        if random.random() < 0.5:
            numbers.append("A")
            return f"A = #{function} {{ {elements} }}"
        return f"#{function} {{ {elements} }} {random.choice(_COMPARISONS)} {random.choice(_NUMBERS)}"


def random_program(seed: int) -> RandomProgram:
    """Returns the random program of a seed; the same one each time."""
    return _Writer(Random(seed)).program()  # noqa: S311 (a reproducible program, no secret)

"""`Fact` and the types of its arguments: what a model may propose, and how a value stands in a logic program.

Logic knows integers of 32 bits, constants and strings. A decimal number is therefore an integer of its last place (3.85 with
two places is 385), a date the integer 20250131, and a truth value one of the constants `true` and `false`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

from deepwell.messages import Language, Note, render

__all__ = [
    "LARGEST",
    "ArgumentType",
    "DoesNotFit",
    "Fact",
    "FactType",
    "Text",
    "Value",
    "filled",
]

LARGEST: Final = 2**31 - 1
"""Largest integer of a logic program."""

Value = str | int | float | bool
Text = Mapping[Language, str]
TypeName = Literal["integer", "decimal", "boolean", "symbol", "string", "date"]

_SYMBOL: Final = re.compile(r"[a-z][A-Za-z0-9_]*\Z")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")


class DoesNotFit(Exception):
    """Raised for a value that does not fit its type.

    Attributes:
        note: the reason, as a text of the catalogue.
    """

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(render(key, "en", values)[0])
        self.note = Note(key, values)


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement about a case: proposed by a model with a score, known for certain, or derived by rules.

    Attributes:
        name: name of its type in the manifest.
        arguments: values by the name of the argument.
        score: the probability that it holds, as its proposer says. 1: it is certain, and no rule may deny it.
        source: where it comes from, such as a citation; it is shown in explanations and never interpreted.
    """

    name: str
    arguments: Mapping[str, Value] = field(default_factory=dict[str, Value])
    score: float = 1.0
    source: str = ""

    def json(self) -> dict[str, Any]:
        """Returns the fact as JSON."""
        found: dict[str, Any] = {
            "name": self.name,
            "arguments": dict(self.arguments),
            "score": self.score,
        }
        return found | ({"source": self.source} if self.source else {})

    def __hash__(self) -> int:
        return hash((self.name, *self.arguments.items()))

    def __str__(self) -> str:
        return f"{self.name}({', '.join(str(value) for value in self.arguments.values())})"


@dataclass(frozen=True, slots=True)
class ArgumentType:
    """The type of an argument of a fact or of a column of a table.

    Attributes:
        minimum: smallest value of a number; None: the smallest that a logic program can hold.
        places: decimal places of a `decimal`.
        values: all values of a `symbol`, or of a `string` if there are any.
        max_length: most characters of a `string`.
        labels: names of values for people, in both languages.
    """

    type: TypeName
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    places: int = 0
    values: tuple[str, ...] = ()
    max_length: int = 200
    labels: Mapping[str, Text] = field(default_factory=dict[str, Text])

    @property
    def scale(self) -> int:
        """The number that a value is multiplied with in a logic program."""
        return 10**self.places if self.type == "decimal" else 1

    def limits(self) -> tuple[int, int] | None:
        """Returns the smallest and largest integer that may stand in a logic program; None: it holds no integers."""
        if self.type == "date":
            return 10101, 99991231
        if self.type not in ("integer", "decimal"):
            return None
        low = -LARGEST if self.minimum is None else int(self.minimum * self.scale)
        high = LARGEST if self.maximum is None else int(self.maximum * self.scale)
        return low, high

    def checked(self, value: Any) -> Value:
        """Returns a value of this type as it stands in facts: numbers that are whole as integers.

        Raises:
            DoesNotFit: the value is of another type or out of range. It is never rounded or clamped.
        """
        match self.type:
            case "boolean":
                if not isinstance(value, bool):
                    raise DoesNotFit("rules_value_type", value=value, type="boolean")
                return value
            case "symbol" | "string":
                return self._checked_text(value)
            case "date":
                return _checked_date(value)
            case "integer" | "decimal":
                return self._checked_number(value)

    def term(self, value: Value) -> str:
        """Returns a checked value as a term of a logic program."""
        match self.type:
            case "boolean":
                return "true" if value else "false"
            case "symbol":
                return str(value)
            case "string":
                escaped = str(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
                return f'"{escaped}"'
            case "date":
                return str(int(str(value).replace("-", "")))
            case "integer" | "decimal":
                return str(int(Decimal(str(value)) * self.scale))

    def value(self, term: int | str) -> Value:
        """Returns the value that a term of a logic program stands for. A term of another type stays as it is."""
        if isinstance(term, str):
            return term == "true" if self.type == "boolean" and term in ("true", "false") else term
        if self.type == "decimal":
            exact = Decimal(term).scaleb(-self.places)
            return int(exact) if exact == exact.to_integral_value() else float(exact)
        if self.type == "date":
            text = f"{term:08d}"
            return f"{text[:4]}-{text[4:6]}-{text[6:]}"
        return term

    def shown(self, value: Value, language: Language) -> str:
        """Returns a value for people."""
        return self.labels.get(str(value), {}).get(language) or str(value)

    def schema(self) -> dict[str, Any]:
        """Returns the JSON schema of the values."""
        match self.type:
            case "boolean":
                return {"type": "boolean"}
            case "symbol":
                return {"type": "string", "enum": list(self.values)}
            case "string":
                if self.values:
                    return {"type": "string", "enum": list(self.values)}
                return {"type": "string", "minLength": 1, "maxLength": self.max_length}
            case "date":
                return {"type": "string", "format": "date"}
            case "integer" | "decimal":
                return self._number_schema()

    def _number_schema(self) -> dict[str, Any]:
        low, high = self.limits() or (0, 0)
        if self.type == "integer" or self.places == 0:
            return {"type": "integer", "minimum": low, "maximum": high}
        step = Decimal(1).scaleb(-self.places)
        return {
            "type": "number",
            "minimum": float(low * step),
            "maximum": float(high * step),
            "multipleOf": float(step),
        }

    def _checked_text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise DoesNotFit("rules_value_type", value=value, type=self.type)
        if self.values:
            if value not in self.values:
                raise DoesNotFit("rules_value_unknown", value=value, values=", ".join(self.values))
            return value
        if self.type == "symbol" and not _SYMBOL.match(value):
            raise DoesNotFit("rules_value_type", value=value, type="symbol")
        if not value or len(value) > self.max_length or _CONTROL.search(value):
            raise DoesNotFit("rules_value_length", most=self.max_length)
        return value

    def _checked_number(self, value: Any) -> int | float:
        try:
            exact = Decimal(str(value)) if isinstance(value, int | float) else None
        except InvalidOperation:
            exact = None
        if exact is None or isinstance(value, bool) or not exact.is_finite():
            raise DoesNotFit("rules_value_type", value=value, type=self.type)
        scaled = exact * self.scale
        if scaled != scaled.to_integral_value():
            raise DoesNotFit("rules_value_places", value=value, places=self.places)
        low, high = self.limits() or (0, 0)
        if not low <= scaled <= high:
            raise DoesNotFit(
                "rules_value_range",
                value=value,
                low=self.value(low),
                high=self.value(high),
            )
        return int(exact) if exact == exact.to_integral_value() else float(exact)


@dataclass(frozen=True, slots=True)
class FactType:
    """A type of facts: those that are proposed, and those that rules derive.

    Attributes:
        text: what such a fact says, in both languages, with arguments as `{name}`; empty: the fact in the notation of logic.
        threshold: the score below which a proposal is never accepted.
        neutral: the score at which accepting and denying cost the same; see `weight`.
        single: whether at most one such fact can hold.
    """

    name: str
    arguments: Mapping[str, ArgumentType]
    text: Text = field(default_factory=dict[Language, str])
    threshold: float = 0.5
    neutral: float = 0.5
    single: bool = False

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Value]:
        """Returns the arguments in the order of the type.

        Raises:
            DoesNotFit: one is missing, unknown or does not fit.
        """
        if unknown := sorted(arguments.keys() - self.arguments.keys()):
            raise DoesNotFit("rules_argument_unknown", name=self.name, argument=unknown[0])
        found = dict[str, Value]()
        for name, kind in self.arguments.items():
            if name not in arguments:
                raise DoesNotFit("rules_argument_missing", name=self.name, argument=name)
            found[name] = kind.checked(arguments[name])
        return found

    def atom(self, arguments: Mapping[str, Value]) -> str:
        """Returns the fact with checked arguments as an atom of a logic program."""
        terms = [kind.term(arguments[name]) for name, kind in self.arguments.items()]
        return f"{self.name}({','.join(terms)})" if terms else self.name

    def values(self, terms: Sequence[int | str]) -> dict[str, Value]:
        """Returns the arguments that the terms of an atom stand for."""
        kinds = self.arguments.items()
        return {name: kind.value(term) for (name, kind), term in zip(kinds, terms, strict=True)}

    def said(self, arguments: Mapping[str, Value], language: Language) -> str:
        """Returns what a fact says in a language."""
        text = self.text.get(language) or self.text.get("en") or self.text.get("zh")
        if not text:
            return str(Fact(self.name, arguments))
        return filled(
            text, {name: kind.shown(arguments[name], language) for name, kind in self.arguments.items()}
        )


def filled(text: str, values: Mapping[str, Any]) -> str:
    """Returns a text with its placeholders replaced. Braces around anything else stay: texts are strangers'."""
    return _PLACEHOLDER.sub(lambda one: str(values.get(one[1], one[0])), text)


def _checked_date(value: Any) -> str:
    try:
        found = date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or found.isoformat() != value:
        raise DoesNotFit("rules_value_type", value=value, type="date (YYYY-MM-DD)")
    return value

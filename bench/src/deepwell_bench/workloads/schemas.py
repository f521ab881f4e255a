"""JSON schemas of growing difficulty, and some that no grammar enforces: the same ones in every run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Case", "schemas"]

Schema = dict[str, Any]

_NOUNS = (
    *(
        "an invoice",
        "a recipe",
        "a book",
        "a customer",
        "a flight",
        "a support ticket",
        "a product",
        "a film",
    ),
    *(
        "a bank account",
        "a weather report",
        "a hotel booking",
        "a job offer",
        "a song",
        "a patient",
        "a parcel",
    ),
    *("a city", "a football match", "a lecture", "a bug report", "a garden plan"),
)
_TEXTS = ("title", "name", "summary", "author", "city", "note", "label", "owner", "标题", "first name")
_NUMBERS = ("count", "price", "year", "score", "weight", "pages", "age", "distance")
_FLAGS = ("active", "paid", "urgent", "public")
_WORDS = ("low", "medium", "high", "open", "closed", "red", "green", "blue", "draft", "final")


@dataclass(frozen=True, slots=True)
class Case:
    """A schema and what to ask for. `unsupported`: what the refusal must name; empty: it must be answered."""

    name: str
    level: int
    kind: str
    ask: str
    schema: Schema
    unsupported: str = ""

    @property
    def supported(self) -> bool:
        """Tells whether an answer must come."""
        return not self.unsupported


def schemas(count: int = 200) -> list[Case]:
    """Returns `count` cases, the levels in turn."""
    cases: list[Case] = []
    for number in range(count):
        level = number % len(_LEVELS)
        kind, build = _LEVELS[level]
        chance = random.Random(number)  # noqa: S311 - reproducible, and guards nothing
        schema, unsupported = build(chance, number // len(_LEVELS))
        ask = _NOUNS[number // len(_LEVELS) % len(_NOUNS)]
        cases.append(Case(f"{level + 1}-{number:03}", level + 1, kind, ask, schema, unsupported))
    return cases


def _text(chance: random.Random, *, bound: bool = True) -> Schema:
    return {"type": "string", "maxLength": chance.randint(8, 60)} if bound else {"type": "string"}


def _number(chance: random.Random) -> Schema:
    low = chance.randint(-20, 100)
    kind = chance.choice(("integer", "number"))
    return {"type": kind, "minimum": low, "maximum": low + chance.randint(1, 5000)}


def _scalar(chance: random.Random) -> Schema:
    kind = chance.randrange(4)
    if kind == 0:
        return _text(chance)
    if kind == 1:
        return _number(chance)
    if kind == 2:
        return {"type": "boolean"}
    return {"enum": chance.sample(_WORDS, chance.randint(2, 5))}


def _fields(chance: random.Random, most: int) -> dict[str, Schema]:
    names = chance.sample(_TEXTS + _NUMBERS + _FLAGS, chance.randint(1, most))
    kinds: dict[str, Callable[[], Schema]] = {
        **dict.fromkeys(_TEXTS, lambda: _text(chance)),
        **dict.fromkeys(_NUMBERS, lambda: _number(chance)),
        **dict.fromkeys(_FLAGS, lambda: {"type": "boolean"}),
    }
    return {name: kinds[name]() for name in names}


def _object(fields: dict[str, Schema], *, required: list[str] | None = None) -> Schema:
    needed = list(fields) if required is None else required
    return {"type": "object", "properties": fields, "required": needed, "additionalProperties": False}


def _flat(chance: random.Random, step: int) -> tuple[Schema, str]:
    return _object(_fields(chance, 2 + step // 3)), ""


def _optional(chance: random.Random, step: int) -> tuple[Schema, str]:
    fields = {name: _scalar(chance) for name in _fields(chance, 3 + step // 3)}
    schema = _object(fields, required=chance.sample(list(fields), chance.randint(0, len(fields))))
    schema["title"], schema["description"] = "Answer", "What is asked for"
    return schema, ""


def _arrays(chance: random.Random, step: int) -> tuple[Schema, str]:
    items = _scalar(chance) if step < 10 else _object(_fields(chance, 3))
    fields = {
        "items": {"type": "array", "items": items, "minItems": chance.randint(0, 2), "maxItems": 4},
        "pair": {
            "type": "array",
            "prefixItems": [_scalar(chance), _scalar(chance)],
            "items": False,
            "minItems": 2,
        },
    }
    return _object(fields), ""


def _nested(chance: random.Random, step: int) -> tuple[Schema, str]:
    schema = _object(_fields(chance, 2))
    for depth in range(1 + step // 4):
        schema = _object({**_fields(chance, 2), f"level_{depth}": schema})
    return schema, ""


def _references(chance: random.Random, step: int) -> tuple[Schema, str]:
    person = _object({"name": _text(chance), "role": {"$ref": "#/$defs/role"}})
    fields: dict[str, Schema] = {
        "owner": {"$ref": "#/$defs/person"},
        "helpers": {"type": "array", "items": {"$ref": "#/$defs/person"}, "maxItems": 1 + step // 6},
    }
    role = {"enum": chance.sample(_WORDS, 3)}
    return {**_object(fields), "$defs": {"person": person, "role": role}}, ""


def _unions(chance: random.Random, step: int) -> tuple[Schema, str]:
    choices: list[Schema] = [
        _object({"kind": {"const": word}, **_fields(chance, 2)})
        for word in chance.sample(_WORDS, 2 + step % 3)
    ]
    fields: dict[str, Schema] = {
        "event": {"anyOf": choices},
        "note": {"type": ["string", "null"], "maxLength": 30},
        "value": {"oneOf": [{"type": "boolean"}, {"type": "string", "maxLength": 12}]},
    }
    return _object(fields), ""


def _patterns(chance: random.Random, step: int) -> tuple[Schema, str]:
    formats = ("date", "time", "date-time", "email", "uuid", "ipv4", "hostname", "duration")
    patterns = (r"^[A-Z]{2}-\d{4}$", r"^(\+\d{1,3} )?\d{3,8}$", r"^[a-z]+(_[a-z]+)?$", r"^#[0-9a-f]{6}$")
    fields: dict[str, Schema] = {
        "code": {"type": "string", "pattern": patterns[step % len(patterns)], "maxLength": 24},
        "stamp": {"type": "string", "format": formats[step % len(formats)]},
        "part": {
            "type": "number",
            "multipleOf": chance.choice((0.5, 5, 0.01)),
            "minimum": 0,
            "exclusiveMaximum": 50,
        },
    }
    return _object(fields), ""


def _maps(chance: random.Random, step: int) -> tuple[Schema, str]:
    fields: dict[str, Schema] = {
        "scores": {"type": "object", "additionalProperties": _number(chance), "maxProperties": 2 + step % 3},
        "labels": {
            "type": "object",
            "patternProperties": {"^x_[a-z]{1,8}$": _text(chance)},
            "additionalProperties": False,
            "maxProperties": 2,
        },
    }
    merged: Schema = {"allOf": [_object(fields), {"required": ["scores"]}]}
    return (merged if step % 2 else _object(fields)), ""


def _recursive(chance: random.Random, step: int) -> tuple[Schema, str]:
    node: Schema = _object(
        {
            "label": _text(chance),
            "children": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2},
            "left": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        },
        required=["label"],
    )
    leaf = _object({"label": {"enum": list(_WORDS[: 3 + step % 5])}})
    return {**_object({"tree": {"$ref": "#/$defs/node"}}), "$defs": {"node": node, "leaf": leaf}}, ""


def _refused(chance: random.Random, step: int) -> tuple[Schema, str]:
    text = _text(chance)
    options: tuple[tuple[Schema, str], ...] = (
        ({"type": "array", "items": text, "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {"type": "string"}, "then": {"minLength": 2}}, "if"),
        ({"type": "array", "contains": text}, "contains"),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "dependentSchemas": {"a": {}}}, "dependentSchemas"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "string", "format": "phone"}, "phone"),
        ({"type": "string", "contentEncoding": "base64"}, "contentEncoding"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": r"^(a)\1$"}, "backreferences"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"type": "string", "minLength": 9, "maxLength": 2}, "nsatisfiable"),
        ({"type": "text"}, "text"),
        ({"type": "string", "nullable": True}, "nullable"),
        ({"type": "string", "requierd": True}, "requierd"),
        ({"enum": []}, "nsatisfiable"),
    )
    inner, named = options[step % len(options)]
    return (inner if step % 3 == 2 else _object({"value": inner})), named


_LEVELS: tuple[tuple[str, Callable[[random.Random, int], tuple[Schema, str]]], ...] = (
    ("flat", _flat),
    ("optional", _optional),
    ("arrays", _arrays),
    ("nested", _nested),
    ("references", _references),
    ("unions", _unions),
    ("patterns", _patterns),
    ("maps", _maps),
    ("recursive", _recursive),
    ("not supported", _refused),
)

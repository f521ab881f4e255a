"""JSON schemas that constrain output: the supported keywords, and a refusal of all others.

JSON Schema lets a validator ignore unknown keywords. Here that would promise something that the output does not keep.
Every keyword is therefore enforced by the grammar, or is a mere annotation, or raises an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, cast

from deepwell.errors import InvalidRequest

__all__ = ["ANNOTATIONS", "SUPPORTED", "WHITE_SPACE", "check_schema", "schema_source"]

# Keywords whose value is a schema, a list of schemas, or schemas by name.
_ONE: Final = frozenset({"items", "additionalProperties", "additionalItems"})
_MANY: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})  # items: up to draft 2019-09
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})

SUPPORTED: Final = frozenset(
    {
        *(_ONE | _MANY | _NAMED),
        *("$id", "$ref", "$anchor", "$schema", "const", "enum", "type"),
        *("minItems", "maxItems", "required", "minProperties", "maxProperties"),
        *("minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
)
ANNOTATIONS: Final = frozenset(
    {
        *("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$comment", "discriminator"),
    }
)
_MAX_DEPTH: Final = 64
# A model may write without end whatever a schema leaves unbounded: digits of a second or a number, letters of an address.
# Lengths are those of the RFCs (5321, 1035). JSON integers are interoperable up to 2^53 (RFC 8259, section 6).
_LONGEST: Final = {
    **dict.fromkeys(("date-time", "time", "duration"), 40),
    "email": 254,
    "hostname": 253,
    "uri": 2048,
}
_LARGEST: Final = 2**53 - 1
_FINEST: Final = 1e-6  # step of numbers: six decimal places, unless the schema itself has smaller limits

# White space between two JSON tokens: a line break and an indentation. Unbounded, a model may fill max_tokens with blanks.
WHITE_SPACE: Final = r"\n?[ ]{0,20}"

_LIMITS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def schema_source(source: str) -> str:
    """Checks a JSON schema and returns it as llguidance accepts it, alone or after `%json` in a Lark grammar.

    Raises:
        InvalidRequest: `source` is not a JSON object, or uses an unsupported keyword.
    """
    try:
        schema: object = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is no JSON: {error}", param="grammar") from error
    if not isinstance(schema, dict):
        raise InvalidRequest(
            "a JSON schema must be an object", fix="use {} where anything goes", param="grammar"
        )
    known = check_schema(cast("dict[str, object]", schema))
    return json.dumps(known | {"x-guidance": {"whitespace_pattern": WHITE_SPACE}}, ensure_ascii=False)


def check_schema(schema: Mapping[str, object]) -> dict[str, object]:
    """Returns a copy of the schema without its annotations, and with bounds for unbounded formats and numbers.

    Raises:
        InvalidRequest: the schema has keywords that are not enforced, or is nested too deeply; `param` is "grammar".
    """
    unsupported: list[str] = []
    checked = _object(schema, "", 0, unsupported)
    if unsupported:
        shown = ", ".join(unsupported[:8]) + (", ..." if len(unsupported) > 8 else "")
        raise InvalidRequest(
            f"the JSON schema uses what is not supported: {shown}",
            fix="leave it out, and check the answer yourself",
            param="grammar",
        )
    return checked


def _schema(schema: object, path: str, depth: int, unsupported: list[str]) -> object:
    if isinstance(schema, bool):
        return schema
    if isinstance(schema, Mapping):
        return _object(cast("Mapping[str, object]", schema), path, depth, unsupported)
    raise InvalidRequest(
        f"the JSON schema holds {type(schema).__name__} at {path}, where a schema belongs",
        fix="use an object, true or false",
        param="grammar",
    )


def _object(schema: Mapping[str, object], path: str, depth: int, unsupported: list[str]) -> dict[str, object]:
    if depth > _MAX_DEPTH:
        raise InvalidRequest(
            f"the JSON schema is nested more than {_MAX_DEPTH} deep",
            fix="use $defs and $ref",
            param="grammar",
        )
    kept: dict[str, object] = {}
    for key, value in schema.items():
        where = f"{path}/{key}"
        if key in ANNOTATIONS or key.startswith("x-") or (key == "nullable" and value is False):
            continue
        if key not in SUPPORTED:
            unsupported.append(where)
        elif key in _MANY and isinstance(value, Sequence) and not isinstance(value, str):
            children = enumerate(cast("Sequence[object]", value))
            kept[key] = [_schema(child, f"{where}/{i}", depth + 1, unsupported) for i, child in children]
        elif key in _NAMED and isinstance(value, Mapping):
            named = cast("Mapping[str, object]", value).items()
            kept[key] = {n: _schema(child, f"{where}/{n}", depth + 1, unsupported) for n, child in named}
        elif key in _ONE:
            kept[key] = _schema(value, where, depth + 1, unsupported)
        else:
            kept[key] = value
    _bound(kept)
    return kept


def _bound(schema: dict[str, object]) -> None:
    longest = _LONGEST.get(str(schema.get("format")))
    if longest is not None and schema.get("type") == "string":
        schema.setdefault("maxLength", longest)
    if schema.get("type") not in ("integer", "number") or "enum" in schema or "const" in schema:
        return
    limits = [schema[key] for key in _LIMITS if key in schema]
    coarse = all(isinstance(n, int | float) and (n == 0 or abs(n) >= 1000 * _FINEST) for n in limits)
    if schema["type"] == "number" and "multipleOf" not in schema and coarse:
        schema["multipleOf"] = _FINEST
    if "exclusiveMinimum" not in schema:
        schema.setdefault("minimum", -_LARGEST)
    if "exclusiveMaximum" not in schema:
        schema.setdefault("maximum", _LARGEST)

"""Schemas of strangers: what is taken, and that bombs are refused before anything follows them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.agents.mcp.schemas import SchemaRefused, arguments_problem, checked_schema, is_plain

LAUGHS: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/l9"}},
    "$defs": {"l0": {"type": "string"}}
    | {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n - 1}"}] * 10} for n in range(1, 10)},
}
DEEP: dict[str, Any] = {"type": "object"}
for _ in range(40):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


def test_an_ordinary_schema_is_taken_and_checks_arguments() -> None:
    schema = checked_schema(
        {
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
            "$defs": {"city": {"type": "string", "maxLength": 20}},
        }
    )
    assert schema["type"] == "object" and is_plain(schema)
    assert arguments_problem(schema, {"city": "Leiden", "days": 2}) is None
    assert arguments_problem(schema, {"days": 2}) == "the arguments: 'city' is a required property"
    assert "days: 0 is less than the minimum" in str(arguments_problem(schema, {"city": "a", "days": 0}))
    assert arguments_problem(schema, ["city"]) == "the arguments are no object"


def test_patterns_are_not_run_and_properties_may_be_called_so() -> None:
    schema = checked_schema({"properties": {"pattern": {"type": "string", "pattern": "(a+)+$"}}})
    assert schema["properties"] == {"pattern": {"type": "string"}}
    assert arguments_problem(schema, {"pattern": "a" * 60 + "!"}) is None


def test_what_takes_long_to_check_is_not_checked() -> None:
    costly = {"uniqueItems": True, "unevaluatedItems": False}
    schema = checked_schema(
        {"properties": {"a": {"type": "array", **costly}}, "unevaluatedProperties": False}
    )
    assert schema == {"type": "object", "properties": {"a": {"type": "array"}}}
    alternatives = {"properties": {"a": {"items": {"anyOf": [{"type": "object"}] * 900}}}}
    assert "too long" in str(arguments_problem(checked_schema(alternatives), {"a": [*range(3000)]}))
    assert (
        arguments_problem(
            checked_schema({"properties": {"a": {"items": {"type": "integer"}}}}), {"a": [*range(3000)]}
        )
        is None
    )
    assert arguments_problem({"properties": {"a": {"multipleOf": 0.1}}}, {"a": 10**400}) is not None


def test_what_a_grammar_may_not_know_is_not_plain() -> None:
    assert not is_plain(checked_schema({"properties": {"a": {"not": {"type": "string"}}}}))
    assert is_plain(checked_schema({"properties": {"not": {"type": "string"}}}))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (LAUGHS, "more than 4000 parts"),
        (DEEP, "more than 24 levels"),
        ({"properties": {"a": {"enum": ["x" * 40_000]}}}, "at most 32768 are taken"),
        ({"properties": {"a": {"$ref": "#"}}}, "refers to itself"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/a"}}, "properties": {"b": {"$ref": "#/$defs/a"}}},
            "refers to itself",
        ),
        ({"properties": {"a": {"$ref": "http://10.0.0.1/s.json"}}}, "refers to another one"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "refers to another one"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "does not have"),
        ({"$id": "http://example.com/s", "properties": {}}, "uses $id"),
        ({"properties": {"a": {"$dynamicRef": "#x"}}}, "uses $dynamicRef"),
        ({"type": "string"}, "not that of an object"),
        ({"properties": {"a": {"type": "strnig"}}}, "not valid"),
        ({"properties": {"a": float("nan")}}, "no JSON"),
        ("object", "no object"),
        (None, "no object"),
    ],
)
def test_bombs_are_refused(schema: Any, reason: str) -> None:
    with pytest.raises(SchemaRefused, match=reason.replace("$", r"\$")):
        checked_schema(schema)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["string", "object", "#/$defs/a", "#", "("]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "$ref", "$defs", "a", "properties", "items", "enum", "anyOf", "pattern", "required"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON, _JSON)
def test_whatever_comes_is_taken_or_refused(schema: Any, arguments: Any) -> None:
    try:
        taken = checked_schema(schema)
    except SchemaRefused:
        return
    problem = arguments_problem(taken, arguments)
    assert problem is None or problem

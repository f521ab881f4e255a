"""Arguments of calls: what fits, what the model is told, and hostile schemas."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agents.loop.scripted import ADD

from deepwell.agents.loop.arguments import (
    InvalidArguments,
    check_schema,
    nearest,
    outline,
    parse_arguments,
    without_unknown,
)
from deepwell.agents.loop.clean import bounded, clean, is_json, read_json
from deepwell.agents.loop.written import looks_like_a_call, written_calls
from deepwell.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "missing 'a', 'b'"),
        ('{"a": 1}', "missing 'b'"),
        ('{"a": "1", "b": 2}', 'a must be integer, not "1"'),
        ('{"a": 1, "b": 2, "A": 3}', "unknown 'A' (did you mean 'a'?)"),
        ('{"a": NaN, "b": 1}', "not JSON"),
        ('{"a": 1e999, "b": 1}', "not JSON"),
        ('{"\\ud800": 1}', "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_the_error_says_what_to_mend(text: str, told: str) -> None:
    with pytest.raises(InvalidArguments) as error:
        parse_arguments(text, ADD, explain=True)
    assert told in str(error.value)
    assert 'Expected: {"a": integer, "b": integer}' in str(error.value)
    with pytest.raises(InvalidArguments, match=r"^invalid arguments$"):
        parse_arguments(text, ADD, explain=False)


def test_no_arguments_are_an_empty_object() -> None:
    assert parse_arguments(" ", {}, explain=True) == {}


def test_a_pattern_takes_linear_time() -> None:
    schema = {"properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}
    with pytest.raises(InvalidArguments, match="does not match"):
        parse_arguments(json.dumps({"x": "a" * 5000 + "!"}), schema, explain=True)
    assert parse_arguments('{"x": "a"}', {"properties": {"x": {"pattern": "(?=a)a"}}}, explain=True) == {
        "x": "a"
    }


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:9/schema.json", "file:///etc/passwd", "#/nowhere", "other.json"]
)
def test_no_reference_is_followed_out_of_a_schema(reference: str) -> None:
    with pytest.raises(InvalidArguments, match="not there"):
        parse_arguments('{"x": 1}', {"properties": {"x": {"$ref": reference}}}, explain=True)


def test_a_schema_without_an_end_is_an_error_of_the_call() -> None:
    schema = {"properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"$ref": "#/$defs/x"}}}
    with pytest.raises(InvalidArguments, match="without an end"):
        parse_arguments('{"x": 1}', schema, explain=True)


def test_a_pattern_beside_additional_properties_takes_linear_time() -> None:
    schema = {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    assert parse_arguments('{"aaa": 1}', schema, explain=True) == {"aaa": 1}
    with pytest.raises(InvalidArguments, match="unknown"):
        parse_arguments(json.dumps({"a" * 5000 + "!": 1}), schema, explain=True)
    found = parse_arguments(
        json.dumps({"a" * 60 + "!": 1}), {**schema, "additionalProperties": True}, explain=True
    )
    assert len(found) == 1
    unevaluated = {"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False}
    assert parse_arguments(json.dumps({"a" * 60 + "!": 1}), unevaluated, explain=True)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (
            {
                "properties": {"x": {"$ref": "#/$defs/a0"}},
                "$defs": {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(60)}
                | {"a60": {}},
            },
            '{"x": 1}',
        ),
        (
            {"properties": {"x": {"items": {"anyOf": [{"type": "object"}] * 900 + [{}]}}}},
            json.dumps({"x": list(range(3000))}),
        ),
        ({"properties": {"x": {"allOf": [{"$ref": "#"}] * 2}}}, '{"x":' * 50 + "{}" + "}" * 50),
    ],
)
def test_what_takes_long_to_check_is_refused(schema: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidArguments, match="too long"):
        parse_arguments(text, schema, explain=True)


def test_a_long_table_is_checked() -> None:
    row = {"type": "object", "properties": {name: {"type": "integer"} for name in "abcde"}, "required": ["a"]}
    schema = {"properties": {"rows": {"type": "array", "items": {**row, "additionalProperties": False}}}}
    rows = [dict.fromkeys("abcde", number) for number in range(4000)]
    assert parse_arguments(json.dumps({"rows": rows}), schema, explain=True) == {"rows": rows}


def test_many_elements_are_compared_in_linear_time() -> None:
    schema = {"properties": {"x": {"uniqueItems": True}}}
    many = [{"n": number} for number in range(40_000)]
    assert parse_arguments(json.dumps({"x": many}), schema, explain=True) == {"x": many}
    with pytest.raises(InvalidArguments, match="twice"):
        parse_arguments('{"x": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}', schema, explain=True)


def test_a_number_that_cannot_be_divided_is_an_error_of_the_call() -> None:
    with pytest.raises(InvalidArguments, match="too large"):
        parse_arguments(f'{{"x": 1{"0" * 400}}}', {"properties": {"x": {"multipleOf": 0.1}}}, explain=True)


def test_a_large_schema_is_refused() -> None:
    check_schema("tool", {"properties": {f"p{number}": {"type": "string"} for number in range(100)}})
    with pytest.raises(InvalidRequest, match="65,536"):
        check_schema("tool", {"properties": {f"p{number}": {} for number in range(20_000)}})


@pytest.mark.parametrize("schema", [{"type": "array"}, {"properties": 1}, {"type": "nothing"}])
def test_a_schema_of_something_else_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="'tool'"):
        check_schema("tool", schema)


def test_outline_and_nearest() -> None:
    schema = {"properties": {"a": {"enum": ["x", "y"]}, "b": {"type": ["string", "null"]}}, "required": ["a"]}
    assert outline(schema) == '{"a": "x" | "y", "b"?: string | null}'
    assert nearest("read-File", ["read_file", "list_files"]) == "read_file"
    assert nearest("weather", ["read_file"]) is None


@given(st.text())
def test_any_text_can_be_kept(text: str) -> None:
    clean(text).encode()
    assert clean("a\ud800b\0") == "a\ufffdb\ufffd"


@given(st.text(), st.integers(1, 50))
def test_a_cut_says_how_long_the_text_was(text: str, most: int) -> None:
    shown, characters = bounded(text, most)
    assert (shown == text and not characters) or (str(len(text)) in shown and characters == len(text))


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_no_arguments_raise_anything_else(text: str) -> None:
    with suppress(InvalidArguments):
        assert is_json(parse_arguments(text, {}, explain=True))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_what_is_read_can_be_kept(value: object) -> None:
    with suppress(ValueError):
        assert is_json(read_json(json.dumps(value)))


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "add", "arguments": {"a": 1}}', 1),
        ('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', 1),
        ('```json\n[{"name": "add", "parameters": {}}, {"name": "add", "arguments": "{}"}]\n```', 2),
        ('{"function": {"name": "add", "arguments": {}}}', 1),
        ('{"tool": "add", "args": {}}', 1),
        ("add(a=1, b=-2)", 1),
        ("Let me add:\nadd(a=1, b=2)", 1),
        ("add(1, 2)", 0),
        ("add(a=__import__('os'))", 0),
        ('{"name": "rm", "arguments": {}}', 1),
        ('I delete it: {"name": "rm", "arguments": {}}', 0),
        ('{"name": "add", "arguments": {"a": 1}', 1),
        ('{"name": "add"}', 0),
        ("The tool add(a, b) adds.", 0),
        ('Use {"name": "add", "arguments": {}} like this. ' + "It explains much. " * 30, 0),
        ("", 0),
        ("{" * 10_000, 0),
    ],
)
def test_calls_written_as_text(text: str, calls: int) -> None:
    assert len(written_calls(text, ["add"])) == calls


def test_what_looks_like_a_call() -> None:
    assert looks_like_a_call('{"name": "add", "arguments": {"a" 1}}', ["add"])
    assert not looks_like_a_call('{"name": "Anna", "city": "Lyon"}', ["add"])


def test_arguments_that_a_tool_does_not_know_are_told_apart() -> None:
    schema = {"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
    assert without_unknown('{"a": 1, "type": "object"}', schema) == ({"a": 1}, ["type"])
    assert without_unknown('{"type": "object"}', schema) is None
    assert without_unknown('{"a": 1}', schema) is None


@given(st.text(alphabet='{}[]"name:,arguments add(=)\n` \\1'))
def test_no_text_raises(text: str) -> None:
    written_calls(text, ["add"])

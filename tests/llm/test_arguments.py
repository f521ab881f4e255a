"""Arguments and words of the Python API, without a model."""

from __future__ import annotations

from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from deepwell.errors import DeepwellError, InsufficientMemory, InvalidRequest
from deepwell.llm.arguments import (
    ChatArguments,
    GenerateArguments,
    conversation_list,
    format_of,
    prompt_list,
    split_arguments,
    stops_of,
)
from deepwell.llm.wording import in_python


class Address(BaseModel):
    """A class inside of another, with a property that is named like a keyword."""

    street: str
    properties: dict[str, int] = Field(default_factory=dict)


class Person(BaseModel):
    name: str
    home: Address
    others: list[Address] = []
    kind: Literal["a", "b"] = "a"


def closed_schema() -> dict[str, Any]:
    import json

    grammar = format_of({"schema": Person}).grammar
    assert grammar is not None
    return json.loads(grammar.source)


addresses = st.builds(Address, street=st.text(), properties=st.dictionaries(st.text(), st.integers()))


@given(st.builds(Person, name=st.text(), home=addresses, others=st.lists(addresses, max_size=2)))
def test_a_class_as_a_schema_takes_its_objects_and_no_other_properties(person: Person) -> None:
    plain = person.model_dump(mode="json")
    jsonschema.validate(plain, closed_schema())
    for place in (plain, plain["home"], *plain["others"]):
        place["more"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(plain, closed_schema())
        del place["more"]


def test_a_schema_as_a_dictionary_stays_as_it_is() -> None:
    schema = Person.model_json_schema()
    format = format_of({"schema": schema})
    assert format.grammar is not None and "additionalProperties" in format.grammar.source
    assert format.grammar.source.count("false") == 0


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("a", (["a"], True)),
        ([1, 2], ([[1, 2]], True)),
        (["a", [1, 2]], (["a", [1, 2]], False)),
        (("a", "b"), (["a", "b"], False)),
        ([], ([], False)),
    ],
)
def test_one_prompt_is_told_from_many(given_: Any, expected: Any) -> None:
    assert prompt_list(given_) == expected


def test_one_conversation_is_told_from_many() -> None:
    message = {"role": "user", "content": "a"}
    assert conversation_list([message]) == ([[message]], True)
    assert conversation_list([[message], [message]]) == ([[message], [message]], False)
    assert conversation_list([]) == ([], False)


def test_arguments_are_split_by_their_groups() -> None:
    sampling, constraint, options = split_arguments(
        {"temperature": 1, "stop": ("a", "b"), "regex": "x", "tools": [], "seed": None}, ChatArguments
    )
    assert (sampling, constraint, options) == (
        {"temperature": 1, "stop": ["a", "b"]},
        {"regex": "x"},
        {"tools": []},
    )
    assert stops_of(sampling) == ("a", "b")
    assert stops_of({"stop": "a"}) == ("a",)
    with pytest.raises(InvalidRequest, match="there is no argument 'tools'"):
        split_arguments({"tools": []}, GenerateArguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("n", 0),
        ("max_tokens", True),
        ("max_tokens", 0),
        ("stop", [1]),
        ("logit_bias", {1: 101}),
        ("logprobs", 21),
        ("seed", 2**63),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name} ") as caught:
        split_arguments({name: value}, GenerateArguments)
    assert caught.value.fix.startswith("give ")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("use --precision int4 or --context 8192", 'use precision="int4" or context=8192'),
        ("use --context 4096 --kv-tokens 4096", "use context=4096 kv_tokens=4096"),
        (
            "correct it, or start with --sampling-defaults off",
            'correct it, or start with sampling_defaults="off"',
        ),
        ("choose a folder (--models-dir)", "choose a folder (models_dir=)"),
        ("run `deepwell pull a --name b`", "run `deepwell pull a --name b`"),
        ("x (flag --precision) is wrong", "x (argument precision) is wrong"),
        ("this model takes --context 1 to 8192", "this model takes context=1 to 8192"),
    ],
)
def test_flags_become_arguments_and_commands_stay(said: str, expected: str) -> None:
    error = in_python(InsufficientMemory("need 2 GB", fix=said))
    assert isinstance(error, InsufficientMemory)
    assert (error.message, error.fix) == ("need 2 GB", expected)


@given(st.text())
def test_words_without_flags_stay(text: str) -> None:
    error = DeepwellError(text, fix=text)
    assert in_python(error) is error or "--" in text

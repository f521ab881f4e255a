"""Prompts with variables: every slot is filled once, and what cannot be filled says why."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.dialogue.prompts.content import PromptContent, PromptExample, decode_content, encode_content
from deepwell.dialogue.prompts.text import (
    MAX_MESSAGES,
    MAX_TEXT,
    MAX_VARIABLES,
    NAME_PATTERN,
    PromptMessage,
    PromptText,
)
from deepwell.errors import InvalidRequest

NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)
WORDS = st.text(st.characters(exclude_characters="{}\0", exclude_categories=["Cs"]), max_size=20)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(WORDS, NAMES, VALUES), min_size=1, max_size=8), WORDS)
def test_values_stand_where_their_variables_stood_and_are_read_no_further(pieces, end):
    values = {name: value for _, name, value in pieces}
    text = "".join(f"{word}{{{{ {name} }}}}" for word, name, _ in pieces) + end
    prompt = PromptText("", (PromptMessage("user", text),), dict.fromkeys(values, "x"))
    prompt.check()
    (filled,) = prompt.filled(values)
    assert filled.content == "".join(word + values[name] for word, name, _ in pieces) + end


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_refused_or_filled(text):
    names = dict.fromkeys(re.findall(r"\{\{[ \t]{0,8}([A-Za-z_][A-Za-z0-9_]{0,62})[ \t]{0,8}\}\}", text), "x")
    prompt = PromptText(text, (), names)
    with suppress(InvalidRequest):
        prompt.check()
        (filled,) = prompt.filled(dict.fromkeys(names, "x"))
        assert "{{" not in filled.content


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (PromptText(), "no text"),
        (PromptText(" \n"), "no text"),
        (PromptText("{{a}}"), "not described: a"),
        (PromptText("a", variables={"b": "x"}), "does not use the variables b"),
        (PromptText("{{}}"), "open no variable"),
        (PromptText("{{a-b}}"), "open no variable"),
        (PromptText('{"a": {{"b": 1}}}'), "open no variable"),
        (PromptText("x" * (MAX_TEXT + 1)), "characters"),
        (PromptText("a\0"), "NUL"),
        (PromptText("a\ud800"), "surrogate"),
        (PromptText("a", (PromptMessage("user", "b"),) * (MAX_MESSAGES + 1)), "messages"),
        (
            PromptText(
                "".join(f"{{{{a{n}}}}}" for n in range(MAX_VARIABLES + 1)),
                variables={f"a{n}": "x" for n in range(MAX_VARIABLES + 1)},
            ),
            "variables",
        ),
    ],
)
def test_a_text_that_cannot_be_filled_says_why(prompt, said):
    with pytest.raises(InvalidRequest, match=re.escape(said)) as caught:
        prompt.check()
    assert caught.value.fix


def test_no_content_is_too_large_to_list():
    text = PromptText("", (PromptMessage("user", "x" * 32_000),) * 9)
    text.check()
    with pytest.raises(InvalidRequest, match="bytes, more than 262144"):
        encode_content(PromptContent(text))


def test_single_braces_are_text():
    prompt = PromptText('Answer {"a": {"b": 1}}, {{name}} {', variables={"name": "x"})
    prompt.check()
    assert prompt.filled({"name": "{{name}}"})[0].content == 'Answer {"a": {"b": 1}}, {{name}} {'


def test_missing_and_superfluous_values_are_named():
    prompt = PromptText("{{a}} {{b}}", variables={"a": "x", "b": "y"})
    with pytest.raises(InvalidRequest, match="Missing prompt variables: b"):
        prompt.filled({"a": "1"})
    with pytest.raises(InvalidRequest, match="Unknown prompt variables: c"):
        prompt.filled({"a": "1", "b": "2", "c": "3"})


def test_a_value_that_stands_in_thousands_of_places_is_refused_before_it_is_put_there():
    prompt = PromptText("{{a}}" * (MAX_TEXT // 5), variables={"a": "x"})
    prompt.check()
    assert len(prompt.filled({"a": "12345"})[0].content) == MAX_TEXT // 5 * 5
    with pytest.raises(InvalidRequest, match="characters with these variables") as caught:
        prompt.filled({"a": "x" * (1 << 20)})
    assert caught.value.param == "prompt.variables"


def test_content_survives_its_form_as_bytes():
    text = PromptText("{{b}} {{a}}", (PromptMessage("user", "é"),), {"b": "x", "a": "y"})
    content = PromptContent(text, "for", "zh", "law", "MIT", PromptExample("i", "o", {"b": "1", "a": "2"}))
    again = decode_content(encode_content(content))
    assert again == content and list(again.text.variables) == ["b", "a"]
    assert encode_content(again) == encode_content(content)

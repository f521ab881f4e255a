"""Packs of prompts: strict files, hostile ones, and those that come along."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.dialogue.prompts.pack import MAX_FILE, read_pack, read_packs
from deepwell.dialogue.prompts.shipped import shipped_packs
from deepwell.errors import InvalidFile

HEAD = """id = "greeting"
version = 2
language = "en"
industry = "support"
purpose = "Greets."
license = "MIT"
"""
GOOD = (
    HEAD
    + """text = "Greet {{name}}."
[[messages]]
role = "user"
content = "Hello"
[variables]
name = "who is greeted"
[example]
input = "Hi"
answer = "Hello, Ada."
variables = { name = "Ada" }
"""
)


def written(tmp_path, text):
    file = tmp_path / "pack.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_pack_brings_a_prompt(tmp_path):
    pack = read_pack(written(tmp_path, GOOD))
    assert (pack.id, pack.version, pack.content.industry) == ("greeting", 2, "support")
    assert [one.content for one in pack.content.text.filled({"name": "Ada"})] == ["Greet Ada.", "Hello"]
    assert read_packs(tmp_path) == [pack] == read_packs(tmp_path / "pack.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe", "no UTF-8"),
        ("id = ", "Invalid value"),
        ("[" * 5000, "pack"),
        ("a = " + "[" * 3000 + "]" * 3000, "pack"),
        (b"#" * (MAX_FILE + 1), "bytes"),
        ("", "missing: id, version, language, industry, purpose, license"),
        (GOOD + "[other]\n", "unknown keys: other"),
        (GOOD.replace("version = 2", "version = true"), "version"),
        (GOOD.replace("version = 2", "version = 0"), "version"),
        (GOOD.replace("version = 2", 'version = "2"'), "version"),
        (GOOD.replace('"greeting"', '"../../etc"'), "id"),
        (GOOD.replace('"greeting"', '"gree\\nting"'), "id"),
        (GOOD.replace('"en"', '"fr"'), "language"),
        (GOOD.replace('"support"', '"war"'), "industry"),
        (GOOD.replace('"Greets."', '""'), "purpose"),
        (GOOD.replace('"Greets."', '"\\u001b[2J"'), "purpose"),
        (GOOD.replace('text = "Greet {{name}}."', "text = 1"), "text"),
        (GOOD.replace("{{name}}", "{{nam}}"), "nam"),
        (GOOD.replace('role = "user"', 'role = "root"'), "role"),
        (GOOD.replace('content = "Hello"', 'content = "Hello"\nmore = 1'), "message"),
        (HEAD + 'text = "a"\nmessages = 1', "messages"),
        (HEAD + 'text = "a"\nvariables = 1', "variables"),
        (HEAD + 'text = "a"\n[variables]\n"a b" = "x"', "name of a variable"),
        (HEAD + 'text = "a"\n[example]\ninput = "x"', "example"),
        (GOOD.replace('variables = { name = "Ada" }', ""), "Missing prompt variables: name"),
        (HEAD, "no text"),
    ],
    ids=str,
)
def test_a_file_that_is_no_pack_names_the_fault_and_the_fix(tmp_path, text, said):
    with pytest.raises(InvalidFile, match=re.escape(said)) as caught:
        read_pack(written(tmp_path, text))
    assert caught.value.fix and "pack.toml" in caught.value.message
    assert all(caught.value.said("zh"))


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda one: one.encode("utf-8", "ignore")))
def test_no_bytes_raise_anything_else(tmp_path_factory, data):
    with pytest.raises(InvalidFile):
        read_pack(written(tmp_path_factory.mktemp("hostile"), data))


def test_a_folder_without_packs_and_two_files_with_one_id_are_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InvalidFile, match="no packs"):
            read_packs(place)
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(InvalidFile, match="another file"):
        read_packs(tmp_path)


def test_the_packs_that_come_along_are_complete():
    packs = shipped_packs()
    assert packs, "at least one beats a plain prompt"
    for pack in packs:
        assert pack.content.example is not None, pack.id
        assert pack.id.endswith(f"-{pack.content.language}"), pack.id
        assert pack.content.license == "Apache-2.0"

"""The pages on settings and verbs are those of the code, and every text of the help stands alone."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.pages.commands import commands_page
from deepwell.cli.pages.python import python_page
from deepwell.cli.pages.settings import flags, sections, settings_pages
from deepwell.cli.pages.verbs import Verb, verbs
from deepwell.messages import chinese_settings
from deepwell.settings import Settings
from deepwell_bench.harness.assets import repository

HANZI = re.compile(r"[\u4e00-\u9fff]")
REFERENCE = repository() / "docs" / "reference"
# A text that opens so needs the name beside it, or another text, to mean anything.
LEANING = re.compile(
    r"(Of|As|That|What|Who|Whose|How|Where|Its|Their|It|They|On|Off|With|For|The)\b|[a-z0-9]"
)


def every_verb() -> list[Verb]:
    return verbs()


def test_the_pages_are_those_of_the_code() -> None:
    for name, text in {
        **settings_pages(),
        "commands.md": commands_page(),
        "python.md": python_page(),
    }.items():
        assert (REFERENCE / name).read_text(encoding="utf-8") == text, "run `make docs`"


def test_the_pages_do_not_depend_on_who_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = settings_pages()
    monkeypatch.setenv("DEEPWELL_HOME", "/elsewhere")
    monkeypatch.setenv("DEEPWELL_PORT", "9")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    monkeypatch.setenv("HOME", "/elsewhere")
    assert settings_pages() == pages


def test_every_setting_is_described_in_both_languages() -> None:
    described = chinese_settings()
    assert {name for one in sections().values() for name in one} == set(Settings.model_fields)
    for section, fields in sections().items():
        assert set(described[section]) == set(fields)
        for name, field in fields.items():
            chinese = described[section][name]
            assert HANZI.search(chinese) and chinese.endswith("。"), name
            assert not LEANING.match(str(field.description)) and str(field.description).endswith("."), name


def test_every_setting_stands_on_both_pages() -> None:
    for text in settings_pages().values():
        rows = re.findall(r"^\| `(\w+)` \| `DEEPWELL_(\w+)` \|", text, re.MULTILINE)
        assert [name for name, _ in rows] == [name for one in sections().values() for name in one]
        assert all(variable == name.upper() for name, variable in rows)


def test_flags_are_those_of_the_verbs() -> None:
    found = flags()
    assert found["port"]["--port"][:3] == ["serve", "chat", "ask"]
    assert "--allowed-host" in found["allowed_hosts"]
    assert {"MODEL", "--model, -m"} <= set(found["model"])
    assert list(found["api_key"]) == ["--api-key"] and "api_keys" not in found
    assert "requests_per_minute" not in found  # `keys create` has a limit of the key by that name


@pytest.mark.parametrize("verb", every_verb(), ids=lambda verb: verb.path)
def test_every_text_of_the_help_stands_alone(verb: Verb) -> None:
    assert re.match(r"[A-Z`]", verb.help) and verb.help.rstrip().endswith((".", ")"))
    leaning = [
        f"{parameter.shown}: {parameter.help}"
        for parameter in verb.parameters
        if LEANING.match(parameter.help) or not parameter.help.endswith(".")
    ]
    assert leaning == []


def test_the_terminal_wraps_the_paragraphs_of_a_help() -> None:
    shown = CliRunner().invoke(app, ["agent", "resume", "--help"], env={"COLUMNS": "200"}).output
    assert "that its outcome is unknown." in shown

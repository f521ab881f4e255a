"""`parse_source`, `SourceSpec`: what a user writes, stored whole and shown without secrets."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.knowledge.sources.opening import open_source, parse_source
from deepwell.knowledge.sources.options import Access, FolderOptions, expand, options_of
from deepwell.knowledge.sources.patterns import Patterns
from deepwell.knowledge.sources.source import SourceSpec, masked


@pytest.mark.parametrize(
    ("text", "kind", "address"),
    [
        ("https://example.com/a", "url", "https://example.com/a"),
        ("HTTP://example.com", "url", "HTTP://example.com"),
        ("feed:https://example.com/rss", "feed", "https://example.com/rss"),
        ("feed://example.com/rss", "feed", "https://example.com/rss"),
        ("sitemap:https://example.com/sitemap.xml", "sitemap", "https://example.com/sitemap.xml"),
        ("sql:postgresql://u@h/d SELECT 1", "sql", "postgresql://u@h/d"),
        ("sql:sqlite:////srv/a.db SELECT 1", "sql", "sqlite:////srv/a.db"),
        ("live:https://s.example/q?q={question}", "live-http", "https://s.example/q?q={question}"),
        ("live:sql:sqlite:////srv/a.db SELECT :question", "live-sql", "sqlite:////srv/a.db"),
    ],
)
def test_the_forms(text: str, kind: str, address: str) -> None:
    spec = parse_source(text)
    assert (spec.kind, spec.address) == (kind, address)
    assert spec.is_live == kind.startswith("live-")
    assert SourceSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "a.pdf").write_text("a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_source("docs") == SourceSpec("folder", str(tmp_path / "docs"))
    assert parse_source("./docs/../docs") == parse_source("~/docs") == parse_source("docs")
    assert parse_source("a.pdf") == SourceSpec("file", str(tmp_path / "a.pdf"))
    assert parse_source((tmp_path / "docs").as_uri()) == parse_source("docs")
    assert parse_source("sql:sqlite:///kept.db SELECT 1").address == f"sqlite:///{tmp_path}/kept.db"


@pytest.mark.parametrize(
    "text", ["", "no/such/path", "feed:x", "sql:SELECT 1", "sql:sqlite:///a.db", "live:", "ftp://h/x"]
)
def test_what_is_none_of_them_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_source(text)
    assert caught.value.fix


def test_options_are_checked(tmp_path: Path) -> None:
    spec = parse_source(str(tmp_path), ["include=*.md, *.txt", "settle-s=0.5"])
    assert options_of(spec, FolderOptions) == FolderOptions(include=["*.md", "*.txt"], settle_s=0.5)
    with pytest.raises(InvalidRequest, match=r"did you mean exclude\?"):
        parse_source(str(tmp_path), ["excludes=a"])
    with pytest.raises(InvalidRequest, match="settle_s"):
        parse_source(str(tmp_path), ["settle_s=soon"])
    with pytest.raises(InvalidRequest, match="name=value"):
        parse_source(str(tmp_path), ["settle_s"])


def test_secrets_are_stored_and_never_shown() -> None:
    literal = parse_source("sql:postgresql://me:hunter2@db.internal:5432/x SELECT 1")
    assert literal.as_json()["address"] == "postgresql://me:hunter2@db.internal:5432/x"
    for shown in (repr(literal), str(literal), json.dumps(literal.shown()), f"{[literal]}"):
        assert "hunter2" not in shown
        assert "db.internal" in shown
    by_name = parse_source("sql:postgresql://me:${PGPASSWORD}@db/x SELECT 1")
    assert by_name.shown()["address"] == "postgresql://me:${PGPASSWORD}@db/x"
    headers = parse_source(
        "live:https://s.example/?q={question}&api_key=k123",
        ["headers.Authorization=Bearer t0ken", "headers.X-Team=${TEAM}", "name=search"],
    )
    assert headers.shown()["options"]["headers"] == {"Authorization": "***", "X-Team": "${TEAM}"}
    assert "k123" not in repr(headers)
    assert "t0ken" not in repr(headers)


@given(st.text(min_size=1).filter(lambda text: "*" not in text))
def test_no_password_is_shown(password: str) -> None:
    shown = masked(f"postgresql://me:pw{password}@host/name")
    assert f"pw{password}" not in shown


def test_variables_are_read_when_a_source_is_opened() -> None:
    assert expand("a ${X} b", {"X": "1"}) == "a 1 b"
    with pytest.raises(InvalidRequest, match="NOT_SET") as caught:
        expand("postgresql://me:pw@h/${NOT_SET}", {})
    assert "pw" not in str(caught.value)


def test_a_live_source_is_not_scanned() -> None:
    spec = parse_source("live:https://s.example/?q={question}")
    with pytest.raises(InvalidRequest):
        open_source(spec, Access())


@pytest.mark.parametrize("stored", [{}, {"kind": "gopher", "address": "x"}, {"kind": "url", "address": 1}])
def test_a_stored_description_that_is_none(stored: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        SourceSpec.from_json(stored)


@given(st.text(max_size=60), st.lists(st.text(max_size=20), max_size=3))
@example("~0", [])  # nobody's home
def test_any_text_is_a_source_or_an_error_that_says_so(text: str, assignments: list[str]) -> None:
    with suppress(DeepwellError):
        spec = parse_source(text, assignments)
        assert SourceSpec.from_json(spec.as_json()) == spec


@pytest.mark.parametrize(
    ("pattern", "fits", "fails"),
    [
        ("*.md", ["a.md", "b/c/a.md"], ["a.mdx", "a.md.txt"]),
        ("docs/*.md", ["docs/a.md"], ["docs/b/a.md", "x/docs/a.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/b/c/a.md"], ["a.md"]),
        ("docs/**", ["docs/a", "docs/b/c"], ["doc"]),
        ("/docs/", ["docs", "docs/a", "x/docs/a"], ["docs2"]),
        ("build", ["build", "build/a", "x/build/y"], ["builder"]),
        ("?.txt", ["a.txt"], ["ab.txt"]),
        ("a[1].txt", ["a[1].txt"], ["a1.txt"]),
    ],
)
def test_patterns(pattern: str, fits: list[str], fails: list[str]) -> None:
    patterns = Patterns([pattern])
    assert [path for path in fits if not patterns.fit(path)] == []
    assert [path for path in fails if patterns.fit(path)] == []

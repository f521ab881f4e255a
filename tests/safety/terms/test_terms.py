"""Lists of terms: their files, their tiers, and what the detector finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import InvalidFile, TermListNotFound
from deepwell.safety.normalise import normalised
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import (
    Term,
    TermList,
    digest,
    parsed,
    read_list,
    starter_list,
    term_key,
    tiered,
)
from deepwell.safety.terms.pull import list_catalog

LINES = """
坏词语\tpolitics\tblock
ＢａｄＷord\tprofanity\tflag
好坏词语们\tx\tallow
badger\tx\tignore
坏词语更长\tpolitics\tblock
""".replace("ＢａｄＷord", "Ｂａｄ\u3000Word")


def made(lines: str = LINES) -> TermList:
    return TermList("made", parsed(lines, "made"), "here", "Apache-2.0", "0" * 64)


def found(text: str) -> list[tuple[str, str]]:
    return [(one.rule, text[one.start : one.end]) for one in Terms([made()]).scan(normalised(text))]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("有坏词语呀", "坏词语"),
        ("有壞詞語呀", "壞詞語"),
        ("有坏-词*语呀", "坏-词*语"),
        ("有坏\u200b词\u200b语呀", "坏\u200b词\u200b语"),
        ("有坏 词 语呀", "坏 词 语"),
        ("有坏词语更长呀", "坏词语更长"),
    ],
)
def test_a_term_is_found_in_disguise(text: str, span: str) -> None:
    assert found(text) == [("terms.block.politics", span)]


def test_latin_terms_are_whole_words() -> None:
    assert found("a BAD  word!") == [("terms.flag.profanity", "BAD  word")]
    assert found("this is a bad wordy, badword") == []
    assert found("坏bad word坏") == [("terms.flag.profanity", "bad word")]


def test_an_allowed_term_covers_those_inside() -> None:
    assert found("好坏词语们") == []
    assert found("好坏词语们和坏词语") == [("terms.block.politics", "坏词语")]


def test_ignored_terms_are_not_found() -> None:
    assert found("badger") == []


@given(st.text(st.sampled_from("坏词语更长好们 -*bad wor\u200b"), max_size=30))
def test_findings_lie_in_the_text(text: str) -> None:
    for one in Terms([made()]).scan(normalised(text)):
        assert 0 <= one.start < one.end <= len(text)
        key = term_key(text[one.start : one.end])
        assert key in {term.text for term in made().terms}


def test_a_list_is_written_and_read_again(tmp_path: Path) -> None:
    made().write(tmp_path)
    again = read_list(tmp_path, "made")
    assert (again.terms, again.counts()) == (made().terms, {"block": 2, "flag": 1, "ignore": 1, "allow": 1})
    assert json.loads((tmp_path / "made" / "manifest.json").read_text())["counts"]["block"] == 2


def test_a_missing_list_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(TermListNotFound) as error:
        Terms.load(tmp_path, ["starter", "jionlp"])
    assert error.value.fix.startswith("run `deepwell guard terms pull jionlp`")
    with pytest.raises(TermListNotFound):
        read_list(tmp_path, "../made")


def test_a_changed_list_is_refused(tmp_path: Path) -> None:
    made().write(tmp_path)
    path = tmp_path / "made" / "terms.tsv"
    path.write_text(path.read_text() + "更多\tx\tblock\n")
    with pytest.raises(InvalidFile):
        read_list(tmp_path, "made")
    (tmp_path / "made" / "manifest.json").write_text("{")
    with pytest.raises(InvalidFile):
        read_list(tmp_path, "made")


def test_a_malformed_line_is_named() -> None:
    with pytest.raises(InvalidFile, match="line 2"):
        parsed("a\tb\tblock\nc\td\n", "x")


def test_tiers_of_foreign_terms() -> None:
    texts = [
        ("甲", "p"),
        ("甲乙", "p"),
        ("甲乙丙", "p"),
        ("甲乙丙丁", "p"),
        ("abcd", "p"),
        ("abcde", "p"),
        ("广告词", "ad"),
        ("甲-乙 丙", "q"),
        *((short, "p") for short in ("on", "Ma", "a.b.c", "k2")),
        ("ak47", "p"),
        ("t恤", "p"),
    ]
    demoted = {digest("甲乙丙丁"): "ignore"}
    assert tiered(texts, {"ad": "flag"}, demoted) == [  # pyright: ignore[reportArgumentType]
        Term("甲", "p", "ignore"),
        Term("甲乙", "p", "flag"),
        Term("甲乙丙", "p", "block"),
        Term("甲乙丙丁", "p", "ignore"),
        Term("abcd", "p", "flag"),
        Term("abcde", "p", "block"),
        Term("广告词", "ad", "flag"),
        *(Term(short, "p", "ignore") for short in ("on", "ma", "a.b.c", "k2")),
        Term("ak47", "p", "flag"),
        Term("t恤", "p", "flag"),
    ]


@pytest.mark.parametrize(("source", "found"), [("pypi:list==1", []), ("own", ["terms.flag.politics"])])
def test_short_latin_terms_of_a_list_that_was_pulled_before_are_ignored(
    source: str, found: list[str], tmp_path: Path
) -> None:
    """An operator's own list may look for three letters."""
    TermList("pulled", [Term("on", "politics", "flag")], source, "none", "0" * 64).write(tmp_path)
    terms = Terms([read_list(tmp_path, "pulled")])
    assert [one.rule for one in terms.scan(normalised("The light is on."))] == found


def test_the_list_that_ships_is_sound() -> None:
    counts = starter_list().counts()
    assert counts["block"] >= 150 and counts["flag"] >= 80
    assert {"politics", "pornography", "illicit", "self-harm"} <= {
        term.category for term in starter_list().terms
    }


def test_the_catalog_pins_every_file() -> None:
    for entry in list_catalog().values():
        assert entry.version and entry.licence
        assert all(len(file.sha256) == 64 for file in entry.files)

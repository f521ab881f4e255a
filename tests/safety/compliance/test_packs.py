"""The packs: complete in both languages, each executable check with its function, each rule with its source."""

from __future__ import annotations

import re

import pytest
from tests.safety.compliance.conftest import Make

from deepwell.safety.compliance.checks import Check, Fact, Pack, Words, failed, passed, run
from deepwell.safety.compliance.packs import PACKS, load

HANZI = re.compile("[\u4e00-\u9fff]")


@pytest.mark.parametrize("name", PACKS)
def test_a_pack_is_whole_in_both_languages(name: str):
    pack = load(name)
    assert len({check.id for check in pack.checks}) == len(pack.checks)
    for check in pack.checks:
        assert check.title.en.isascii() and HANZI.search(check.title.zh), check.id
        assert check.rule.clause and check.rule.source.en and HANZI.search(check.rule.source.zh), check.id
        assert (check.kind == "executable") == bool(check.fix.en) == bool(HANZI.search(check.fix.zh)), (
            check.id
        )
        assert check.kind == "executable" or check.title.en.endswith("?"), check.id
        assert check.kind == "executable" or check.title.zh.endswith("？"), check.id


def test_rules_that_could_not_be_read_say_what_is_followed_instead():
    unread = {
        check.rule.document.en: check.rule.source.en
        for name in PACKS
        for check in load(name).checks
        if not check.rule.read
    }
    assert {name for name in unread if "45654" in name or "45438" in name or "OWASP" in name}
    assert all("follow" in source or "read in public copies" in source for source in unread.values())


def test_a_question_of_another_name_is_refused_with_the_nearest():
    with pytest.raises(Exception, match="no question 'minor'") as caught:
        load("cn").question("minor")
    assert "minors" in str(getattr(caught.value, "fix", ""))


def test_a_check_that_raises_has_failed(make: Make):
    def broken(_context: object):
        raise RuntimeError("out of order")

    rule = load("eu").checks[0].rule
    checks = [
        Check("one", Words("one", "一"), rule, Words("", ""), broken),
        Check("two", Words("two", "二"), rule, Words("", ""), lambda _context: passed()),
        Check("three", Words("three?", "三？"), rule, Words("", "")),
    ]
    results = list(run(Pack("x", Words("x", "x"), checks).checks, make()))
    assert [(one.check.id, one.outcome.status) for one in results] == [("one", "fail"), ("two", "pass")]
    assert "out of order" in str(results[0].outcome.facts[0].value)
    assert failed(Fact(Words("a", "a"), 1)).status == "fail"

"""The report: in both languages, with evidence, sources and answers; what comes from outside stays text."""

from __future__ import annotations

import json
import re

import pytest
from tests.safety.compliance.conftest import Make

from deepwell.messages import Language
from deepwell.safety.compliance.answers import DUE_AFTER_DAYS, answered
from deepwell.safety.compliance.checks import Fact, Result, Words, failed, not_run, passed, run
from deepwell.safety.compliance.packs import PACKS, load
from deepwell.safety.compliance.report import PackReport, Report, as_json, as_markdown
from deepwell.storage.safety.answers import StoredAnswer

NOW = 1_800_000_000
DAY = 86_400


def stored(question: str, days_ago: int, answer: str = "yes, weekly") -> StoredAnswer:
    return StoredAnswer("cn", question, answer, "wiki/42", "Li Lei", NOW - days_ago * DAY)


def report(*, value: str = "9,999") -> Report:
    pack = load("cn")
    checks = {check.id: check for check in pack.checks}
    fact = Fact(Words("terms", "词条"), value)
    results = [
        Result(checks["terms-size"], failed(fact)),
        Result(checks["pipl-export"], passed(Fact(Words("rows", "行"), Words("five", "五")))),
        Result(checks["run-refuse"], not_run()),
    ]
    answers = {
        "terms-updated": stored("terms-updated", 3),
        "banks-updated": stored("banks-updated", DUE_AFTER_DAYS + 1, "once | <b>*so*</b>"),
    }
    return Report(
        "2026-11-26T10:00:00+00:00",
        {"policy": "strict"},
        [PackReport(pack, results, answered(pack.checks, answers, NOW))],
    )


def test_the_report_in_english():
    text = as_markdown(report(), "en")
    assert "### FAIL: The term list has 10,000 terms or more" in text
    assert "- terms: 9,999" in text
    assert "what to do: pull more lists" in text
    assert "### NOT RUN: Of 300 sampled questions to refuse" in text
    assert "> Li Lei, 2027-01-12; evidence: wiki/42" in text
    assert "**older than 12 months: due again**" in text
    assert 'not answered yet: `deepwell compliance answer minors "..." --by NAME --pack cn`' in text
    assert re.search(r"- GB/T 45654-2025.*: not available\. the text was not available", text)
    assert re.search(r"- Personal Information Protection Law.*: read\. ", text)
    assert "no legal advice" in text


def test_the_report_in_chinese():
    text = as_markdown(report(), "zh")
    assert "### 未通过：关键词库不少于 10000 个词条" in text
    assert "- 词条：9,999" in text and "- 行：五" in text
    assert "**已超过 12 个月，需要重新回答**" in text
    assert "未能查阅" in text and "不构成法律意见" in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert all(re.search("[\u4e00-\u9fff]", line) for line in headings)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_comes_from_outside_is_no_markdown(language: Language):
    text = as_markdown(report(value="x](http://a) `<script>`\n# big\x1b[31m" + "y" * 2000), language)
    line = next(line for line in text.splitlines() if "script" in line)
    assert "\\`\\<script\\>\\` \\# big \\[31m" in line
    assert line.endswith("more\\]")
    assert "> once \\| \\<b\\>\\*so\\*\\</b\\>" in text


def test_the_report_as_json_has_all_of_it():
    told = as_json(report())
    assert json.loads(json.dumps(told)) == told
    assert not told["holds"]
    pack = told["packs"][0]
    assert pack["counts"] == {"fail": 1, "pass": 1, "not_run": 1}
    assert pack["checks"][0]["evidence"] == [{"name": {"en": "terms", "zh": "词条"}, "value": "9,999"}]
    assert pack["checks"][0]["rule"]["read"] is False
    answers = {one["id"]: (one["due"], (one["answer"] or {}).get("day")) for one in pack["questions"]}
    assert answers["terms-updated"] == (False, "2027-01-12")
    assert answers["banks-updated"][0] and answers["minors"] == (True, None)
    assert pack["due"] == len(answers) - 1


@pytest.mark.parametrize("name", PACKS)
def test_a_whole_pack_is_reported_in_both_languages(make: Make, name: str):
    pack = load(name)
    results = list(run(pack.checks, make("cn-public")))
    whole = Report("now", {}, [PackReport(pack, results, answered(pack.checks, {}))])
    for language in ("en", "zh"):
        text = as_markdown(whole, language)
        assert all(f"`{check.id}`" in text for check in pack.checks)
    assert whole.holds == all(one.outcome.status in ("pass", "not_applicable") for one in results)

"""Reports of compliance checks: Markdown in English or Chinese, and JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepwell.messages import Language
from deepwell.safety.compliance.answers import Answered
from deepwell.safety.compliance.checks import Check, Pack, Result, Words

__all__ = ["PackReport", "Report", "as_json", "as_markdown"]

_STATUS: Final[Mapping[str, Words]] = {
    "pass": Words("PASS", "通过"),
    "fail": Words("FAIL", "未通过"),
    "not_applicable": Words("not applicable", "不适用"),
    "not_run": Words("NOT RUN", "未运行"),
}
_COLON: Final = Words(": ", "：")
_MOST_VALUE: Final = 600
_SPECIAL: Final = re.compile(r"[\\`*{}\[\]<>#|~&]|(?<!\w)_|_(?!\w)")


@dataclass(frozen=True, slots=True)
class PackReport:
    """Results and questions of one pack."""

    pack: Pack
    results: Sequence[Result]
    questions: Sequence[Answered]

    def counts(self) -> Counter[str]:
        """Returns the number of executable checks by status."""
        return Counter(one.outcome.status for one in self.results)


@dataclass(frozen=True, slots=True)
class Report:
    """Results of some packs.

    Attributes:
        made_at: time in UTC, as ISO 8601.
        facts: version, policy, database: what was looked at.
    """

    made_at: str
    facts: Mapping[str, str]
    packs: Sequence[PackReport]

    @property
    def holds(self) -> bool:
        """True if every executable check has passed or does not apply."""
        return not any(one.counts()["fail"] or one.counts()["not_run"] for one in self.packs)


def as_json(report: Report) -> dict[str, Any]:
    """Returns the report as JSON values, with texts in both languages."""
    return {
        "made_at": report.made_at,
        "holds": report.holds,
        "facts": dict(report.facts),
        "packs": [
            {
                "pack": one.pack.name,
                "title": one.pack.title._asdict(),
                "counts": dict(one.counts()),
                "due": sum(question.due for question in one.questions),
                "checks": [_result(result) for result in one.results],
                "questions": [_question(question) for question in one.questions],
            }
            for one in report.packs
        ],
    }


def _result(result: Result) -> dict[str, Any]:
    facts = [
        {
            "name": fact.name._asdict(),
            "value": fact.value._asdict() if isinstance(fact.value, Words) else fact.value,
        }
        for fact in result.outcome.facts
    ]
    told = {"status": result.outcome.status, "evidence": facts, "fix": result.check.fix._asdict()}
    return _check(result.check) | told


def _question(question: Answered) -> dict[str, Any]:
    answer = question.answer
    told = None
    if answer is not None:
        told = {
            "answer": answer.answer,
            "evidence": answer.evidence,
            "answered_by": answer.answered_by,
            "answered_at": answer.answered_at,
            "day": question.day,
        }
    return _check(question.check) | {"due": question.due, "answer": told}


def _check(check: Check) -> dict[str, Any]:
    rule = check.rule
    return {
        "id": check.id,
        "title": check.title._asdict(),
        "rule": {
            "document": rule.document._asdict(),
            "clause": rule.clause,
            "read": rule.read,
            "source": rule.source._asdict(),
        },
    }


def as_markdown(report: Report, language: Language) -> str:
    """Returns the report as Markdown. Whatever comes from outside is escaped."""

    def say(en: str, zh: str) -> str:
        return zh if language == "zh" else en

    lines = [f"# {say('Compliance report', '合规检查报告')}", ""]
    lines.append(f"- {say('made at: ', '生成时间：')}{report.made_at}")
    lines += [f"- {name}: {_plain(value)}" for name, value in report.facts.items()]
    lines += [
        "",
        say(
            "These checks and answers are evidence for whoever decides about compliance. They are no legal advice, and no "
            "certificate.",
            "以下检查与回答是供合规判断使用的证据，不构成法律意见或认证。",
        ),
    ]
    for one in report.packs:
        counts = one.counts()
        due = sum(question.due for question in one.questions)
        told = say(", ", "，").join(
            f"{_STATUS[key].of(language)} {counts[key]}" for key in _STATUS if counts[key]
        )
        asked = say(f"questions {len(one.questions)}, due {due}", f"问题 {len(one.questions)}，待回答 {due}")
        lines += ["", f"## {one.pack.title.of(language)}", "", say("; ", "；").join((told, asked))]
        for result in one.results:
            lines += _shown(result, language)
        if one.questions:
            lines += ["", f"### {say('Questions to people', '需要人工回答的问题')}"]
        for question in one.questions:
            lines += _asked(one.pack.name, question, language)
        lines += _sources(one, language)
    return "\n".join(lines) + "\n"


def _shown(result: Result, language: Language) -> list[str]:
    check, outcome = result.check, result.outcome
    status = _STATUS[outcome.status].of(language)
    colon = _COLON.of(language)
    heading = f"### {status}{colon}{check.title.of(language)}"
    lines = ["", heading, "", _origin(check, language), ""]
    for fact in outcome.facts:
        value = fact.value.of(language) if isinstance(fact.value, Words) else str(fact.value)
        lines.append(f"- {_plain(fact.name.of(language))}{colon}{_plain(value)}")
    if outcome.status in ("fail", "not_run"):
        label = "解决办法" if language == "zh" else "what to do"
        lines += ["", f"{label}{colon}{check.fix.of(language)}"]
    return lines


def _asked(pack: str, question: Answered, language: Language) -> list[str]:
    check, answer = question.check, question.answer
    lines = ["", f"**{check.title.of(language)}**", "", _origin(check, language), ""]
    if answer is None:
        command = f'deepwell compliance answer {check.id} "..." --by NAME --pack {pack}'
        lines.append(f"{Words('not answered yet: ', '尚未回答：').of(language)}`{command}`")
        return lines
    lines.append(f"> {_plain(answer.answer)}")
    by = f"{_plain(answer.answered_by)}, {question.day}"
    if answer.evidence:
        by += Words("; evidence: ", "；证据：").of(language) + _plain(answer.evidence)
    lines += [">", f"> {by}"]
    if question.due:
        told = (
            "**已超过 12 个月，需要重新回答**" if language == "zh" else "**older than 12 months: due again**"
        )
        lines += ["", told]
    return lines


def _origin(check: Check, language: Language) -> str:
    return (
        f"`{check.id}`"
        + Words("; ", "；").of(language)
        + check.rule.document.of(language)
        + Words(", ", "，").of(language)
        + check.rule.clause
    )


def _sources(one: PackReport, language: Language) -> list[str]:
    """Returns where the rules behind the pack were read, or that they could not be."""
    checks = [result.check for result in one.results] + [question.check for question in one.questions]
    documents = {check.rule.document: check.rule for check in checks}
    lines = ["", f"### {'规则文本与来源' if language == 'zh' else 'Texts of the rules'}", ""]
    for document, rule in documents.items():
        mine = [check.rule for check in checks if check.rule.document == document]
        read = sorted({each.clause for each in mine if each.read})
        if len(read) == len({each.clause for each in mine}):
            told = "已查阅" if language == "zh" else "read"
        elif read:
            told = (
                f"部分查阅（{', '.join(read)}）" if language == "zh" else f"read in part ({', '.join(read)})"
            )
        else:
            told = "未能查阅" if language == "zh" else "not available"
        stop = Words(". ", "。").of(language)
        lines.append(f"- {document.of(language)}{_COLON.of(language)}{told}{stop}{rule.source.of(language)}")
    return lines


def _plain(text: str) -> str:
    """Returns a text on one line in which nothing is Markdown, cut with a note where it is long."""
    if len(text) > _MOST_VALUE:
        text = f"{text[:_MOST_VALUE]} [... {len(text) - _MOST_VALUE} more]"
    return _SPECIAL.sub(lambda one: "\\" + one[0], "".join(c if c.isprintable() else " " for c in text))

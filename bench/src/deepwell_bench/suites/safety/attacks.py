"""Recall on frozen attacks and false positives on benign texts: each detector of the first layer, and all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import ModelNotFound
from deepwell.safety.classifier.detector import LinearDetector, shipped_detector
from deepwell.safety.findings import Detector, Finding
from deepwell.safety.normalise import normalised
from deepwell.safety.patterns import Patterns
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import starter_list
from deepwell_bench.harness.proportions import wilson
from deepwell_bench.workloads.safety.classifier.fitted import fitted
from deepwell_bench.workloads.safety.classifier.training import Fold
from deepwell_bench.workloads.safety.frozen import test_sets
from deepwell_bench.workloads.safety.prompts import Prompt
from deepwell_bench.workloads.safety.translated import chinese_test

__all__ = ["bench_attacks"]

_ATTACKS: Final = ("injection", "jailbreak", "harmful", "prompt_leak", "exfiltration")
"""Categories that name an attack. Code, personal data and secrets are other matters, and count neither way."""
_FOLDS: Final[dict[str, Fold]] = {"advbench": "without advbench", "harmbench": "without harmbench"}
_JUDGED: Final = ("jailbreak", "injection", "advbench", "harmbench", "do_not_answer_malicious_uses")


def bench_attacks(report: Report) -> dict[str, Any]:
    """Returns recall of every attack set and false positives of every benign one, in percent."""
    sets = dict(test_sets())
    try:
        for one in chinese_test():
            sets.setdefault(f"chinese_{_group(one)}", []).append(one)
    except ModelNotFound:
        report.note("the Chinese variants need `deepwell pull qwen2.5-coder-0.5b`, and were left out")
    shipped = shipped_detector()
    others: list[Detector] = [Patterns(), Terms([starter_list()])]
    folds = {name: LinearDetector(fitted(fold, report.note)) for name, fold in _FOLDS.items()}
    found: dict[str, dict[str, int]] = {}
    rows: list[tuple[str, ...]] = []
    for name, texts in sorted(
        sets.items(), key=lambda item: (item[0].startswith(("benign", "passages")), item[0])
    ):
        classifier = folds.get(name.removeprefix("chinese_"), shipped)
        found[name] = _counted(texts, [classifier, *others])
        low, high = wilson(found[name]["all"], len(texts))
        shares = [
            _percent(found[name][each], len(texts)) for each in ("all", "classifier", "patterns", "terms")
        ]
        rows.append((name, str(len(texts)), *shares, f"{100 * low:.1f}-{100 * high:.1f}"))
    columns = ("set", "texts", "all", "classifier", "patterns", "terms", "95 % of all")
    report.table("found, in percent: attacks (recall), then benign texts (false positives)", columns, rows)
    report.note(
        "advbench and harmbench: weights trained without that family and its relatives; the weights that ship know both"
    )
    return _value(sets, found)


def _group(one: Prompt) -> str:
    return (
        "malicious_uses"
        if one.family.startswith("do_not_answer")
        else one.family
        if one.family == "harmbench"
        else one.category
    )


def _counted(texts: Sequence[Prompt], detectors: Sequence[Detector]) -> dict[str, int]:
    """Returns the number of texts in which each detector, and any of them, finds an attack."""
    counts = {"all": 0, "classifier": 0, "patterns": 0, "terms": 0}
    for one in texts:
        read = normalised(one.text)
        hits = {detector.name: any(map(_is_attack, detector.scan(read))) for detector in detectors}
        counts["all"] += any(hits.values())
        for name, hit in hits.items():
            counts[name] += hit
    return counts


def _is_attack(finding: Finding) -> bool:
    return finding.category in _ATTACKS or finding.rule.startswith("terms.block.")


def _value(sets: Mapping[str, Sequence[Prompt]], found: Mapping[str, dict[str, int]]) -> dict[str, Any]:
    benign = [name for name in sets if name.startswith("benign")]
    number = sum(len(sets[name]) for name in benign)
    value: dict[str, Any] = {}
    for by, prefix in (("all", ""), ("classifier", "classifier_")):
        for name in _JUDGED:
            value[f"{prefix}{name.removeprefix('do_not_answer_')}_recall"] = _rate(
                found[name][by], len(sets[name])
            )
        wrong = sum(found[name][by] for name in benign)
        value[f"{prefix}false_positives"] = _rate(wrong, number)
        for name in benign:
            value[f"{prefix}{name}_false_positives"] = _rate(found[name][by], len(sets[name]))
    for name, texts in sets.items():
        if name.startswith(("chinese_", "do_not_answer_", "latent", "exploits")) and name not in _JUDGED:
            value[f"{name}_recall"] = _rate(found[name]["all"], len(texts))
        if name.startswith("passages"):
            value[f"{name}_false_positives"] = _rate(found[name]["all"], len(texts))
    return value | {"benign": number, "hard": len(sets["benign_hard"])}


def _rate(part: int, whole: int) -> float:
    return rounded(100 * part / whole)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}"

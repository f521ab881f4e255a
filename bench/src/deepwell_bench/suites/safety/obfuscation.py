"""Converters of pyrit and garak, one by one, on prompts that are caught as they stand: how many are still caught."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.safety.guard import Guard
from deepwell.safety.normalise import normalised
from deepwell.safety.policy import Policy
from deepwell.safety.terms.pull import lists_folder
from deepwell.settings import Settings
from deepwell_bench.workloads.safety.frozen import test_sets
from deepwell_bench.workloads.safety.obfuscation.converters import CONVERTERS, LEFT_OUT
from deepwell_bench.workloads.safety.prompts import Prompt

__all__ = ["bench_obfuscation"]

_SETS: Final = {
    "jailbreak": ("jailbreak",),
    "injection": ("injection",),
    "harmful": ("advbench", "harmbench"),
}
_ATTACKS: Final = frozenset(("injection", "jailbreak", "harmful"))
_EACH: Final = 60
_LONGEST: Final = 4000
_SEED: Final = 17


def bench_obfuscation(report: Report, *, each: int = _EACH) -> dict[str, Any]:
    """Returns the share still caught: the mean over converters, and the least.

    A prompt is caught if a finding of the category injection, jailbreak or harmful blocks it under the policy `strict`.

    Args:
        each: prompts of each set, drawn by chance among those that are caught as they stand.
    """
    guard = Guard.of(Policy.load("strict"), lists_folder(Settings.load().models_dir))
    rng = random.Random(_SEED)  # noqa: S311
    prompts = _caught_plain(report, guard, rng, each)
    rows: list[tuple[str, ...]] = []
    shares: dict[str, float] = {}
    for name, convert in CONVERTERS.items():
        caught: Counter[str] = Counter()
        views: Counter[str] = Counter()
        for kind, one in prompts:
            view = _caught(guard, convert(one.text, rng))
            caught[kind] += view is not None
            views[view or ""] += view is not None
        shares[name] = sum(caught.values()) / len(prompts)
        total = Counter(kind for kind, _ in prompts)
        rows.append(
            (
                name,
                _percent(shares[name]),
                *(_percent(caught[kind] / total[kind]) if total[kind] else "-" for kind in _SETS),
                ", ".join(view for view, _ in views.most_common(2)),
            )
        )
    report.table(
        f"still caught, of {len(prompts)} prompts", ("converter", "all", *_SETS, "in the reading"), rows
    )
    for reason in LEFT_OUT:
        report.note(f"not run: {reason}")
    least = min(shares, key=lambda name: shares[name])
    return {
        "mean_percent": rounded(100 * sum(shares.values()) / len(shares)),
        "least_percent": rounded(100 * shares[least]),
        "least": least,
        "converters": len(shares),
        "prompts": len(prompts),
        "detectors": [one.name for one in guard.detectors["input"]],
    }


def _caught_plain(report: Report, guard: Guard, rng: random.Random, each: int) -> list[tuple[str, Prompt]]:
    sets = test_sets()
    chosen: list[tuple[str, Prompt]] = []
    for kind, names in _SETS.items():
        known = [
            one for name in names for one in sets[name] if one.language == "en" and len(one.text) <= _LONGEST
        ]
        found = [one for one in known if _caught(guard, one.text) is not None]
        report.note(
            f"{kind}: {len(found)} of {len(known)} English prompts of up to {_LONGEST} characters are caught as they stand"
        )
        chosen += [(kind, one) for one in rng.sample(found, min(each, len(found)))]
    return chosen


def _caught(guard: Guard, text: str) -> str | None:
    """Returns the reading in which an attack was found that blocks the text; None if none was."""
    findings = [
        one
        for detector in guard.detectors["input"]
        for one in detector.scan(normalised(text))
        if one.category in _ATTACKS
    ]
    for finding, action in guard.decide(findings, "input").findings:
        if action == "block":
            return finding.view
    return None


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

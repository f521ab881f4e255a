"""`deepwell bench rules`: agreement of clingo with a second evaluator, and reasons for each decision of the examples."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepwell.agents.rules.cases import run_cases
from deepwell.agents.rules.reference.agreement import compare
from deepwell.agents.rules.reference.generate import random_program
from deepwell.agents.rules.ruleset import RuleSet
from deepwell.cli.bench.report import Report, rounded

__all__ = ["bench_rules"]

_SHOWN = 5


def bench_rules(report: Report, examples: Sequence[Path], programs: int = 1000) -> dict[str, Any]:
    """Returns how many random programs both evaluators agree on, and how many decisions of rule sets are explained.

    They agree on a program if clingo's choice of facts is among the cheapest of all choices, and on ties, on all atoms that
    follow, on a derivation of each from atoms before it, and on the constraints that each denied fact would break.

    Args:
        examples: rule sets with cases.
        programs: number of random programs, of the seeds 0, 1, ...
    """
    begun, faults, counts = time.monotonic(), list[str](), Counter[str]()
    for seed in range(programs):
        made = random_program(seed)
        found = compare(made.source, made.candidates)
        if found.fault:
            faults.append(f"seed {seed}: {found.fault}")
        counts["atoms"] += found.atoms
        counts["candidates"] += len(made.candidates)
        counts["conflicts"] += found.conflict
        counts["ties"] += found.tied
    seconds = time.monotonic() - begun
    for fault in faults[:_SHOWN]:
        report.note(fault)
    cases = _cases(report, examples)
    return {
        "programs": programs,
        "agree": programs - len(faults),
        "derived_atoms": counts["atoms"],
        "candidates": counts["candidates"],
        "conflicts": counts["conflicts"],
        "ties": counts["ties"],
        "seconds_a_program": rounded(seconds / max(programs, 1), 3),
        **cases,
    }


def _cases(report: Report, examples: Sequence[Path]) -> dict[str, int]:
    """Returns the numbers of cases, of parts of decisions (outcomes, denials, derived facts), and of parts without a reason."""
    counts, rows = Counter[str](), list[tuple[str, int, int, int]]()
    for path in examples:
        with RuleSet.load(path) as rules:
            results = run_cases(rules)
        parts = sum(1 + len(one.decision.denied) + len(one.decision.derived) for one in results)
        failed = sum(bool(one.differences) for one in results)
        unexplained = sum(len(one.unexplained) for one in results)
        rows.append((rules.name, len(results), parts, unexplained))
        counts.update(cases=len(results), parts=parts, cases_failed=failed, parts_unexplained=unexplained)
    report.table("Examples", ("rule set", "cases", "parts of decisions", "unexplained"), rows)
    return {key: counts[key] for key in ("cases", "cases_failed", "parts", "parts_unexplained")}

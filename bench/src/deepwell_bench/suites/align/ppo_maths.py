"""The maths of PPO: numbers computed by hand, and a bandit that PPO and GRPO must learn on a tiny model."""

from __future__ import annotations

import tempfile
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.suites.align.program import last_line
from deepwell_bench.suites.tuning.runs import need_torch

__all__ = ["bench_ppo_maths"]


def bench_ppo_maths(report: Report, *, iterations: int = 60) -> dict[str, Any]:
    """Returns the error of the advantages, ratio and clipping of first minibatches, and the bandit's reward.

    Raises:
        PeerError: this environment has no torch, or the program failed.
    """
    need_torch("ppo-maths")
    with tempfile.TemporaryDirectory() as folder:
        value = last_line("deepwell_bench.workers.tuning.reinforcement", folder, str(iterations))
    curves = value.pop("curves")
    report.table(
        "Share of the answers with token 7, by iteration",
        ("iteration", *curves),
        [
            (number + 1, *(f"{one[number]:.2f}" for one in curves.values()))
            for number in range(0, iterations, max(1, iterations // 10))
        ],
    )
    return value

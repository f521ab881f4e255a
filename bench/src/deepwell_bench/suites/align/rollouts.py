"""Rollouts of a policy: the engine with an adapter beside `transformers.generate`, in turns."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report
from deepwell_bench.suites.align.program import last_line
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workloads.tuning.labelled import bbc_news

__all__ = ["bench_rollouts"]

WORDS: Final = 24


def bench_rollouts(report: Report, model: Path, *, rounds: int = 3, batch: int = 16) -> dict[str, Any]:
    """Returns tokens a second of both on beginnings of news articles, and the median ratio of the rounds.

    Raises:
        PeerError: this environment has no torch, or the program failed.
    """
    need_torch("rollouts")
    texts = [" ".join(one.text.split()[:WORDS]) for one in bbc_news().pool[:batch]]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
        value = last_line("deepwell_bench.workers.tuning.rollouts", str(model), folder, str(rounds))
    rates = value.pop("rates")
    report.table(
        f"Tokens a second of {batch} sampled answers of {value['new_tokens']} tokens, by round",
        ("", *(str(number + 1) for number in range(rounds))),
        [(name, *map(str, numbers)) for name, numbers in rates.items()],
    )
    return value

"""Session adapters: facts that were told 16,000 tokens ago, asked for with an adapter alone and without it.

The history is in no prompt. What is left is the question, and an adapter that was trained on what the conversation lost, as the
server trains it: on statements chosen by rules, and questions about them. The sessions are frozen by hash.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.text import Codec
from deepwell.knowledge.context.rehearsal import rehearsals
from deepwell.llm import LLM
from deepwell.tuning.train.config import session_config
from deepwell_bench.harness.proportions import mcnemar
from deepwell_bench.suites.tuning.runs import TrainingRun, need_torch, train
from deepwell_bench.workloads.context.facts import Split
from deepwell_bench.workloads.context.judging import holds
from deepwell_bench.workloads.context.sessions import SESSIONS, Session, session

__all__ = ["bench_session_adapter"]

_ANSWER_TOKENS: Final = 48
_CONTEXT: Final = 2048
_RESAMPLES: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Asked:
    """One session: what was right without the adapter and with it, and what the adapter cost."""

    without: tuple[bool, ...]
    adapted: tuple[bool, ...]
    seconds: float
    run: TrainingRun
    adapter_bytes: int

    @property
    def gain(self) -> float:
        return fmean(self.adapted) - fmean(self.without)


def bench_session_adapter(
    report: Report,
    model: Path,
    *,
    sessions: int = SESSIONS,
    between: int = 16_000,
    split: Split = "evaluation",
) -> dict[str, Any]:
    """Trains an adapter for each session, and asks for its facts with it and without.

    Args:
        sessions: number of sessions, from the first.
        between: tokens of other text between the facts and the questions.
        split: `development`, on which choices are made, or the frozen evaluation.

    Raises:
        PeerError: this environment has no torch, or a run failed.
    """
    need_torch("context-session-adapter")
    codec = Codec.load(model)
    found: list[_Asked] = []
    with tempfile.TemporaryDirectory() as folder, LLM(model, context=_CONTEXT) as llm:
        for number in range(sessions):
            one = session(number, split, between, lambda text: len(codec.encode_text(text)))
            found.append(_asked(llm, model, one, Path(folder) / str(number)))
            last = found[-1]
            report.note(
                f"session {number}: {sum(last.without)} of {len(last.without)} without, {sum(last.adapted)} with the adapter, "
                f"{last.seconds:.0f} s"
            )
    value = _figures(found, between)
    _show(report, found, value)
    return value


def _asked(llm: LLM, model: Path, one: Session, folder: Path) -> _Asked:
    folder.mkdir()
    began = time.perf_counter()
    data = folder / "turns.jsonl"
    lines = map(json.dumps, rehearsals([*one.told, *one.later]))
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = train(session_config(str(model), data, folder), folder)
    seconds = time.perf_counter() - began
    llm.load_adapter("session", run.artefact)
    asked = [[{"role": "user", "content": question.text}] for question in one.questions]
    wanted = [question.answers[0] for question in one.questions]
    right: list[tuple[bool, ...]] = []
    for adapter in ("", "session"):
        answers = llm.chat(asked, adapter=adapter, temperature=0, max_tokens=_ANSWER_TOKENS)
        right.append(tuple(holds(answer.text, value) for answer, value in zip(answers, wanted, strict=True)))
    llm.unload_adapter("session")
    size = sum(path.stat().st_size for path in run.artefact.iterdir())
    return _Asked(right[0], right[1], seconds, run, size)


def _figures(found: Sequence[_Asked], between: int) -> dict[str, Any]:
    without = [one for session in found for one in session.without]
    adapted = [one for session in found for one in session.adapted]
    gained = sum(b and not a for a, b in zip(without, adapted, strict=True))
    lost = sum(a and not b for a, b in zip(without, adapted, strict=True))
    low, high = _interval([one.gain for one in found])
    return {
        "sessions": len(found),
        "questions": len(without),
        "tokens_ago": between,
        "epochs": 3,
        "recall_without": rounded(100 * fmean(without)),
        "recall": rounded(100 * fmean(adapted)),
        "gain_low": rounded(100 * low),
        "gain_high": rounded(100 * high),
        "mcnemar_p": rounded(mcnemar(gained, lost)),
        "trained_tokens": round(median(one.run.plan["tokens"] for one in found)),
        "seconds": rounded(median(one.seconds for one in found)),
        "adapter_mb": rounded(median(one.adapter_bytes for one in found) / 1e6),
        "training_peak_mb": max(one.run.peak_bytes for one in found) >> 20,
    }


def _interval(gains: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the mean gain. Sessions are drawn whole: their questions share an adapter."""
    sample = np.asarray(gains)
    drawn = np.random.default_rng(0).integers(0, len(sample), (_RESAMPLES, len(sample)))
    low, high = np.quantile(sample[drawn].mean(1), (0.025, 0.975))
    return float(low), float(high)


def _show(report: Report, found: Sequence[_Asked], value: dict[str, Any]) -> None:
    rows = [
        [
            number,
            f"{sum(one.without)} of {len(one.without)}",
            f"{sum(one.adapted)} of {len(one.adapted)}",
            one.run.plan["tokens"],
            one.run.plan["steps"],
            f"{one.seconds:.1f}",
        ]
        for number, one in enumerate(found)
    ]
    report.table(
        f"Facts told {value['tokens_ago']:,} tokens ago, with the history in no prompt",
        ["session", "without", "adapter alone", "tokens", "steps", "seconds"],
        rows,
    )

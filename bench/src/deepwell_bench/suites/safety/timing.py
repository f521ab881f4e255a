"""Time of layer 1, which reads every request: all detectors of the policy cn-public on texts of 2 kB, on one core."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.safety.guard import Guard
from deepwell.safety.normalise import normalised
from deepwell.safety.policy import Policy
from deepwell.safety.terms.pull import lists_folder
from deepwell.settings import Settings
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages
from deepwell_bench.workloads.safety.chinese.sentences import sentences
from deepwell_bench.workloads.safety.manuals import manual_paragraphs

__all__ = ["bench_time", "texts_of"]

_BYTES: Final = 2048
_EACH: Final = 100
_ROUNDS: Final = 5
_SEED: Final = 17


def bench_time(report: Report) -> dict[str, Any]:
    """Returns the milliseconds of reading one text: the median of all, and that which 99 of 100 do not exceed.

    Every text is read five times, and its median counts: the machine's own pauses are no property of a text.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        return _measured(report)
    finally:
        os.sched_setaffinity(0, cores)


def texts_of() -> dict[str, list[str]]:
    """Returns ordinary texts of 2 kB in UTF-8 by source: help and manuals in both languages, news and laws."""
    rng = random.Random(_SEED)  # noqa: S311
    passages = help_passages()
    manuals = manual_paragraphs()
    sources: dict[str, Sequence[str]] = {
        "help, English": [one.english for one in passages],
        "help, Chinese": [one.chinese for one in passages],
        "manuals, English": [text for page, text in manuals if page.startswith("manpages/")],
        "manuals, Chinese": [text for page, text in manuals if page.startswith("manpages-zh/")],
        "news": [one.text for one in sentences() if one.source == "news"],
        "laws": [one.text for one in sentences() if one.source == "law"],
    }
    return {name: list(_cut(texts, rng)) for name, texts in sources.items()}


def _cut(texts: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Yields runs of texts, each of 2 kB."""
    for _ in range(_EACH):
        at = rng.randrange(len(texts))
        data = b""
        while len(data) < _BYTES:
            data += texts[at % len(texts)].encode() + b"\n"
            at += 1
        yield data[:_BYTES].decode("utf-8", "ignore")


def _measured(report: Report) -> dict[str, Any]:
    guard = Guard.of(Policy.load("cn-public"), lists_folder(Settings.load().models_dir))
    detectors = guard.detectors["input"]
    for name in guard.missing.get("input", ()):
        report.note(f"{name} is missing, and not measured")
    by_source: dict[str, list[float]] = {}
    parts: dict[str, list[float]] = {"normalise": [], **{one.name: [] for one in detectors}}
    for source, texts in texts_of().items():
        for text in texts:
            guard.check(text, "input")
        gc.collect()
        gc.disable()
        try:
            for text in texts:
                by_source.setdefault(source, []).append(_median(lambda text=text: guard.check(text, "input")))
                views = normalised(text)
                parts["normalise"].append(_median(lambda text=text: normalised(text)))
                for one in detectors:
                    parts[one.name].append(_median(lambda one=one, views=views: one.scan(views)))
        finally:
            gc.enable()
    report.table(
        f"one text of 2 kB, ms: {', '.join(one.name for one in detectors)}",
        ("source", "p50", "p99"),
        [
            (source, f"{percentile(ms, 0.5):.3f}", f"{percentile(ms, 0.99):.3f}")
            for source, ms in by_source.items()
        ],
    )
    report.table(
        "by part, ms",
        ("part", "p50", "p99"),
        [(part, f"{percentile(ms, 0.5):.3f}", f"{percentile(ms, 0.99):.3f}") for part, ms in parts.items()],
    )
    everything = [ms for found in by_source.values() for ms in found]
    return {
        "p50_ms": rounded(percentile(everything, 0.5), 3),
        "p99_ms": rounded(percentile(everything, 0.99), 3),
        "texts": len(everything),
        "detectors": [one.name for one in detectors],
        "missing": list(guard.missing.get("input", ())),
        **{f"{part.replace(' ', '_')}_p50_ms": rounded(percentile(ms, 0.5), 3) for part, ms in parts.items()},
    }


def _median(read: Any) -> float:
    """Returns the median of five runs, in milliseconds."""
    found: list[float] = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        read()
        found.append(1e3 * (time.perf_counter() - begun))
    return sorted(found)[_ROUNDS // 2]

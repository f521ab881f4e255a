"""Verbs of `deepwell bench` on safety: prompts that come in, and answers that leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = [
    "attacks",
    "endings",
    "moderation",
    "policies",
    "safety_failures",
    "safety_first_token",
    "safety_obfuscation",
    "safety_peers",
    "safety_terms",
    "safety_time",
    "streaming",
]

Every = Annotated[int, typer.Option(min=1, help="Take every n-th item alone.")]


def attacks(row: Row = None, json: Json = False) -> None:
    """Measures recall on frozen jailbreaks, injections and harmful requests, and false positives on benign texts."""
    from deepwell_bench.suites.safety.attacks import bench_attacks

    measure("safety_attacks", row, json, bench_attacks)


def safety_terms(
    every: Every = 1,
    fit: Annotated[
        Path | None,
        typer.Option(
            help="Write the tiers that the development half of sentences gives to this file, and measure nothing.",
            metavar="FILE",
        ),
    ] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures lists of Chinese terms: inserted variants that are found, and ordinary sentences that are blocked."""
    from deepwell_bench.suites.safety.terms import bench_terms, fit_tiers

    if fit is not None:
        path = fit
        measure("safety_terms_fit", None, json, lambda report: fit_tiers(report, path))
        return
    measure("safety_terms", row, json, lambda report: bench_terms(report, every=every))


def safety_time(row: Row = None, json: Json = False) -> None:
    """Measures how long all detectors of requests take to read texts of 2 kB, on one core."""
    from deepwell_bench.suites.safety.timing import bench_time

    measure("safety_time", row, json, bench_time)


def safety_obfuscation(
    each: Annotated[int, typer.Option(min=1, help="Number of prompts of each set.")] = 60,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures how many attacks are still caught in the disguise of each converter of pyrit and garak."""
    from deepwell_bench.suites.safety.obfuscation import bench_obfuscation

    measure("safety_obfuscation", row, json, lambda report: bench_obfuscation(report, each=each))


def safety_peers(row: Row = None, json: Json = False) -> None:
    """Measures Presidio, NeMo Guardrails and SecureVector Guardian beside the guard: recall, false positives, time."""
    from deepwell_bench.suites.safety.peers import bench_safety_peers

    measure("safety_peers", row, json, bench_safety_peers)


def safety_failures(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Lets every part of the guard fail in every layer, and counts the requests that end as the policy declares."""
    from deepwell_bench.suites.safety.failures import bench_failures

    measure("safety_failures", row, json, lambda report: bench_failures(report, model_path(model)))


def endings(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Ends answers within keys and numbers in every way, through every route, and counts what can be recovered of them."""
    from deepwell_bench.suites.safety.endings import bench_endings

    measure("endings", row, json, lambda report: bench_endings(report, model_path(model)))


def policies(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Tries every route, verb and console page and some agents under every policy that ships."""
    from deepwell_bench.suites.safety.policies import bench_policies

    measure("policies", row, json, lambda report: bench_policies(report, model_path(model)))


def safety_first_token(
    pairs: Annotated[
        int, typer.Option(min=5, help="Number of pairs of requests, for each length of text.")
    ] = 100,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures what the guard adds to the time to the first token, against the same server without a guard."""
    from deepwell_bench.suites.safety.first_token import bench_first_token

    measure(
        "safety_first_token",
        row,
        json,
        lambda report: bench_first_token(report, model_path(model), pairs=pairs),
    )


def moderation(row: Row = None, json: Json = False) -> None:
    """Judges the moderation of answers by people's scores, one category of harm after another left out of training."""
    from deepwell_bench.suites.safety.moderation import bench_moderation

    measure("moderation", row, json, bench_moderation)


def streaming(row: Row = None, json: Json = False) -> None:
    """Splits 500 texts at every place of a forbidden term, and times the scanner of streams."""
    from deepwell_bench.suites.safety.streaming import bench_streaming

    measure("streaming", row, json, bench_streaming)

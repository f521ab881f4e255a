"""Verbs of `deepwell bench` on alignment, feedback and promotion."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = [
    "alignment_losses",
    "feedback_sdk",
    "gates_refuse",
    "improve_loop",
    "kto_votes",
    "ledger",
    "ppo_maths",
    "ppo_safety",
    "ppo_sentiment",
    "rollout_kills",
    "rollouts",
    "safety_layers",
]


def alignment_losses(row: Row = None, json: Json = False) -> None:
    """Measures the losses and gradients of DPO and KTO beside trl's, on the same model, adapter and tokens."""
    from deepwell_bench.suites.align.alignment_losses import bench_alignment_losses

    measure("alignment_losses", row, json, bench_alignment_losses)


def kto_votes(
    model: Model = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each held-out prompt.")] = 2,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures what KTO learns from 300 simulated votes with 10 % noise, by three rules that it does not know."""
    from deepwell_bench.suites.align.kto_votes import bench_kto_votes

    measure(
        "kto_votes", row, json, lambda report: bench_kto_votes(report, model_path(model), samples=samples)
    )


def ppo_maths(
    iterations: Annotated[int, typer.Option(min=10, help="Iterations of the bandit.")] = 60,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures the advantages of PPO beside a computation by hand, and a bandit that PPO and GRPO must learn."""
    from deepwell_bench.suites.align.ppo_maths import bench_ppo_maths

    measure("ppo_maths", row, json, lambda report: bench_ppo_maths(report, iterations=iterations))


def rollouts(
    model: Model = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; the median counts.")] = 3,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures rollouts of the engine with an adapter beside `transformers.generate`, 16 answers at a time."""
    from deepwell_bench.suites.align.rollouts import bench_rollouts

    measure("rollouts", row, json, lambda report: bench_rollouts(report, model_path(model), rounds=rounds))


def ppo_sentiment(
    model: Model = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prompts, the sampling and the adapter.")] = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures what 20 iterations of PPO change in the sentiment of continued film reviews."""
    from deepwell_bench.suites.align.ppo_sentiment import bench_ppo_sentiment

    measure(
        "ppo_sentiment", row, json, lambda report: bench_ppo_sentiment(report, model_path(model), seed=seed)
    )


def ppo_safety(
    model: Model = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds; of each figure the worst counts.")] = 3,
    first: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures what PPO changes in answers to requests for harm, and in those to harmless requests."""
    from deepwell_bench.suites.align.ppo_safety import bench_ppo_safety

    path = model_path(model)
    measure("ppo_safety", row, json, lambda report: bench_ppo_safety(report, path, seeds=seeds, first=first))


def safety_layers(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Measures attacks bare and behind one, two and three layers of safety, and what the full stack answers and refuses."""
    from deepwell_bench.suites.align.safety_layers import bench_safety_layers

    path = model_path(model)
    measure("safety_layers", row, json, lambda report: bench_safety_layers(report, path))


def feedback_sdk(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Sends feedback through the official SDK to both stores: fields, ties to answers, limits, curation, erasure."""
    from deepwell_bench.suites.align.feedback import bench_feedback_sdk

    path = model_path(model)
    measure("feedback_sdk", row, json, lambda report: bench_feedback_sdk(report, path))


def ledger(row: Row = None, json: Json = False) -> None:
    """Reads the story of an alias with `deepwell models log`, and flips a bit of every byte of it."""
    from deepwell_bench.suites.align.ledger import bench_ledger

    measure("ledger", row, json, bench_ledger)


def rollout_kills(row: Row = None, json: Json = False) -> None:
    """Kills a process that rolls versions out, and lets the votes of users end canaries."""
    from deepwell_bench.suites.align.rollout_kills import bench_rollout_kills

    measure("rollout_kills", row, json, bench_rollout_kills)


def gates_refuse(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Shows each gate refusing: a lobotomised, a reward-hacked, a slow, an unsafe and a spammed adapter, beside a good one."""
    from deepwell_bench.suites.align.gates_refuse import bench_gates_refuse

    path = model_path(model)
    measure("gates_refuse", row, json, lambda report: bench_gates_refuse(report, path))


def improve_loop(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Runs the whole loop: votes through the SDK, a promoted adapter that serves, and a spammed round that is refused."""
    from deepwell_bench.suites.align.improve_loop import bench_improve_loop

    path = model_path(model)
    measure("improve_loop", row, json, lambda report: bench_improve_loop(report, path))

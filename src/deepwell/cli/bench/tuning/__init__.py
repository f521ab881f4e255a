"""Verbs of `deepwell bench` on training, its data, its measurements and its API."""

from __future__ import annotations

from deepwell.cli.bench.tuning.api import fine_tuning_sdk, fine_tuning_served
from deepwell.cli.bench.tuning.data import active_learning, back_translation, near_duplicates
from deepwell.cli.bench.tuning.evaluate import evaluate_parity, served_precision
from deepwell.cli.bench.tuning.speed import tuning_parallel, tuning_speed
from deepwell.cli.bench.tuning.train import lora, prune_curve, quantisation, tune_readme, tuning_exactness

__all__ = [
    "active_learning",
    "back_translation",
    "evaluate_parity",
    "fine_tuning_sdk",
    "fine_tuning_served",
    "lora",
    "near_duplicates",
    "prune_curve",
    "quantisation",
    "served_precision",
    "tune_readme",
    "tuning_exactness",
    "tuning_parallel",
    "tuning_speed",
]

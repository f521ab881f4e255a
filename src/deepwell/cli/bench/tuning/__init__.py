"""Verbs of `deepwell bench` on training, its data, its measurements and its API."""

from __future__ import annotations

from deepwell.cli.bench.tuning.api import fine_tuning_sdk, fine_tuning_served
from deepwell.cli.bench.tuning.conversion import convert_mla, convert_served
from deepwell.cli.bench.tuning.data import active_learning, back_translation, near_duplicates
from deepwell.cli.bench.tuning.evaluate import evaluate_parity, served_precision
from deepwell.cli.bench.tuning.experts import convert_moe
from deepwell.cli.bench.tuning.prompts import prompts_optimise
from deepwell.cli.bench.tuning.pruning import prune_curve, prune_reload
from deepwell.cli.bench.tuning.quantising import quantisation
from deepwell.cli.bench.tuning.searching import compress_search
from deepwell.cli.bench.tuning.speed import tuning_parallel, tuning_speed
from deepwell.cli.bench.tuning.train import lora, tune_readme, tuning_exactness

__all__ = [
    "active_learning",
    "back_translation",
    "compress_search",
    "convert_mla",
    "convert_moe",
    "convert_served",
    "evaluate_parity",
    "fine_tuning_sdk",
    "fine_tuning_served",
    "lora",
    "near_duplicates",
    "prompts_optimise",
    "prune_curve",
    "prune_reload",
    "quantisation",
    "served_precision",
    "tune_readme",
    "tuning_exactness",
    "tuning_parallel",
    "tuning_speed",
]

"""Verbs of `deepwell bench` on training, its data, its measurements and its API."""

from __future__ import annotations

from deepwell_bench.cli.tuning.api import fine_tuning_sdk, fine_tuning_served
from deepwell_bench.cli.tuning.conversion import convert_mla, convert_served
from deepwell_bench.cli.tuning.data import active_learning, back_translation, near_duplicates
from deepwell_bench.cli.tuning.evaluate import evaluate_parity, served_precision
from deepwell_bench.cli.tuning.experts import convert_moe
from deepwell_bench.cli.tuning.prompts import prompts_optimise
from deepwell_bench.cli.tuning.pruning import prune_curve, prune_reload
from deepwell_bench.cli.tuning.quantising import quantisation
from deepwell_bench.cli.tuning.searching import compress_search
from deepwell_bench.cli.tuning.speed import tuning_parallel, tuning_speed
from deepwell_bench.cli.tuning.train import lora, tune_readme, tuning_exactness

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

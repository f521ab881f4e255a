"""`run_dpo` and `run_kto`: runs by preferences, from their configuration to an adapter that serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepwell.tuning.align.config import DpoConfig, KtoConfig
from deepwell.tuning.align.dataset import load_judged, load_pairs
from deepwell.tuning.align.loop import DpoLoop, KtoLoop
from deepwell.tuning.train.run import Plan, plan_run, run_planned

__all__ = ["plan_dpo", "plan_kto", "run_dpo", "run_kto"]

Events = Callable[[dict[str, Any]], None]


def plan_dpo(config: DpoConfig) -> Plan:
    """Plans a run of DPO; see `plan_run`."""
    return plan_run(config, load_pairs)


def plan_kto(config: KtoConfig) -> Plan:
    """Plans a run of KTO; see `plan_run`."""
    return plan_run(config, load_judged)


def run_dpo(
    config: DpoConfig, folder: Path, *, on_event: Events, stop: Callable[[], bool] = lambda: False
) -> Path:
    """Trains an adapter by pairs of answers; see `run_planned`."""
    return run_planned(config, folder, plan_dpo, DpoLoop, on_event=on_event, stop=stop)


def run_kto(
    config: KtoConfig, folder: Path, *, on_event: Events, stop: Callable[[], bool] = lambda: False
) -> Path:
    """Trains an adapter by judged answers; see `run_planned`."""
    return run_planned(config, folder, plan_kto, KtoLoop, on_event=on_event, stop=stop)

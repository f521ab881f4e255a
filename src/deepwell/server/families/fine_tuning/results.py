"""The result file of a job: the metrics of its steps, as CSV with OpenAI's columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["METRICS_NAME", "recorded", "results_csv"]

METRICS_NAME = "metrics.jsonl"

_COLUMNS: tuple[str, ...] = (
    "step",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
)
_REWARD_COLUMNS: tuple[str, ...] = (
    "step",
    "train_mean_reward",
    "valid_mean_reward",
    "kl",
    "entropy",
    "ended",
)


def results_csv(path: Path, *, rewards: bool = False) -> bytes:
    """Returns the metrics of `metrics.jsonl` as CSV, a row for each step; the latest of steps that were computed twice.

    Args:
        rewards: whether the training was a reinforcement.
    """
    rows: dict[int, dict[str, Any]] = {}
    take = _take_rewards if rewards else _take
    for found in recorded(path):
        take(rows.setdefault(found["step"], {"step": found["step"]}), found)
    text = io.StringIO()
    writer = csv.DictWriter(text, _REWARD_COLUMNS if rewards else _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows) if len(rows[step]) > 1)
    return text.getvalue().encode()


def recorded(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the steps and validations of `metrics.jsonl`."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                found: Any = msgspec.json.decode(line)
            except msgspec.DecodeError:  # cut by a kill
                continue
            if (
                isinstance(found, dict)
                and isinstance(found.get("step"), int)
                and found.get("event") in ("step", "validation")
            ):
                yield found


def _take(row: dict[str, Any], found: dict[str, Any]) -> None:
    loss, accuracy = found.get("loss"), found.get("token_accuracy")
    if found["event"] == "step":  # of DPO: the share of pairs in the right order
        row |= {"train_loss": loss, "train_accuracy": found.get("accuracy") if accuracy is None else accuracy}
    else:
        row |= {"valid_loss": loss, "valid_mean_token_accuracy": accuracy}


def _take_rewards(row: dict[str, Any], found: dict[str, Any]) -> None:
    if found["event"] == "step":
        row["train_mean_reward"] = found.get("reward")
        row |= {name: found.get(name) for name in ("kl", "entropy", "ended")}
    else:
        row["valid_mean_reward"] = found.get("reward")

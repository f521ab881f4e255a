"""The configuration of a run, which the training process reads from its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deepwell.dialogue.model import ServedModel
from deepwell.server.families.fine_tuning.data import tokens_of
from deepwell.server.families.fine_tuning.described import algorithm_of
from deepwell.server.families.fine_tuning.reinforced import Judges, reinforcement_config
from deepwell.storage.tuning.records import StoredFineTuning
from deepwell.tuning.align.config import DpoConfig
from deepwell.tuning.train.config import automatic_rate

__all__ = ["CONFIG_NAME", "training_threads", "write_config"]

CONFIG_NAME = "config.json"

_EPOCHS = 3  # of "auto", as OpenAI has it for files of some hundred lines
_BATCH_TOKENS = 4096  # the most of "auto"
_LEAST_STEPS = 20  # of an epoch of "auto", where the file has so many conversations


def training_threads() -> int:
    """Returns the threads of a training: half of the cores, so that serving goes on beside it."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def write_config(
    folder: Path,
    job: StoredFineTuning,
    model: ServedModel,
    files: tuple[Path, Path | None],
    judges: Judges | None = None,
) -> Mapping[str, Any]:
    """Writes `config.json` into the folder of a run, whole or not at all, and returns it. Blocks.

    Args:
        files: of the training, and of its validation if there is one.
        judges: models that the grader of a reinforcement asks.
    """
    if judges is None:
        config = _config(folder, job, model, *files)
    else:
        config = reinforcement_config(folder, job, model, files, judges)
        config["train"]["threads"] = training_threads()
    part = folder / f".{CONFIG_NAME}.part"
    with part.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(config)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / CONFIG_NAME)
    return config


def _config(
    folder: Path, job: StoredFineTuning, model: ServedModel, training: Path, validation: Path | None
) -> dict[str, Any]:
    """Returns the configuration of supervised tuning or of DPO."""
    chosen: dict[str, Any] = msgspec.json.decode(job.hyperparameters)
    options: dict[str, Any] = msgspec.json.decode(job.options)
    algorithm = algorithm_of(job)
    count, mean_tokens = tokens_of(training, model.codec, algorithm)
    if isinstance(chosen["batch_size"], int):
        batch_tokens = chosen["batch_size"] * mean_tokens
    else:
        batch_tokens = min(_BATCH_TOKENS, max(mean_tokens, count * mean_tokens // _LEAST_STEPS))
    multiplier = chosen["learning_rate_multiplier"]
    rate = automatic_rate(model.capabilities.hidden_size, "lora")
    if algorithm == "dpo":
        rate *= DpoConfig.rate_factor
    path = model.codec.path
    config: dict[str, Any] = {
        "model": model.name if path is None else str(path),
        "data": [str(training)],
        "format": "auto",
        "validation": 0 if validation is None else [str(validation)],
        "output": str(folder),
        "method": "lora",
        "lora": options.get("lora", {}),
        "train": {
            "epochs": chosen["n_epochs"] if isinstance(chosen["n_epochs"], int) else _EPOCHS,
            "batch_tokens": min(max(batch_tokens, 16), 1 << 24),
            "learning_rate": min(rate * (1.0 if multiplier == "auto" else multiplier), 1.0),
            **options.get("train", {}),
            "seed": job.seed,
            "threads": training_threads(),
        },
    }
    if algorithm == "dpo":
        beta = chosen.get("beta", "auto")
        config["dpo"] = {} if beta == "auto" else {"beta": beta}
    return config

"""Candidates that gates must refuse, and one that they must not: adapters trained, or written from another one's weights."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.engine.weights.adapters import CONFIG_NAME, WEIGHTS_NAME, Linear
from deepwell.fleet.improve.weights import write_votes
from deepwell.tuning.align.votes import Vote
from deepwell.tuning.align.worker import command
from deepwell_bench.harness.environments import PeerError

__all__ = ["scaled", "trained_by_votes", "widened"]

_PREFIX: Final = "base_model.model."


def trained_by_votes(
    model: Path, votes: Sequence[Vote], folder: Path, settings: Mapping[str, Any], judged: Sequence[Path] = ()
) -> Path:
    """Trains an adapter by KTO, and returns its folder.

    Args:
        judged: files of further judged answers.

    Raises:
        PeerError: the training failed.
    """
    folder.mkdir(parents=True)
    write_votes(folder / "votes.jsonl", votes)
    config = {
        **settings,
        "model": str(model),
        "data": [str(one) for one in (folder / "votes.jsonl", *judged)],
        "validation": 0,
        "output": str(folder),
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = subprocess.run(command("kto", str(folder)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"the training ended with {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
    return folder / json.loads(done.stdout.splitlines()[-1])["adapter"]


def scaled(adapter: Path, folder: Path, factor: float) -> Path:
    """Writes an adapter that moves the model `factor` times as far."""
    tensors, config = _read(adapter)
    for name in tensors:
        if ".lora_B." in name:
            tensors[name] = tensors[name] * np.float32(factor)
    return _write(folder, tensors, config)


def widened(adapter: Path, folder: Path, linears: Mapping[str, Linear], rank: int) -> Path:
    """Writes an adapter that computes the same with `rank` on every projection: all that is more is zero."""
    tensors, config = _read(adapter)
    scale = float(config["lora_alpha"]) / int(config["r"])
    found: dict[str, np.ndarray[Any, Any]] = {}
    for module, linear in linears.items():
        a = np.zeros((rank, linear.cols), np.float32)
        b = np.zeros((linear.outputs, rank), np.float32)
        narrow = tensors.get(f"{_PREFIX}{module}.lora_A.weight")
        if narrow is not None:
            a[: len(narrow)] = narrow
            b[:, : len(narrow)] = tensors[f"{_PREFIX}{module}.lora_B.weight"]
        found[f"{_PREFIX}{module}.lora_A.weight"], found[f"{_PREFIX}{module}.lora_B.weight"] = a, b
    names = sorted({module.rpartition(".")[2] for module in linears})
    return _write(folder, found, {**config, "r": rank, "lora_alpha": scale * rank, "target_modules": names})


def _read(adapter: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    from safetensors.numpy import load_file

    tensors = {name: np.asarray(one, np.float32) for name, one in load_file(adapter / WEIGHTS_NAME).items()}
    return tensors, json.loads((adapter / CONFIG_NAME).read_text(encoding="utf-8"))


def _write(folder: Path, tensors: Mapping[str, np.ndarray[Any, Any]], config: Mapping[str, Any]) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / WEIGHTS_NAME)
    (folder / CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")
    return folder

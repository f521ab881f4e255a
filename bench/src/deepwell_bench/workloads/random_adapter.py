"""A LoRA adapter of random weights, as peft would save it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepwell.engine.weights.adapters import CONFIG_NAME, WEIGHTS_NAME, Linear

__all__ = ["write_random_adapter"]


def write_random_adapter(
    directory: Path, linears: Mapping[str, Linear], *, rank: int, seed: int, alpha: float | None = None
) -> Path:
    """Writes an adapter of every projection in `linears`, as peft would save it; `alpha` is the rank unless given."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for module, linear in linears.items():
        a = rng.standard_normal((rank, linear.cols), np.float32) / np.float32(np.sqrt(linear.cols))
        b = rng.standard_normal((linear.outputs, rank), np.float32) * np.float32(0.02)
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / WEIGHTS_NAME)
    targets = sorted({module.rpartition(".")[2] for module in linears})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank if alpha is None else alpha, "bias": "none"}
    (directory / CONFIG_NAME).write_text(json.dumps(config | {"target_modules": targets}))
    return directory

"""A tiny V3 whose prediction layer is right: each token has a successor, which both the model and the layer prefer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.engine import sequences
from tests.models.builders import safetensors_bytes

from deepwell.models.formats.checkpoint import Checkpoint, open_checkpoint

__all__ = ["echo_checkpoint"]

NAME = "deepseek-v3-prediction"


def echo_checkpoint(directory: Path, *, noise: float = 0.0, seed: int = 0) -> Checkpoint:
    """The golden model with quiet layers and a head that names the successor of the token it stands on.

    Args:
        noise: of the matrix that joins embedding and state; the more of it, the fewer predictions come true.
    """
    arrays = sequences.golden(NAME)
    rng = np.random.default_rng(seed)
    vocab, hidden = arrays["weight:lm_head.weight"].shape
    embed = (rng.standard_normal((vocab, hidden)) * 0.25).astype(np.float16)
    successor = np.roll(rng.permutation(vocab), 1)
    order = np.argsort(successor)
    arrays["weight:model.embed_tokens.weight"] = embed
    arrays["weight:lm_head.weight"] = embed[order]  # row v is the token before v
    for key in arrays:
        if key.endswith(("o_proj.weight_scale_inv", "down_proj.weight_scale_inv")):
            arrays[key] = arrays[key] * np.float32(0.02)  # layers speak, and are not heard over the embedding
    join = "model.layers.2.eh_proj.weight"
    del arrays[f"fp8:{join}"], arrays[f"weight:{join}_scale_inv"]
    straight = np.concatenate([np.eye(hidden), np.zeros((hidden, hidden))], axis=1)
    straight += noise * rng.standard_normal(straight.shape) / np.sqrt(hidden)
    arrays[f"weight:{join}"] = straight.astype(np.float16)

    (directory / "config.json").write_text(str(arrays["config"]))
    names = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32", np.dtype(np.uint8): "F8_E4M3"}
    parts = {
        key.partition(":")[2]: (names[value.dtype], value.shape, value.tobytes())
        for key, value in arrays.items()
        if key.startswith(("weight:", "fp8:"))
    }
    (directory / "model.safetensors").write_bytes(safetensors_bytes(parts))
    return open_checkpoint(directory)

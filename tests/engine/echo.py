"""A tiny V3 or V4 whose prediction layer is right: each token has a successor, which both the model and the layer prefer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.engine import sequences
from tests.models.builders import safetensors_bytes

from deepwell.models.formats.checkpoint import Checkpoint, open_checkpoint

__all__ = ["echo_checkpoint"]

NAME = "deepseek-v3-prediction"
# Of a model: embedding, head, what the outputs of layers are scaled by, the join of embedding and state (one matrix or two).
_NAMES = {
    NAME: (
        "model.embed_tokens.weight",
        "lm_head.weight",
        ("o_proj.weight_scale_inv", "down_proj.weight_scale_inv"),
        ("model.layers.2.eh_proj.weight",),
    ),
    "deepseek-v4-prediction": (
        "embed.weight",
        "head.weight",
        ("wo_b.weight", "w2.weight"),
        ("mtp.0.e_proj.weight", "mtp.0.h_proj.weight"),
    ),
}


def echo_checkpoint(directory: Path, *, name: str = NAME, noise: float = 0.0, seed: int = 0) -> Checkpoint:
    """The golden model with quiet layers and a head that names the successor of the token it stands on.

    Args:
        noise: of the matrix that joins embedding and state; the more of it, the fewer predictions come true.
    """
    arrays = sequences.golden(name)
    embedding, head, outputs, joins = _NAMES[name]
    rng = np.random.default_rng(seed)
    vocab, hidden = arrays[f"weight:{head}"].shape
    embed = (rng.standard_normal((vocab, hidden)) * 0.25).astype(np.float16)
    successor = np.roll(rng.permutation(vocab), 1)
    order = np.argsort(successor)
    arrays[f"weight:{embedding}"] = embed
    arrays[f"weight:{head}"] = embed[order]  # row v is the token before v
    for key in arrays:
        if key.endswith(outputs):  # layers speak, and are not heard over the embedding
            arrays[key] = arrays[key] * arrays[key].dtype.type(0.02)
    straight = np.concatenate([np.eye(hidden), np.zeros((hidden, hidden))], axis=1)
    straight += noise * rng.standard_normal(straight.shape) / np.sqrt(hidden)
    for join, part in zip(joins, np.split(straight, len(joins), axis=1), strict=True):
        for key in (f"fp8:{join}", f"weight:{join}_scale_inv"):
            arrays.pop(key, None)
        arrays[f"weight:{join}"] = part.astype(np.float16)

    (directory / "config.json").write_text(str(arrays["config"]))
    names = {"float16": "F16", "float32": "F32", "uint8": "F8_E4M3", "int64": "I64"}
    parts = {
        key.partition(":")[2]: (names[value.dtype.name], value.shape, value.tobytes())
        for key, value in arrays.items()
        if key.startswith(("weight:", "fp8:"))
    }
    (directory / "model.safetensors").write_bytes(safetensors_bytes(parts))
    return open_checkpoint(directory)

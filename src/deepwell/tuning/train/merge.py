"""Merges an adapter into the weights of its base, in float32, and measures the logits of both. Nothing here needs torch.

The merged model is a folder of safetensors that Deepwell and transformers load. Quantised bases are dequantised: serving
quantises the merged weights again, which is one rounding more than serving the adapter apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.dialogue.text import Codec
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.weights.adapters import Shaped, adapter_updates, linears_of
from deepwell.errors import InvalidModelFile, InvalidRequest
from deepwell.models.formats.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from deepwell.models.store.export import export_safetensors
from deepwell.models.store.layout import expected_tensors, module_of
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.train.artefact import base_hashes, check_base, library_versions, write_record
from deepwell.tuning.train.examples import template_hash
from deepwell.tuning.train.served import ServedModel

__all__ = ["MAX_DIFFERENCE", "Merged", "merge_adapter", "write_model"]

MAX_DIFFERENCE: Final = 1e-3
"""Largest difference of a logit that is still rounding: the tolerance of the float32 kernels, which sum in another order.

It is measured on the reference backend. Logits of smollm2 reach 37; on one adapter merged and apart differed by 9.4e-5
there, by 9.9e-5 in transformers' float32, by 1.7e-4 on the kernels, and by 2.0e-5 in float64, where the merge alone counts.
"""
_PROBES: Final = (
    "The capital of France is Paris, and its river is the Seine.",
    "请用一句话介绍你自己。",
    "def add(a, b):\n    return a + b\n",
)


@dataclass(frozen=True, slots=True)
class Merged:
    """The result of a merge.

    Attributes:
        folder: the merged model.
        matrices: number of matrices that changed.
        difference: largest difference of a logit to the adapter served apart; None: the engine cannot serve it apart.
    """

    folder: Path
    matrices: int
    difference: float | None


@dataclass(frozen=True, slots=True)
class _Sizes:
    outputs: int
    cols: int


def merge_adapter(
    path: Path, adapter: Path, target: Path, *, progress: Callable[[int], None] | None = None
) -> Merged:
    """Writes the model at `path` with the adapter merged into it as a new folder.

    Raises:
        InvalidModelFile, UnsupportedModel: the adapter is unsound, or belongs to another model.
        InvalidRequest: the target is not empty.
    """
    checkpoint = open_checkpoint(path)
    codec = Codec.load(path)
    record = check_base(adapter, fingerprint=checkpoint.fingerprint, template_hash=template_hash(codec))
    linears = _mergeable(checkpoint)
    replaced: dict[str, NDArray[np.float32]] = {}
    stored = {module_of(name, checkpoint.config): name for name in checkpoint.names}
    for module, a, b in adapter_updates(adapter, linears):
        name = stored[module]
        weights = replaced.get(name)
        if weights is None:
            weights = checkpoint.tensor(name).float32()
        replaced[name] = np.add(weights, b @ a, dtype=np.float32)
    _write(checkpoint, path, replaced, target, progress)
    values: dict[str, Any] = {
        "method": "merged",
        "base": path.stem if path.is_file() else path.name,
        **base_hashes(checkpoint, codec),
        "adapter": record,
        "versions": library_versions(),
    }
    write_record(target, values)
    apart = set(replaced) <= {stored[name] for name in linears_of(tensor_plan(checkpoint.config), checkpoint)}
    difference = _difference(checkpoint, codec, adapter, target) if apart else None
    return Merged(target, len(replaced), difference)


def _mergeable(checkpoint: Checkpoint) -> Mapping[str, Shaped]:
    """Returns what an adapter may change: what serving keeps apart, and kv_b_proj, which it absorbs."""
    linears: dict[str, Shaped] = dict(linears_of(tensor_plan(checkpoint.config), checkpoint))
    for name, shape in expected_tensors(checkpoint.config):
        if name.endswith(".kv_b_proj.weight"):
            linears[name.removesuffix(".weight")] = _Sizes(*shape)
    return linears


def write_model(
    path: Path, checkpoint: Checkpoint, weights: Mapping[str, NDArray[np.float32]], target: Path
) -> None:
    """Writes a whole model: the weights given, and the configuration, tokenizer and other tensors of the base.

    Raises:
        InvalidModelFile: a weight has another shape than in the base, or is none of the base.
    """
    for name, values in weights.items():
        if name not in checkpoint.names or checkpoint.tensor(name).shape != values.shape:
            raise InvalidModelFile(
                f"{name!r} is no tensor of the base, or of another shape", fix="report this"
            )
    _write(checkpoint, path, weights, target, None)


def _write(
    checkpoint: Checkpoint,
    path: Path,
    weights: Mapping[str, NDArray[np.float32]],
    target: Path,
    progress: Callable[[int], None] | None,
) -> None:
    if target.exists() and any(target.iterdir()):
        raise InvalidRequest(
            f"{target} is not empty", fix="choose a folder that does not exist yet", param="output"
        )
    replaced = {name: _stored(name, values) for name, values in weights.items()}
    export_safetensors(
        checkpoint, target, "float32", tokenizer=Tokenizer.load(path), progress=progress, replaced=replaced
    )


def _stored(name: str, values: NDArray[np.float32]) -> StoredTensor:
    values = np.ascontiguousarray(values, np.float32)
    rows = values.shape[0] if values.ndim > 1 else 1
    return StoredTensor(name, values.shape, "F32", values.view(np.uint8).reshape(rows, -1))


def _difference(checkpoint: Checkpoint, codec: Codec, adapter: Path, merged: Path) -> float:
    """Returns the largest difference of a logit on texts, each with float32 weights on the reference backend."""
    probes: list[Sequence[int]] = [codec.encode(text) for text in _PROBES]
    longest = max(map(len, probes))
    apart = ServedModel(checkpoint, longest, backend="reference")
    loaded = apart.adapter(adapter)
    expected = [apart.logits(tokens, loaded) for tokens in probes]
    del apart, loaded  # one model in memory at a time
    whole = ServedModel(open_checkpoint(merged), longest, backend="reference")
    return max(
        float(np.abs(whole.logits(tokens) - wanted).max())
        for tokens, wanted in zip(probes, expected, strict=True)
    )

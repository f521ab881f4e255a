"""`quantise`: from a model and calibration text to a GGUF file in blocks of 3, 4 or 8 bits, with its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deepwell.models.formats.checkpoint import Checkpoint
from deepwell.models.formats.config import ModelConfig
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.gguf import Blocks, check_gguf, write_gguf
from deepwell.tuning.compress.metadata import RECORD_KEY, Entry, pre_tokenizer_name
from deepwell.tuning.compress.quantise.awq import PLACES, Place, fold_all
from deepwell.tuning.compress.quantise.formats import FORMATS, format_for
from deepwell.tuning.compress.quantise.gptq import Rounded, damped, quantise_matrix, rounded
from deepwell.tuning.compress.shapes import check_prunable, parameters_of
from deepwell.tuning.compress.sound import check_finite
from deepwell.tuning.compress.target import check_file
from deepwell.tuning.compress.training.outcome import calibration_fields
from deepwell.tuning.compress.training.run import windows_of
from deepwell.tuning.compress.training.walk import (
    INPUTS,
    MOST_WEIGHT,
    Layer,
    Stages,
    layer_weights,
    moments_of,
)
from deepwell.tuning.train.artefact import base_hashes, library_versions
from deepwell.tuning.train.bases import open_base

__all__ = ["METHODS", "Method", "Quantised", "quantise", "quantised"]

Method = Literal["auto", "gptq", "awq", "none"]
METHODS: Final = ("auto", "gptq", "awq", "none")
Floats = NDArray[np.float32]
Say = Callable[[float], None]

_RIDGE: Final = 0.1  # share of the mean diagonal that holds a target near the weights as they were
_APART: Final = 4  # windows that are measured at the end; as many choose, and neither give moments
MOST_WINDOWS: Final = 64
_TRIALS: Final = 3  # layers in which factors are tried; the others go as most of them
_EDGES: Final = "q8_0"  # format of the embedding and the head
_FIELDS: Final[Mapping[str, str]] = {
    "self_attn.q_proj.weight": "attention",
    "self_attn.o_proj.weight": "heads",
    "mlp.gate_proj.weight": "mlp",
    "mlp.down_proj.weight": "channels",
}  # inputs of the readers of a place, by the first of them


def _silent(share: float) -> None:
    """Takes the progress that nobody shows."""


@dataclass(frozen=True)
class Quantised:
    """A quantised model in memory.

    Attributes:
        tensors: matrices in blocks and float32 vectors, by their names in a checkpoint.
        loss_before, loss: on windows that took no part, of the model as it was and now; None without text.
    """

    tensors: Mapping[str, Rounded | Floats]
    loss_before: float | None
    loss: float | None


def quantised(
    checkpoint: Checkpoint, kind: str, method: Method, windows: Tensor | None, say: Say = _silent
) -> Quantised:
    """Quantises the layers by a method, and embedding and head to Q8_0.

    Args:
        kind: key of `FORMATS`.
        windows: calibration text, int64 [windows, tokens]; None only for the method "none".

    Raises:
        InvalidRequest: no block divides the rows of a matrix.
        InvalidModelFile: a tensor holds NaN, infinity or weights that no block holds.
    """
    config = checkpoint.config
    tensors: dict[str, Rounded | Floats] = {}
    for name in checkpoint.names:
        tensor = checkpoint.tensor(name)
        if ".layers." not in name:
            values = tensor.float32()
            check_finite(name, values, MOST_WEIGHT)
            tensors[name] = (
                rounded(values, format_for(_EDGES, values.shape[1])) if values.ndim > 1 else values
            )
    if windows is None:
        for number in range(config.num_hidden_layers):
            for name, values in layer_weights(checkpoint, number).items():
                form = None if values.ndim == 1 else format_for(kind, values.shape[1])
                tensors[f"model.layers.{number}.{name}"] = values if form is None else rounded(values, form)
            say((number + 1) / config.num_hidden_layers)
        return Quantised(tensors, None, None)
    with torch.inference_mode():
        walk = _Walk(checkpoint, kind, method, windows, tensors)
        for number in range(config.num_hidden_layers):
            tensors |= {f"model.layers.{number}.{name}": one for name, one in walk.layer(number).items()}
            checkpoint.release_pages()
            say((number + 1) / config.num_hidden_layers)
        return Quantised(tensors, *walk.losses())


@dataclass(frozen=True, slots=True)
class _Trial:
    """A layer that was quantised: its error on the windows that choose, its tensors and its states."""

    error: float
    tensors: dict[str, Rounded | Floats]
    states: Tensor


class _Walk:
    """Both paths of the states of calibration text, at the layer that is next."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        kind: str,
        method: Method,
        windows: Tensor,
        edges: Mapping[str, Rounded | Floats],
    ) -> None:
        self._checkpoint, self._kind, self._method = checkpoint, kind, method
        self._windows, self._edges = windows, edges
        self._chosen: list[bool] = []
        few = max(1, min(_APART, len(windows) // 8))
        self._held, self._choice, self._fit = slice(few), slice(few, 2 * few), slice(2 * few, None)
        self._was, self._now = (Layer(checkpoint.config, windows.shape[1]) for _ in range(2))
        embedding = "model.embed_tokens.weight"
        rows, places = np.unique(windows.numpy(), return_inverse=True)
        shape = (*windows.shape, checkpoint.config.hidden_size)
        before = checkpoint.tensor(embedding).float32(rows)
        after = _values(edges[embedding])[rows]
        self._before = torch.from_numpy(before[places.reshape(-1)]).view(shape)
        self._after = torch.from_numpy(after[places.reshape(-1)]).view(shape)

    def layer(self, number: int) -> dict[str, Rounded | Floats]:
        """Quantises the next layer, from what those before it give now, and takes both paths behind it."""
        weights = layer_weights(self._checkpoint, number)
        self._was.load(weights)
        self._now.load(weights)
        wanted = self._was.stages(self._before)
        found: dict[bool, _Trial] = {}
        for folds in self._ways():
            self._now.load(weights)
            start = self._folded(weights, self._now.stages(self._after)) if folds else weights
            found[folds] = self._tried(start, wanted)
        best = min(found, key=lambda folds: found[folds].error)
        self._chosen.append(best)
        self._before, self._after = wanted.after, found[best].states
        return found[best].tensors

    def _ways(self) -> Collection[bool]:
        """Returns whether factors are folded in the next layer, or that both are tried."""
        if self._method != "auto":
            return (self._method == "awq",)
        if len(self._chosen) < _TRIALS:
            return (False, True)
        return (2 * sum(self._chosen[:_TRIALS]) > _TRIALS,)

    def _tried(self, weights: Mapping[str, Floats], wanted: Stages) -> _Trial:
        """Quantises the layer from weights."""
        now, states = self._now, self._after
        now.load(weights)
        made: dict[str, Rounded | Floats] = {name: one for name, one in weights.items() if one.ndim == 1}
        inputs = now.normed(states)
        made |= self._round("attention", inputs, wanted, weights)
        heads = now.attended(inputs)
        size = _size(wanted.between)
        made |= self._round("heads", heads / size, wanted, weights, (wanted.between - states) / size)
        between = states + now.project("self_attn.o_proj", heads)
        inputs = now.normed(between, behind_attention=True)
        made |= self._round("mlp", inputs, wanted, weights)
        channels = now.gated(inputs)
        size = _size(wanted.after)
        made |= self._round("channels", channels / size, wanted, weights, (wanted.after - between) / size)
        after = between + now.project("mlp.down_proj", channels)
        return _Trial(float(((after - wanted.after) / size)[self._choice].square().mean()), made, after)

    def _folded(self, weights: Mapping[str, Floats], stages: Stages) -> dict[str, Floats]:
        sizes = {"heads": _size(stages.between), "channels": _size(stages.after)}

        def moments(place: Place) -> NDArray[np.float64]:
            field = _FIELDS[place.readers[0]]
            return moments_of((getattr(stages, field) / sizes.get(field, 1))[self._fit])

        return fold_all(
            weights, moments, self._checkpoint.config, lambda cols: format_for(self._kind, cols), PLACES
        )

    def _round(
        self,
        stage: str,
        inputs: Tensor,
        wanted: Stages,
        weights: Mapping[str, Floats],
        outputs: Tensor | None = None,
    ) -> dict[str, Rounded]:
        """Quantises the projections of one input, and loads them.

        Args:
            inputs: those that the quantised layers before give, in units of the state that the outputs are added to.
            outputs: what the projection should give, in these units; None: what it gave.
        """
        fit = inputs[self._fit]
        hessian = moments_of(fit)
        found: dict[str, Rounded] = {}
        for name in INPUTS[stage]:
            weight = weights[f"{name}.weight"]
            form = format_for(self._kind, weight.shape[1])
            if self._method == "awq":
                one = rounded(weight, form, np.diag(hessian).astype(np.float32))
            else:
                target = self._was.project(name, getattr(wanted, stage)) if outputs is None else outputs
                missing = (target - self._now.project(name, inputs))[self._fit]
                one = quantise_matrix(_towards(weight, hessian, fit, missing), hessian, form)
            found[f"{name}.weight"] = one
            self._now.load({f"{name}.weight": one.values})
        return found

    def losses(self) -> tuple[float, float]:
        """Returns the cross entropy of the windows that took no part, as it was and now."""
        windows = self._windows[self._held]
        norm = torch.from_numpy(_values(self._edges["model.norm.weight"]))
        name = "lm_head.weight" if "lm_head.weight" in self._edges else "model.embed_tokens.weight"
        eps = self._checkpoint.config.rms_norm_eps
        found: list[float] = []
        for states, head in (
            (self._before, self._checkpoint.tensor(name).float32()),
            (self._after, _values(self._edges[name])),
        ):
            weight = torch.from_numpy(head)
            total = 0.0
            for one, targets in zip(states[self._held], windows, strict=True):
                logits = F.rms_norm(one[:-1], norm.shape, norm, eps) @ weight.T
                total += float(F.cross_entropy(logits, targets[1:], reduction="sum"))
            found.append(total / windows[:, 1:].numel())
        return found[0], found[1]


def _size(states: Tensor) -> Tensor:
    """Returns the root mean square of each token's state: an error counts by its share of what the next norm divides by."""
    return states.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)


def _towards(weight: Floats, hessian: NDArray[np.float64], inputs: Tensor, missing: Tensor) -> Floats:
    """Returns weights whose outputs add most of what is missing, by ridge regression on the inputs of now."""
    flat, rest = inputs.reshape(-1, inputs.shape[-1]), missing.reshape(-1, missing.shape[-1])
    cross = (rest.T @ flat).double().numpy() / len(flat)
    return weight + np.linalg.solve(damped(hessian, _RIDGE), cross.T).T.astype(np.float32)


def _values(one: Rounded | Floats) -> Floats:
    return one.values if isinstance(one, Rounded) else one


def _bytes_of(config: ModelConfig, kind: str) -> int:
    """Returns about how large a file becomes."""
    edges = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    bits = max(format_for(kind, columns).bits for columns in (config.hidden_size, config.intermediate_size))
    return int((edges * FORMATS[_EDGES].bits + (parameters_of(config) - edges) * bits) / 8)


def quantise(
    model: str | Path,
    target: Path,
    *,
    kind: str,
    method: Method = "auto",
    texts: Sequence[str],
    most_windows: int = MOST_WINDOWS,
    say: Say = _silent,
) -> Mapping[str, Any]:
    """Quantises a model into a new GGUF file, and returns its record.

    Args:
        model: name in the store, or a path.
        texts: calibration text; the method "none" takes none of it.
        most_windows: windows of it that give moments, of 256 tokens.
        say: takes the share that is done.

    Raises:
        InvalidRequest, ModelNotFound, UnsupportedModel, InvalidModelFile: something given cannot be used.
    """
    check_file(target, 0)
    base = open_base(str(model))
    check_prunable(base.config)
    check_file(target, _bytes_of(base.config, kind))
    tokenizer = Tokenizer.load(base.path)
    # Both fail before anything is computed.
    if base.checkpoint.format == "gguf":
        check_gguf(base.checkpoint)
    else:
        pre_tokenizer_name(tokenizer)
    windows = None if method == "none" else windows_of(base.codec, texts)[: 2 * _APART + most_windows]
    made = quantised(base.checkpoint, kind, method, windows, say)
    sizes: dict[str, int] = {}
    for one in made.tensors.values():
        name = one.form.name if isinstance(one, Rounded) else "F32"
        sizes[name] = sizes.get(name, 0) + (one.q.size if isinstance(one, Rounded) else one.size)
    card: dict[str, Any] = {
        "method": method,
        "type": FORMATS[kind].name,
        "base": base.name,
        "license": base.licence,
        **base_hashes(base.checkpoint, base.codec),
        "weights": sizes,
        "loss_before": None if made.loss_before is None else round(made.loss_before, 4),
        "loss": None if made.loss is None else round(made.loss, 4),
        "versions": library_versions(),
    }
    if windows is not None:
        card |= calibration_fields(windows)
    stored = {
        name: Blocks(one.form.name, one.encoded()) if isinstance(one, Rounded) else one
        for name, one in made.tensors.items()
    }
    extra = [Entry(RECORD_KEY, json.dumps(card), gguf.GGUFValueType.STRING)]
    if base.licence and "general.license" not in base.checkpoint.metadata:
        licence = base.licence.encode(errors="replace").decode()
        extra.append(Entry("general.license", licence, gguf.GGUFValueType.STRING))
    write_gguf(target, base.checkpoint, base.config, stored, tokenizer=tokenizer, extra=extra)
    return {**card, "bytes": target.stat().st_size}

"""`convert`: from a donor and calibration text to a folder in DeepSeek-V3's shape with its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepwell.models.formats.config import ModelConfig
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.convert.experts import EXPERTS, Layout, layouts_for
from deepwell.tuning.compress.convert.export import (
    NORM_EPS,
    Latent,
    Mixture,
    check_convertible,
    converted_config,
    converted_tensors,
    rescaled_residual,
    write_converted,
)
from deepwell.tuning.compress.convert.latent import (
    Attention,
    Compressed,
    Compression,
    LayerStatistics,
    Rotation,
    Weighting,
    chosen_pairs,
    compressed,
    exact,
    folded,
    latent_size,
    rotation_of,
    tensors_of,
    weights_of,
)
from deepwell.tuning.compress.convert.limits import (
    check_cached,
    check_exact,
    default_cached,
    donor_cached,
    rotated_widths,
)
from deepwell.tuning.compress.shapes import parameters_of
from deepwell.tuning.compress.target import check_target
from deepwell.tuning.compress.training.layers import predictions
from deepwell.tuning.compress.training.mixtures import chosen_layout, converted_mlps
from deepwell.tuning.compress.training.observe import frequencies_of, observe
from deepwell.tuning.compress.training.outcome import calibration_fields, recovered_fields
from deepwell.tuning.compress.training.recover import Recovery
from deepwell.tuning.compress.training.run import Donor, windows_of
from deepwell.tuning.train.artefact import base_hashes, library_versions
from deepwell.tuning.train.bases import model_of, open_base, released_weights

__all__ = [
    "TARGETS",
    "Conversion",
    "Converter",
    "Target",
    "convert",
    "exported",
    "largest_difference",
    "write_conversion",
]

Target = Literal["mla", "moe", "deepseek-v3"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)
Say = Callable[[str, float], None]
Weights = Mapping[str, NDArray[np.float32]]

_EXPERT_WINDOWS: Final = (
    48  # least squares over all channels of an MLP need more text than moments of attention
)
_BALANCES: Final = (0.5, 1.0, 2.0)


def _silent(step: str, share: float) -> None:
    """Takes the progress that nobody shows."""


@dataclass(frozen=True)
class Conversion:
    """A converted model in memory; its latents pass no norm until it is exported.

    Attributes:
        model: transformers' DeepSeek-V3, in which the norm of latents is the identity.
        config: its configuration.
        latent: shape of its attention.
        moments: second moments of the inputs of every attention on calibration text.
        choices: what was chosen on calibration text.
    """

    model: Any
    config: ModelConfig
    latent: Latent
    moments: Sequence[NDArray[np.float64]]
    choices: Mapping[str, Any]


class Converter:
    """Statistics of a donor, and the conversions that are made with them."""

    def __init__(self, donor: Donor, say: Say = _silent) -> None:
        check_convertible(donor.base.config)
        self.donor, self.config, self._say = donor, donor.base.config, say
        frequencies = frequencies_of(donor.model)
        self.layers = [self._layer(number, frequencies) for number in range(self.config.num_hidden_layers)]
        self._seen: list[LayerStatistics] = []
        self._rotations: list[Rotation] = []
        self._weights: dict[bool, list[Weighting]] = {}

    def _layer(self, number: int, frequencies: NDArray[np.float64]) -> Attention:
        def weight(name: str) -> NDArray[np.float64]:
            return self.donor.tensor(f"model.layers.{number}.{name}.weight").astype(np.float64)

        q, k, v, o = (weight(f"self_attn.{name}_proj") for name in "qkvo")
        return Attention(weight("input_layernorm"), q, k, v, o, frequencies)

    @property
    def seen(self) -> list[LayerStatistics]:
        """Statistics of every layer on the windows that choose nothing."""
        if not self._seen:
            done = [0]

            def more(tokens: int) -> None:
                done[0] += tokens
                self._say("activations", done[0] / self.donor.fit.numel())

            self._seen = observe(self.donor.scout, self.donor.fit, progress=more)
        return self._seen

    def exact(self) -> Conversion:
        """Returns the conversion that computes what the donor does; its cache holds as many numbers."""
        made = [exact(layer) for layer in self.layers]
        return self._built(made, np.tile(self.layers[0].frequencies, self.config.num_key_value_heads), {})

    def compressed(
        self, rope: int, how: Compression, *, aware: bool = True, choices: Mapping[str, Any] | None = None
    ) -> Conversion:
        """Returns the conversion with a rotated key of a width and a latent of a rank."""
        if not self._rotations:
            both = zip(self.layers, self.seen, strict=True)
            self._rotations = [rotation_of(layer, seen) for layer, seen in both]
        if aware not in self._weights:
            both = zip(self.layers, self.seen, strict=True)
            self._weights[aware] = [weights_of(layer, seen, aware=aware) for layer, seen in both]
        counts = chosen_pairs(self._rotations, rope)
        parts = zip(self.layers, self._weights[aware], self._rotations, strict=True)
        made = [compressed(layer, weights, rotation, counts, how) for layer, weights, rotation in parts]
        frequencies = np.repeat(self.layers[0].frequencies, counts)
        return self._built(made, frequencies, {"pairs": counts.tolist(), **(choices or {})})

    def best(self, cached: int) -> Conversion:
        """Returns the conversion of least loss on the windows that choose, over splits of the cache and balances."""
        if cached >= donor_cached(self.config):
            return self.exact()
        ropes = rotated_widths(self.config, cached)
        tried: dict[tuple[int, float], float] = {}
        steps = len(ropes) + len(_BALANCES) - 1

        def loss(rope: int, balance: float) -> float:
            if (rope, balance) not in tried:
                made = self.compressed(rope, Compression(cached - rope, balance))
                made.model.to(self.donor.scout.dtype)
                tried[rope, balance] = predictions(made.model, self.donor.choice).loss
                self._say("candidates", len(tried) / steps)
            return tried[rope, balance]

        rope = min(ropes, key=lambda one: loss(one, 1.0))
        balance = min(_BALANCES, key=lambda one: loss(rope, one))
        losses = [
            {"rope": one[0], "balance": one[1], "loss": round(found, 4)} for one, found in tried.items()
        ]
        return self.compressed(
            rope, Compression(cached - rope, balance), choices={"balance": balance, "candidates": losses}
        )

    def with_experts(self, made: Conversion, layouts: Sequence[Layout]) -> Conversion:
        """Returns a conversion with mixtures of experts in place of MLPs, in the best of some layouts.

        The MLPs are converted on the activations of the converted attention.
        """
        windows = self.donor.learning[:_EXPERT_WINDOWS]
        layout = chosen_layout(made.model, windows, layouts)
        found = converted_mlps(made.model, windows, layout, progress=lambda done: self._say("experts", done))
        attention = {
            number: {
                name: values.detach().float().numpy()
                for name, values in layer.state_dict().items()
                if name.startswith(("input_layernorm", "self_attn"))
            }
            for number, layer in enumerate(made.model.model.layers)
        }
        choices = {**made.choices, "experts": found.to_json()}
        return self._model(attention, made.latent, choices, found.tensors, layout.mixture)

    def _built(
        self, made: list[Compressed], frequencies: NDArray[np.float64], choices: Mapping[str, Any]
    ) -> Conversion:
        first, dim = made[0], self.config.head_dim
        latent = Latent(len(first.down), first.nope, len(first.rope), dim, tuple(map(float, frequencies)))
        attention = {
            number: {
                name: values.astype(np.float32)
                for name, values in tensors_of(one, self.layers[number]).items()
            }
            for number, one in enumerate(made)
        }
        return self._model(attention, latent, choices)

    def _model(
        self,
        attention: Mapping[int, Weights],
        latent: Latent,
        choices: Mapping[str, Any],
        mlps: Mapping[int, Weights] | None = None,
        mixture: Mixture | None = None,
    ) -> Conversion:
        config = converted_config(self.config, latent, mixture)
        weights = converted_tensors(self.donor.base.checkpoint.names, self.donor.tensor, attention, mlps)
        state = {name: torch.from_numpy(np.array(one, np.float32)) for name, one in weights.items()}
        for number in attention:
            # Loaded and then left out: folding the weights makes the norm of latents the identity.
            name = f"model.layers.{number}.self_attn.kv_a_layernorm.weight"
            state[name] = torch.ones(latent.kv_lora_rank)
        model = model_of(config, state)
        for layer in model.model.layers:
            layer.self_attn.kv_a_layernorm = nn.Identity()
        return Conversion(
            model.requires_grad_(False), config, latent, [one.moments for one in self.seen], choices
        )


def exported(made: Conversion) -> tuple[ModelConfig, dict[str, NDArray[np.float32]]]:
    """Returns the configuration and weights of a conversion as released checkpoints have them, with the norm of latents."""
    state = made.model.state_dict()
    if made.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    weights = released_weights(state, made.config)
    for number, moments in enumerate(made.moments):
        prefix = f"model.layers.{number}."
        parts = ("input_layernorm.", "self_attn.")
        layer = {
            name.removeprefix(prefix): weights.pop(name)
            for name in list(weights)
            if name.startswith(tuple(prefix + part for part in parts))
        }
        down = layer["self_attn.kv_a_proj_with_mqa.weight"][: made.latent.kv_lora_rank]
        plain = folded(layer, latent_size(down, moments), NORM_EPS)
        weights |= {prefix + name: np.asarray(values, np.float32) for name, values in plain.items()}
    weights = rescaled_residual(weights, made.config, NORM_EPS)
    return replace(made.config, rms_norm_eps=NORM_EPS), weights


def convert(
    model: str | Path,
    target: Path,
    to: Target,
    *,
    texts: Sequence[str],
    cached: int | None = None,
    sparsity: float = 0.25,
    experts: int = EXPERTS,
    recovery: Recovery | None = None,
    say: Say = _silent,
) -> Mapping[str, Any]:
    """Converts a model into a new folder, and returns its card.

    Args:
        model: name in the store, or a path.
        to: mla converts attention, moe the MLPs beside an exact attention, deepseek-v3 both.
        texts: calibration text.
        cached: numbers a token and layer that latent attention caches; None: 5/16 of the donor's. With as many as the donor's
            the conversion is exact.
        sparsity: share of an MLP's channels that a token leaves out, for moe and deepseek-v3.
        experts: parts of an MLP, those that every token computes counted.
        recovery: how the result learns from the donor; None: not at all.
        say: takes the step that is under way and its share that is done.

    Raises:
        InvalidRequest, ModelNotFound, UnsupportedModel, InvalidModelFile: something given cannot be used, or the result is
            none that the engine runs.
    """
    base = open_base(str(model))
    check_convertible(base.config)
    check_target(target, 5 * parameters_of(base.config))
    if to == "moe":
        check_exact(base.config)
        wanted = donor_cached(base.config)
    else:
        wanted = cached or default_cached(base.config)
        check_cached(base.config, wanted)
    layouts = [] if to == "mla" else layouts_for(base.config.intermediate_size, sparsity, experts=experts)
    donor = Donor(base, windows_of(base.codec, texts), say)
    converter = Converter(donor, say)
    made = converter.best(wanted)
    if to != "mla":
        made = converter.with_experts(made, layouts)
    card = _card(donor, made, to, recovery, say)
    write_conversion(donor, made, target, card)
    return card


def _card(donor: Donor, made: Conversion, to: Target, recovery: Recovery | None, say: Say) -> dict[str, Any]:
    """Recovers a conversion where that is wanted, and returns its card."""
    outcome = recovered_fields(made.model, donor.model, donor.choice, donor.learning, recovery, say)
    base, config = donor.base, made.config
    return {
        "method": "converted",
        "to": to,
        "base": base.name,
        "license": base.licence,
        **base_hashes(base.checkpoint, base.codec),
        "shape": {
            "kv_lora_rank": config.kv_lora_rank,
            "qk_rope_head_dim": config.qk_rope_head_dim,
            "cached": made.latent.cached,
            "experts": config.num_experts if config.sparse_layers else 0,
            "shared_experts": config.num_shared_experts if config.sparse_layers else 0,
            "experts_per_token": config.num_experts_per_tok if config.sparse_layers else 0,
        },
        "base_cached": donor_cached(base.config),
        "choices": dict(made.choices),
        **calibration_fields(donor.windows),
        **outcome,
        "versions": library_versions(),
    }


def largest_difference(model: Any, other: Any, windows: Tensor) -> float:
    """Returns the largest difference of a logit of two models on windows, int64 [windows, tokens]."""
    with torch.inference_mode():
        return float((model(windows).logits - other(windows).logits).abs().max())


def write_conversion(donor: Donor, made: Conversion, target: Path, card: Mapping[str, Any]) -> None:
    """Writes the folder of a conversion."""
    config, weights = exported(made)
    write_converted(target, config, weights, Tokenizer.load(donor.base.path), card)

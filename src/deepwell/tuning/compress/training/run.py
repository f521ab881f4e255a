"""`prune`: from a donor and calibration text to a smaller folder with its card."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from deepwell.dialogue.text import Codec
from deepwell.errors import InvalidRequest
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.cut import Cut, chosen_cut, cut_tensors, write_cut
from deepwell.tuning.compress.gguf import check_gguf, write_gguf
from deepwell.tuning.compress.shapes import Shape, Way, check_prunable, parameters_of, shapes_for
from deepwell.tuning.compress.sound import check_finite
from deepwell.tuning.compress.target import check_target
from deepwell.tuning.compress.training.analysis import Analysis, analyse, greedy_order
from deepwell.tuning.compress.training.layers import Predictions, final_states, predictions
from deepwell.tuning.compress.training.outcome import calibration_fields, recovered_fields
from deepwell.tuning.compress.training.recover import Recovery
from deepwell.tuning.train.artefact import base_hashes, library_versions
from deepwell.tuning.train.bases import Base, hf_config, load_model, open_base
from deepwell.tuning.train.loop import processor_is_fast_at_bf16

__all__ = ["WINDOW", "Donor", "Pruned", "prune", "pruned", "windows_of", "write_pruned"]

WINDOW: Final = 256
_LEAST_WINDOWS: Final = 8
_CHOICE, _GREEDY = 4, 2  # windows that choose a candidate, and a layer
_MOST_WINDOWS: Final = 24  # of the moments
Say = Callable[[str, float], None]


def _silent(step: str, share: float) -> None:
    """Takes the progress that nobody shows."""


@dataclass(frozen=True)
class Pruned:
    """A finished model in memory, and the card that goes with it."""

    model: Any
    cut: Cut
    card: Mapping[str, Any]


def windows_of(
    codec: Codec, texts: Sequence[str], width: int = WINDOW, *, least: int = _LEAST_WINDOWS
) -> Tensor:
    """Returns texts as windows of tokens in an order by chance, int64 [windows, width]; the rest that fills none is left out.

    Raises:
        InvalidRequest: there is too little of it.
    """
    tokens = [token for text in texts for token in codec.encode(text)]
    count = len(tokens) // width
    if count < least:
        raise InvalidRequest.of("compress_text_short", param="text", tokens=len(tokens), least=least * width)
    windows = torch.tensor(tokens[: count * width], dtype=torch.int64).view(count, width)
    return windows[torch.randperm(count, generator=torch.Generator().manual_seed(0))]


class Donor:
    """A model to prune, and what was found out about it once for every size.

    Args:
        windows: calibration text; the first windows choose, the others give moments and teach.

    Raises:
        UnsupportedModel: see `check_prunable`.
        InvalidModelFile: a tensor holds NaN or infinity.
    """

    def __init__(self, base: Base, windows: Tensor, say: Say = _silent) -> None:
        check_prunable(base.config)
        self.base, self.windows, self._say = base, windows, say
        self.model = load_model(base).requires_grad_(False)
        for name, parameter in self.model.named_parameters():
            check_finite(name, parameter.numpy())
        self._dtype = torch.bfloat16 if processor_is_fast_at_bf16() else torch.float32
        # What is searched is compared with itself, so bf16 does; what is reported is computed in float32.
        self._scout = self.model
        if self._dtype != torch.float32:
            self._scout = load_model(base, self._dtype).requires_grad_(False)
        few = max(1, min(_CHOICE, len(windows) // 4))
        self.choice, self.fit = windows[:few], windows[few : few + _MOST_WINDOWS]
        self.learning = windows[few:]
        self._analysis: Analysis | None = None
        self._compared: tuple[Tensor, Tensor] | None = None
        self._order: list[int] = []
        self._weights: dict[str, NDArray[np.float32]] = {}

    @property
    def scout(self) -> Any:
        """The model in the format of the search, whose results are compared with each other alone."""
        return self._scout

    @property
    def dtype(self) -> torch.dtype:
        """Format of the search."""
        return self._dtype

    @property
    def analysis(self) -> Analysis:
        """Influence of layers and moments of inputs, on the windows that choose nothing."""
        if self._analysis is None:
            done = [0]

            def seen(tokens: int) -> None:
                done[0] += tokens
                self._say("activations", done[0] / self.fit.numel())

            self._analysis = analyse(self._scout, self.fit, progress=seen)
        return self._analysis

    def greedy(self, count: int) -> list[int]:
        """Returns the layers that stay when `count` go by the greedy search; smaller counts are its first steps."""
        if len(self._order) < count:
            tried = [0]

            def one(more: int) -> None:
                tried[0] += more
                self._say(
                    "layers", min(1.0, tried[0] / (self.base.config.num_hidden_layers + 8 * (count - 1)))
                )

            self._order = greedy_order(self._scout, self.choice[:_GREEDY], count, progress=one)
        gone = set(self._order[:count])
        return [one for one in range(self.base.config.num_hidden_layers) if one not in gone]

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Returns a weight as served, in float32."""
        if name not in self._weights:
            self._weights[name] = self.base.checkpoint.tensor(name).float32()
        return self._weights[name]

    def chosen(self, shape: Shape) -> Cut:
        """Returns the cut of a shape: layers by the greedy search, channels and heads by moments."""
        layers = self.greedy(self.base.config.num_hidden_layers - shape.layers)
        return chosen_cut(self.base.config, shape, layers, self.tensor, self.analysis.inverse)

    def built(self, cut: Cut) -> Any:
        """Returns the model of a cut, in evaluation mode."""
        config = cut.shape.applied(self.base.config)
        kind = getattr(transformers, type(self.model).__name__)
        weights = cut_tensors(self.base.config, cut, self.base.checkpoint.names, self.tensor)
        state = {name: torch.from_numpy(np.array(one, np.float32)) for name, one in weights.items()}
        model = kind(hf_config(config)).eval()
        missing, unknown = model.load_state_dict(state, strict=False)
        left = [name for name in missing if name != "lm_head.weight" and not name.endswith("o_proj.bias")]
        if left or unknown:
            raise RuntimeError(f"the cut has no {left}, and {unknown} too many")
        for name in missing:
            if name.endswith("o_proj.bias"):
                model.get_parameter(name).data.zero_()
        model.tie_weights()
        return model.requires_grad_(False)

    def scouted(self, cut: Cut) -> float:
        """Returns the loss of a cut on the windows that choose, in the format of the search."""
        return predictions(self.built(cut).to(self._dtype), self.choice).loss

    def compared(self, model: Any, windows: Tensor) -> Predictions:
        """Returns the predictions of a model on windows beside the donor's, in float32; the donor runs once."""
        if self._compared is None or self._compared[0] is not windows:
            with torch.inference_mode():
                states = torch.cat([final_states(self.model, part) for part in windows.split(4)])
            self._compared = windows, states
        return predictions(model, windows, self.model, states=self._compared[1])

    def best(self, share: float, ways: Collection[Way]) -> Cut:
        """Returns the cut of least loss on the windows that choose, over the shapes that leave out a share."""
        shapes = shapes_for(self.base.config, share, ways)
        most = self.base.config.num_hidden_layers - min(one.layers for one in shapes)
        self.greedy(most)
        cuts: list[tuple[float, Cut]] = []
        for number, shape in enumerate(shapes):
            cut = self.chosen(shape)  # the first one reads the text
            if not number:
                self._say("candidates", 0.0)
            loss = self.scouted(cut) if len(shapes) > 1 else 0.0
            cuts.append((loss, cut))
            self._say("candidates", (number + 1) / len(shapes))
        return min(cuts, key=lambda one: one[0])[1]


def prune(
    model: str | Path,
    target: Path,
    share: float,
    *,
    texts: Sequence[str],
    ways: Collection[Way],
    recovery: Recovery | None = None,
    gguf: bool = False,
    say: Say = _silent,
) -> Mapping[str, Any]:
    """Prunes a model into a new folder, and returns its card.

    Args:
        model: name in the store, or a path.
        share: part of all weights to leave out.
        texts: calibration text.
        ways: what may be cut.
        recovery: how the result learns from the donor; None: not at all.
        gguf: whether `model.gguf` is written beside the weights, for llama.cpp.
        say: takes the step that is under way and its share that is done.

    Raises:
        InvalidRequest, ModelNotFound, UnsupportedModel, InvalidModelFile: something given cannot be used.
    """
    check_target(target, 0)
    base = open_base(str(model))
    check_prunable(base.config)
    if gguf:
        check_gguf(base.checkpoint)
    shapes = shapes_for(base.config, share, ways)  # fails before anything is loaded
    largest = max(parameters_of(base.config, one) for one in shapes)
    check_target(target, 4 * largest * (2 if gguf else 1))
    donor = Donor(base, windows_of(base.codec, texts), say)
    made = pruned(donor, share, ways, recovery, say)
    write_pruned(donor, made, target, gguf=gguf)
    return made.card


def pruned(
    donor: Donor, share: float, ways: Collection[Way], recovery: Recovery | None, say: Say = _silent
) -> Pruned:
    """Returns the model of a share, recovered or not, with its card.

    Raises:
        InvalidRequest: the share cannot be cut; see `shapes_for`.
        UnsupportedModel: the smaller model computes no numbers.
    """
    base = donor.base
    cut = donor.best(share, ways)
    model = donor.built(cut)
    outcome = recovered_fields(model, donor.model, donor.choice, donor.learning, recovery, say)
    whole, left = parameters_of(base.config), parameters_of(base.config, cut.shape)
    card = {
        "method": "pruned",
        "base": base.name,
        "license": base.licence,
        **base_hashes(base.checkpoint, base.codec),
        "share": share,
        "ways": sorted(ways),
        "shape": {
            "layers": cut.shape.layers,
            "channels": cut.shape.channels,
            "kv_heads": cut.shape.kv_heads,
        },
        "layers": list(cut.layers),
        "base_parameters": whole,
        "parameters": left,
        "cut": round(1 - left / whole, 4),
        **calibration_fields(donor.windows),
        **outcome,
        "versions": library_versions(),
    }
    return Pruned(model, cut, card)


def write_pruned(donor: Donor, made: Pruned, target: Path, *, gguf: bool) -> None:
    """Writes the folder of a pruned model."""
    base = donor.base
    config = made.cut.shape.applied(base.config)
    state = made.model.state_dict()
    names = [
        name
        for name in state
        if not (config.tie_word_embeddings and name == "lm_head.weight") and not name.endswith("o_proj.bias")
    ]
    weights = {name: state[name].detach().float().numpy() for name in names}
    write_cut(target, config, weights, Tokenizer.load(base.path), made.card)
    if gguf:
        write_gguf(target / "model.gguf", base.checkpoint, config, weights)

"""The network that draws: a rectified-flow transformer over patches of pixels, in numpy.

A picture `x` of 64 x 64 pixels and noise `n` are joined by the line `x_t = t x + (1 - t) n`, t from 0 (noise) to 1 (picture).
The network sees `x_t`, `t` and the vector of a text, and estimates `x`; the velocity of the line follows from it. Sources: Liu
et al., "Flow Straight and Fast" (2022); Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023), for the
modulations; Li and He, "Back to Basics: Let Denoising Generative Models Denoise" (2025), for the estimate of the picture; Xie
et al., "SANA" (2024), for the convolution in the feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile
from deepwell.models.formats.safetensors import read_safetensors_header

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "Float", "FlowConfig", "FlowModel", "shapes_of", "time_features"]

Float = NDArray[np.float32]

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
_MOST_WIDTH: Final = 1024
_MOST_DEPTH: Final = 32
_TIME_FEATURES: Final = 128
_EPSILON: Final = np.float32(1e-6)


class FlowConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of the network.

    Attributes:
        architecture: names the family of this file.
        size: pixels of a side.
        patch: pixels of a patch's side; a picture is (size / patch)^2 tokens.
        width: width of the residual stream.
        depth: number of blocks.
        heads: attention heads.
        condition: length of a text's vector.
        words: tokens that the vector becomes, in front of the patches.
        text_encoder: name of the model whose vectors it was trained with.
        prefix: text that stands before what that model reads.
    """

    architecture: str = "flow-transformer"
    size: int = 64
    patch: int = 8
    width: int = 256
    depth: int = 4
    heads: int = 4
    condition: int = 384
    words: int = 4
    text_encoder: str = "e5-small-q4"
    prefix: str = "query: "

    @property
    def patches(self) -> int:
        """Number of patches of a picture."""
        return (self.size // self.patch) ** 2

    def check(self) -> None:
        """Checks that the numbers make a network of a sane size.

        Raises:
            InvalidModelFile: they do not.
        """
        bounds = [
            (self.architecture == "flow-transformer", "architecture"),
            (
                8 <= self.size <= 256 and 1 <= self.patch <= self.size and self.size % self.patch == 0,
                "size, patch",
            ),
            (
                1 <= self.heads <= 64 and 8 <= self.width <= _MOST_WIDTH and self.width % self.heads == 0,
                "width, heads",
            ),
            (1 <= self.depth <= _MOST_DEPTH, "depth"),
            (1 <= self.condition <= 8192 and 1 <= self.words <= 64, "condition, words"),
            (len(self.text_encoder) <= 128 and len(self.prefix) <= 32, "text_encoder, prefix"),
        ]
        sound = all(holds for holds, _ in bounds)
        for holds, fields in [*bounds, (sound and self.patches <= 1024, "patch")]:
            if not holds:
                raise InvalidModelFile(
                    f"{CONFIG_FILE}: {fields} of an image model out of range",
                    fix="take a model that `deepwell media train image` made",
                )


def shapes_of(config: FlowConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor. Matrices are [out, in], as torch has them."""
    d, pixels = config.width, config.patch * config.patch * 3
    shapes: dict[str, tuple[int, ...]] = {
        "condition_mean": (config.condition,),
        "condition_scale": (config.condition,),
        "null": (config.condition,),
        "patch.weight": (d, pixels),
        "patch.bias": (d,),
        "position": (config.patches, d),
        "words.weight": (config.words * d, config.condition),
        "words.bias": (config.words * d,),
        "time.0.weight": (d, _TIME_FEATURES),
        "time.0.bias": (d,),
        "time.1.weight": (d, d),
        "time.1.bias": (d,),
        "text.0.weight": (d, config.condition),
        "text.0.bias": (d,),
        "text.1.weight": (d, d),
        "text.1.bias": (d,),
        "modulation.weight": (6 * d, d),
        "modulation.bias": (6 * d,),
        "last_modulation.weight": (2 * d, d),
        "last_modulation.bias": (2 * d,),
        "last.weight": (pixels, d),
        "last.bias": (pixels,),
    }
    for n in range(config.depth):
        shapes |= {
            f"blocks.{n}.table": (6 * d,),
            f"blocks.{n}.qkv.weight": (3 * d, d),
            f"blocks.{n}.qkv.bias": (3 * d,),
            f"blocks.{n}.attention.weight": (d, d),
            f"blocks.{n}.attention.bias": (d,),
            f"blocks.{n}.up.weight": (4 * d, d),
            f"blocks.{n}.up.bias": (4 * d,),
            f"blocks.{n}.near.weight": (4 * d, 1, 3, 3),
            f"blocks.{n}.near.bias": (4 * d,),
            f"blocks.{n}.down.weight": (d, 4 * d),
            f"blocks.{n}.down.bias": (d,),
        }
    return shapes


def time_features(t: Float) -> Float:
    """Returns sines and cosines of times between 0 and 1: [N] -> [N, 128]."""
    half = _TIME_FEATURES // 2
    rates = np.exp(np.linspace(0.0, np.log(1000.0), half)).astype(np.float32)
    angles = t[:, None].astype(np.float32) * rates
    return np.concatenate([np.cos(angles), np.sin(angles)], 1, dtype=np.float32)


class FlowModel:
    """The network with its weights.

    Attributes:
        config: its shape.
        weights: float32 tensors by the names of `shapes_of`.
    """

    def __init__(self, config: FlowConfig, weights: Mapping[str, Float]) -> None:
        self.config = config
        self.weights = dict(weights)

    @staticmethod
    def read(folder: Path) -> FlowModel:
        """Returns the model of a folder.

        Raises:
            InvalidModelFile: it is broken, or of another kind.
        """
        try:
            config = msgspec.json.decode((folder / CONFIG_FILE).read_bytes()[: 1 << 20], type=FlowConfig)
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidModelFile(
                f"{folder / CONFIG_FILE}: {error}", fix="take a model that `deepwell media train image` made"
            ) from error
        config.check()
        return FlowModel(config, _tensors(folder / WEIGHTS_FILE, shapes_of(config)))

    @staticmethod
    def random(config: FlowConfig, seed: int) -> FlowModel:
        """Returns a network of random weights, for tests."""
        generator = np.random.default_rng(seed)
        weights = {
            name: (generator.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
            for name, shape in shapes_of(config).items()
        }
        weights["condition_scale"] = np.ones(config.condition, np.float32)
        return FlowModel(config, weights)

    def write(self, folder: Path) -> None:
        """Writes the model in 16 bits."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self.config)) + b"\n")
        # `save_file` makes files that only their owner reads, and a confined child has another user.
        (folder / WEIGHTS_FILE).write_bytes(
            save({name: one.astype(np.float16) for name, one in self.weights.items()})
        )

    @cached_property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(one.size for one in self.weights.values())

    def estimate(self, x: Float, t: Float, condition: Float | None) -> Float:
        """Returns the estimate of the pictures.

        Args:
            x: pictures with noise, [N, size, size, 3], -1 (black) to 1 (white).
            t: their times, [N].
            condition: vectors of the texts, [N, condition]; None draws without a text.
        """
        config, w = self.config, self.weights
        if condition is None:
            c = np.broadcast_to(w["null"], (len(x), config.condition))
        else:
            c = (condition - w["condition_mean"]) * w["condition_scale"]
        signal = _silu(self._two("time", time_features(t)) + self._two("text", c))
        modulation = self._linear("modulation", signal)
        words = self._linear("words", c).reshape(len(x), config.words, config.width)
        patches = self._linear("patch", _patches(x, config.patch)) + w["position"]
        h = np.concatenate([words, patches], 1)
        for n in range(config.depth):
            h = self._block(f"blocks.{n}", h, modulation + w[f"blocks.{n}.table"])
        shift, scale = np.split(self._linear("last_modulation", signal)[:, None], 2, axis=-1)
        pixels = self._linear("last", _normed(h[:, config.words :]) * (1 + scale) + shift)
        return _picture(pixels, config)

    def _block(self, name: str, h: NDArray[Any], modulation: Float) -> NDArray[Any]:
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(modulation[:, None], 6, axis=-1)
        h = h + gate1 * self._attention(name, _normed(h) * (1 + scale1) + shift1)
        up = self._with_near(name, self._linear(f"{name}.up", _normed(h) * (1 + scale2) + shift2))
        return h + gate2 * self._linear(f"{name}.down", _gelu(up))

    def _with_near(self, name: str, x: Float) -> Float:
        """Adds to each patch what its neighbours hold: a depthwise convolution of 3 x 3 over the grid of patches."""
        words, side = self.config.words, self.config.size // self.config.patch
        weight = self.weights[f"{name}.near.weight"][:, 0]
        grid = np.pad(x[:, words:].reshape(len(x), side, side, -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
        near: NDArray[Any] = np.broadcast_to(
            self.weights[f"{name}.near.bias"], (len(x), side, side, weight.shape[0])
        )
        for i in range(3):
            for j in range(3):
                near = near + grid[:, i : i + side, j : j + side] * weight[:, i, j]
        return np.concatenate([x[:, :words], x[:, words:] + near.reshape(len(x), side * side, -1)], 1)

    def _attention(self, name: str, x: Float) -> Float:
        count, tokens, width = x.shape
        heads = self.config.heads
        joined = self._linear(f"{name}.qkv", x).reshape(count, tokens, 3, heads, width // heads)
        q, k, v = joined.transpose(2, 0, 3, 1, 4)
        scores = q @ k.transpose(0, 1, 3, 2) * np.float32((width // heads) ** -0.5)
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        return self._linear(f"{name}.attention", (scores @ v).transpose(0, 2, 1, 3).reshape(x.shape))

    def _two(self, name: str, x: Float) -> Float:
        return self._linear(f"{name}.1", _silu(self._linear(f"{name}.0", x)))

    def _linear(self, name: str, x: Float) -> NDArray[Any]:
        flat = x.reshape(-1, x.shape[-1]) @ self.weights[f"{name}.weight"].T
        flat += self.weights[f"{name}.bias"]
        return flat.reshape(*x.shape[:-1], -1)


def _patches(x: Float, patch: int) -> Float:
    count, size, side = len(x), x.shape[1], x.shape[1] // patch
    cut = x.reshape(count, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    assert side * patch == size
    return cut.reshape(count, side * side, patch * patch * 3)


def _picture(patches: Float, config: FlowConfig) -> Float:
    side, patch = config.size // config.patch, config.patch
    cut = patches.reshape(len(patches), side, side, patch, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(cut.reshape(len(patches), config.size, config.size, 3))


def _normed(x: Float) -> NDArray[Any]:
    centred = x - x.mean(-1, keepdims=True)
    deviation: Float = np.sqrt(np.square(centred).mean(-1, keepdims=True) + _EPSILON, dtype=np.float32)
    return centred / deviation


def _silu(x: Float) -> NDArray[Any]:
    return x / (1 + np.exp(-x))


def _gelu(x: Float) -> NDArray[Any]:
    return (
        np.float32(0.5) * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)))
    )


def _tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Float]:
    """Reads float tensors of a file of safetensors, each of the shape that it must have."""
    header = read_safetensors_header(path)
    found: dict[str, Float] = {}
    for name, shape in shapes.items():
        info = header.get(name)
        if info is None or info.shape != shape or info.dtype not in ("F16", "F32"):
            raise InvalidModelFile(
                f"{path.name}: no tensor {name} of shape {list(shape)} in 16 or 32 bits",
                fix="take a model that `deepwell media train image` made",
            )
        kind = np.float16 if info.dtype == "F16" else np.float32
        found[name] = (
            np.fromfile(path, kind, int(np.prod(shape)), offset=info.offset).reshape(shape).astype(np.float32)
        )
        if not np.isfinite(found[name]).all():
            raise InvalidModelFile(f"{path.name}: {name} is not finite", fix="train it again")
    return found

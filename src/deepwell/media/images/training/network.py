"""The network of `media/images/flow.py` in PyTorch, with the same names of tensors, for training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepwell.media.images.flow import FlowConfig

__all__ = ["FlowNetwork"]


class _Block(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        d = config.width
        self.heads, self.words, self.side = config.heads, config.words, config.size // config.patch
        self.table = nn.Parameter(torch.zeros(6 * d))
        self.qkv = nn.Linear(d, 3 * d)
        self.attention = nn.Linear(d, d)
        self.up = nn.Linear(d, 4 * d)
        self.near = nn.Conv2d(4 * d, 4 * d, 3, padding=1, groups=4 * d)
        self.down = nn.Linear(4 * d, d)
        nn.init.zeros_(self.near.weight)
        nn.init.zeros_(self.near.bias)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table)[:, None].chunk(6, dim=-1)
        h = h + gate1 * self._mixed(_normed(h) * (1 + scale1) + shift1)
        up = self._with_near(self.up(_normed(h) * (1 + scale2) + shift2))
        return h + gate2 * self.down(functional.gelu(up, approximate="tanh"))

    def _with_near(self, x: Tensor) -> Tensor:
        """Adds to each patch what its neighbours hold."""
        words, patches = x[:, : self.words], x[:, self.words :]
        grid = patches.transpose(1, 2).reshape(len(x), -1, self.side, self.side)
        return torch.cat([words, patches + self.near(grid).flatten(2).transpose(1, 2)], 1)

    def _mixed(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        joined = self.qkv(x).view(count, tokens, 3, self.heads, width // self.heads)
        q, k, v = joined.permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.attention(out.transpose(1, 2).reshape(x.shape))


class FlowNetwork(nn.Module):
    """The network. Pictures are [N, size, size, 3] from -1 to 1, as in `FlowModel.estimate`."""

    condition_mean: Tensor
    condition_scale: Tensor

    def __init__(self, config: FlowConfig, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        d, pixels = config.width, config.patch * config.patch * 3
        self.config = config
        self.register_buffer("condition_mean", mean)
        self.register_buffer("condition_scale", scale)
        self.null = nn.Parameter(torch.zeros(config.condition))
        self.patch = nn.Linear(pixels, d)
        self.position = nn.Parameter(torch.randn(config.patches, d) * 0.02)
        self.words = nn.Linear(config.condition, config.words * d)
        self.time = nn.ModuleList([nn.Linear(128, d), nn.Linear(d, d)])
        self.text = nn.ModuleList([nn.Linear(config.condition, d), nn.Linear(d, d)])
        self.modulation = nn.Linear(d, 6 * d)
        self.last_modulation = nn.Linear(d, 2 * d)
        self.last = nn.Linear(d, pixels)
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.depth)])
        for linear in (self.modulation, self.last_modulation, self.last):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, without: Tensor) -> Tensor:
        """Returns the estimate of the pictures.

        Args:
            x: pictures with noise.
            t: their times, [N].
            condition: vectors of the texts, [N, condition].
            without: bool [N]: whose text is not told.
        """
        config = self.config
        c = (condition - self.condition_mean) * self.condition_scale
        c = torch.where(without[:, None], self.null, c)
        signal = functional.silu(_two(self.time, _time_features(t)) + _two(self.text, c))
        modulation = self.modulation(signal)
        words = self.words(c).view(len(x), config.words, config.width)
        h = torch.cat([words, self.patch(_patches(x, config.patch)) + self.position], 1)
        for block in self.blocks:
            h = block(h, modulation)
        shift, scale = self.last_modulation(signal)[:, None].chunk(2, dim=-1)
        pixels = self.last(_normed(h[:, config.words :]) * (1 + scale) + shift)
        side, patch = config.size // config.patch, config.patch
        cut = pixels.view(len(x), side, side, patch, patch, 3).transpose(2, 3)
        return cut.reshape(len(x), config.size, config.size, 3)


def _two(layers: nn.ModuleList, x: Tensor) -> Tensor:
    return layers[1](functional.silu(layers[0](x)))


def _time_features(t: Tensor) -> Tensor:
    rates = torch.exp(torch.linspace(0.0, float(torch.log(torch.tensor(1000.0))), 64))
    angles = t[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def _patches(x: Tensor, patch: int) -> Tensor:
    count, side = len(x), x.shape[1] // patch
    return x.view(count, side, patch, side, patch, 3).transpose(2, 3).reshape(count, side * side, -1)


def _normed(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)

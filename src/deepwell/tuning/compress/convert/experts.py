"""Divides the channels of a gated MLP among experts, and solves its down projection anew for the channels that are computed.

A channel's output is silu(g x) * (u x) times its column of the down projection, so the MLP is a sum over channels and any
partition of them is exact while all are computed. Channels that no others can stand in for form the shared expert. The others
are clustered by the tokens for which they are large, into experts of equal width (Pei et al., CMoE, ACL 2026); here by the
square root of their share of a token's activations, not by a binary vector: that loses less on calibration text.

When a token leaves experts out, the columns that it computes take over what it misses as far as they can: least squares over
the activations, drawn towards the donor's columns. Where nothing is left out this changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest
from deepwell.tuning.compress.convert.export import Mixture
from deepwell.tuning.compress.convert.router import Router, gate_tensors

__all__ = [
    "EXPERTS",
    "Experts",
    "Layout",
    "activation_experts",
    "expert_squares",
    "layouts_for",
    "mixture_tensors",
    "random_experts",
    "refitted_down",
    "shared_channels",
]

Array = NDArray[np.float32]

EXPERTS: Final = 16
"""Parts of an MLP, shared ones counted."""
_MULTIPLE: Final = (
    8  # of an expert's channels: the grouped products of transformers need rows of 16 bytes in bf16
)
_TOKENS: Final = 4096  # that the clusters see
_ROUNDS: Final = 6
_RIDGE: Final = 1.0  # of the mean second moment


@dataclass(frozen=True, slots=True)
class Layout:
    """Division of an MLP into parts of one width.

    Attributes:
        width: channels of a part.
        shared: parts that every token computes.
        routed: experts to choose from.
        active: experts that a token computes.
    """

    width: int
    shared: int
    routed: int
    active: int

    @property
    def channels(self) -> int:
        """Channels of the MLP."""
        return self.width * (self.shared + self.routed)

    @property
    def sparsity(self) -> float:
        """Share of the channels that a token leaves out."""
        return 1 - (self.shared + self.active) / (self.shared + self.routed)

    @property
    def mixture(self) -> Mixture:
        """The shape as DeepSeek-V3's configuration names it.

        The gates of the experts that a token computes are normalised to a sum of 1, and each has to be 1: so the scale is their
        number.
        """
        return Mixture(
            self.routed,
            self.active,
            self.width,
            n_shared_experts=self.shared,
            routed_scaling_factor=float(self.active),
        )


@dataclass(frozen=True, slots=True)
class Experts:
    """Channels of the parts of an MLP.

    Attributes:
        shared: channels that every token computes, [shared * width], ascending.
        routed: channels of each expert, [routed, width], ascending in each.
    """

    shared: NDArray[np.intp]
    routed: NDArray[np.intp]

    def computed(self, active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns which channels tokens compute, [tokens, channels], from which experts they do, [tokens, routed]."""
        found = np.ones((len(active), self.shared.size + self.routed.size), bool)
        found[:, self.routed.reshape(-1)] = np.repeat(active, self.routed.shape[1], axis=1)
        return found


def layouts_for(channels: int, sparsity: float, *, experts: int = EXPERTS) -> list[Layout]:
    """Returns the layouts of a number of parts that leave out a share of the channels, by the number of shared parts.

    Args:
        sparsity: share of the channels that a token does not compute; 0 computes all experts.
        experts: parts, shared ones counted.

    Raises:
        InvalidRequest: the channels cannot be divided so, or the share is none that so many parts express.
    """
    if experts < 4 or channels % (experts * _MULTIPLE):
        fitting = [str(one) for one in range(4, 257) if channels % (one * _MULTIPLE) == 0]
        key = "compress_experts" if fitting else "compress_experts_never"
        raise InvalidRequest.of(
            key, param="experts", channels=channels, experts=experts, known=", ".join(fitting)
        )
    share, most = min(1.0, max(0.0, sparsity)), experts * 3 // 4  # NaN becomes 0
    gone = round(share * experts)
    # Shares such as a sixth are written with a few digits, and NaN is near to none.
    if not abs(gone / experts - sparsity) <= 1e-3 or gone > most:
        near = sorted({min(most, math.floor(share * experts) + step) for step in (0, 1)})
        known = ", ".join(f"{one / experts:.4g}" for one in near)
        raise InvalidRequest.of(
            "compress_experts_share", param="sparsity", experts=experts, share=sparsity, known=known
        )
    computed = experts - gone
    shares = sorted({max(1, computed * part // 6) for part in (1, 2, 3, 4)})
    return [
        Layout(channels // experts, one, experts - one, computed - one) for one in shares if one < computed
    ]


def activation_experts(hidden: Array, down: Array, layout: Layout) -> Experts:
    """Returns the experts by which tokens use channels together.

    Args:
        hidden: inputs of the down projection on calibration text, [tokens, channels].
        down: the down projection, [outputs, channels].
    """
    shared = shared_channels(hidden, down, layout)
    rest = np.setdiff1d(np.arange(layout.channels), shared)
    seen = np.abs(hidden[:_TOKENS]) * np.linalg.norm(down, axis=0)
    lengths = np.linalg.norm(seen, axis=1, keepdims=True)
    shares = np.sqrt(seen[:, rest] / np.maximum(lengths, 1e-12)).T
    groups = _balanced_clusters(np.ascontiguousarray(shares, np.float32), layout.routed)
    return Experts(shared, rest[groups])


def shared_channels(hidden: Array, down: Array, layout: Layout) -> NDArray[np.intp]:
    """Returns the channels that every token should compute, ascending.

    They are those without which the output would change most, in the mean square, after all others have taken over what they
    can; see `deepwell.tuning.compress.columns`.
    """
    moments = (hidden.T @ hidden).astype(np.float64)
    moments.flat[:: len(moments) + 1] += _pull(moments, _RIDGE)
    changes = np.square(down).sum(0) / np.diag(np.linalg.inv(moments))
    return np.sort(np.argsort(-changes, kind="stable")[: layout.shared * layout.width])


def random_experts(layout: Layout, seed: int, shared: NDArray[np.intp] | None = None) -> Experts:
    """Returns experts by chance: what any grouping has to beat.

    Args:
        shared: channels that every token computes; None: by chance as well.
    """
    order = np.random.default_rng(seed).permutation(layout.channels)
    if shared is None:
        shared = np.sort(order[: layout.shared * layout.width])
    rest = order[~np.isin(order, shared)].reshape(layout.routed, layout.width)
    return Experts(shared, np.sort(rest, axis=1))


def expert_squares(hidden: Array, down: Array, experts: Experts) -> Array:
    """Returns the squared lengths of what experts add, [tokens, routed]."""
    found = np.empty((len(hidden), len(experts.routed)), np.float32)
    for number, channels in enumerate(experts.routed):
        values, columns = hidden[:, channels], down[:, channels]
        found[:, number] = np.einsum("tc,tc->t", values @ (columns.T @ columns), values)
    return np.maximum(found, 0)


def refitted_down(hidden: Array, down: Array, computed: NDArray[np.bool_], ridge: float = _RIDGE) -> Array:
    """Returns the down projection that brings the computed channels nearest to the whole MLP's output.

    It minimises |down h - new (m h)|^2 + r |new - down|^2 over tokens, m being the channels that a token computes.

    Args:
        hidden: [tokens, channels].
        down: [outputs, channels].
        computed: [tokens, channels].
        ridge: r in units of the mean second moment of the computed channels.
    """
    seen = np.where(computed, hidden, 0).astype(np.float32)
    missed = (hidden - seen) @ down.T
    moments = seen.T @ seen
    moments.flat[:: len(moments) + 1] += _pull(moments, ridge)
    change = np.linalg.solve(moments.astype(np.float64), (seen.T @ missed).astype(np.float64)).T
    return (down + change).astype(np.float32)


def mixture_tensors(
    gate: Array, up: Array, down: Array, experts: Experts, router: Router
) -> dict[str, Array]:
    """Returns the tensors of one layer's mixture by DeepSeek-V3's names, without the layer's prefix.

    Args:
        gate: [channels, inputs], as `up`.
        down: [outputs, channels], the donor's or one of `refitted_down`.
    """
    found = {f"mlp.gate.{name}": values for name, values in gate_tensors(router).items()}
    parts = {"shared_experts": experts.shared}
    parts |= {f"experts.{number}": channels for number, channels in enumerate(experts.routed)}
    for name, channels in parts.items():
        found[f"mlp.{name}.gate_proj.weight"] = gate[channels]
        found[f"mlp.{name}.up_proj.weight"] = up[channels]
        found[f"mlp.{name}.down_proj.weight"] = np.ascontiguousarray(down[:, channels])
    return found


def _pull(moments: NDArray[np.floating], ridge: float) -> float:
    """Returns a ridge in units of the mean of the diagonal, and never 0."""
    return ridge * max(float(np.trace(moments)) / len(moments), 1e-12)


def _balanced_clusters(vectors: Array, count: int) -> NDArray[np.intp]:
    """Returns k-means clusters of equal size, [count, size], of vectors [items, features]: k-means++, then some rounds."""
    rng = np.random.default_rng(0)
    squares = np.square(vectors).sum(1)

    def distances(centres: Array) -> Array:
        return squares[:, None] + np.square(centres).sum(1) - 2 * vectors @ centres.T

    centres = vectors[[int(rng.integers(len(vectors)))]]
    while len(centres) < count:
        nearest = np.maximum(distances(centres).min(1), 0).astype(np.float64)
        chances = nearest / nearest.sum() if nearest.sum() > 0 else None
        centres = np.concatenate([centres, vectors[[int(rng.choice(len(vectors), p=chances))]]])
    groups = _assigned(distances(centres))
    for _ in range(_ROUNDS):
        moved = _assigned(distances(np.stack([vectors[one].mean(0) for one in groups])))
        if np.array_equal(moved, groups):
            break
        groups = moved
    return groups


def _assigned(costs: Array) -> NDArray[np.intp]:
    """Returns the items of each group, [groups, size] ascending; an item that would lose most by another group goes first."""
    items, count = costs.shape
    size = items // count
    labels = np.full(items, -1)
    room = np.full(count, size)
    left = np.arange(items)
    while len(left):
        # Groups fill one after another; whenever one is full, the regrets of those without a place change.
        open_costs = np.where(room > 0, costs[left], np.inf)
        best = open_costs.argmin(1)
        ordered = np.sort(open_costs, axis=1)
        regrets = ordered[:, 1] - ordered[:, 0] if count > 1 else np.zeros(len(left))
        placed = np.zeros(len(left), bool)
        for at in np.argsort(-regrets, kind="stable"):
            group = best[at]
            if not room[group]:
                continue
            labels[left[at]], placed[at] = group, True
            room[group] -= 1
            if not room[group] and room.any():
                break
        left = left[~placed]
    return np.stack([np.flatnonzero(labels == group) for group in range(count)])

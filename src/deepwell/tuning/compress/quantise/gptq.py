"""GPTQ for block formats: a matrix is rounded a column at a time, and the columns that are left make up for each error.

The error is that of the outputs on calibration inputs, tr(E H E') for H the second moments of the inputs and E the change of
the weights. A block's scales are chosen when it is reached, from weights that carry the errors before it. Then `refined`
goes over the matrix again: integers and scales of one block are chosen anew while all others stay, so the error only falls.

Source: Frantar et al., "GPTQ", arXiv:2210.17323 (section 3.3); Behdin et al., "QuantEase", arXiv:2309.01885 (section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.compress.quantise.formats import Floats, Format, Scales, encode, fit, nearest, values_of

__all__ = ["Rounded", "damped", "gptq", "objective", "quantise_matrix", "refined", "rounded"]

_CHUNK: Final = 1 << 20  # weights rounded to nearest at a time, which limits the temporaries
_DAMPING: Final = 0.01
_FLAT: Final = 1e-6  # share of the determinant below which a scale and a minimum cannot be told apart


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix in a format: integers [rows, cols], and their scales."""

    form: Format
    q: NDArray[np.int8]
    scales: Scales

    @property
    def values(self) -> Floats:
        """The float32 weights that it stands for."""
        return values_of(self.form, self.q, self.scales)

    def encoded(self) -> NDArray[np.uint8]:
        """Returns the bytes as GGUF stores them, uint8 [rows, row_bytes]."""
        return encode(self.form, self.q, self.scales)


def damped(hessian: NDArray[np.floating], share: float = _DAMPING) -> NDArray[np.float64]:
    """Returns second moments with a share of their mean diagonal added to it; inputs that never occur get that alone."""
    found = np.array(hessian, np.float64)
    mean = float(np.trace(found)) / len(found)
    found[np.diag_indices(len(found))] += max(share * mean, 1e-12)
    return found


def objective(weight: Floats, approximation: Floats, hessian: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the error of each output on the calibration inputs: e H e' for every row e of the difference."""
    off = (approximation - weight).astype(np.float64)
    return np.asarray(np.einsum("rk,rk->r", off @ hessian, off))


def rounded(weight: Floats, form: Format, importance: Floats | None = None) -> Rounded:
    """Rounds to nearest, with scales that are fitted to the weights of each group (`importance` [cols]: in the error)."""
    factors = np.ones(weight.shape[1], np.float32) if importance is None else importance
    step = max(1, _CHUNK // weight.shape[1])
    parts = [_nearest_rows(weight[at : at + step], form, factors) for at in range(0, len(weight), step)]
    q = np.concatenate([one.q for one in parts])
    return Rounded(form, q, Scales.stacked([one.scales for one in parts]))


def _nearest_rows(weight: Floats, form: Format, importance: Floats) -> Rounded:
    rows, cols = weight.shape
    scales = fit(form, weight, importance)
    d, m = scales.of_groups()
    grouped = np.asarray(weight, np.float32).reshape(rows, cols // form.group, form.group)
    q = nearest(form, grouped, d[..., None], m[..., None])
    return Rounded(form, q.reshape(rows, cols).astype(np.int8), scales)


def gptq(weight: Floats, hessian: NDArray[np.float64], form: Format) -> Rounded:
    """Rounds a matrix [rows, cols] with error compensation.

    Args:
        hessian: damped second moments of the inputs, [cols, cols].

    Blocks go in the order of their largest diagonals, and so do the columns of each: a block's columns share scales, so no
    order may tear one apart.
    """
    rows, cols = weight.shape
    order = _order(np.diag(hessian), form.block)
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    # Rows of U are what a column's error does to those behind it: inverse = U' U
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    left = np.ascontiguousarray(
        weight[:, order].T, np.float32
    )  # [cols, rows]: a column is one stretch of memory
    q = np.empty((cols, rows), np.int8)
    importance = np.diag(hessian).astype(np.float32)
    parts: dict[int, Scales] = {}
    for start in range(0, cols, form.block):
        here = slice(start, start + form.block)
        columns = order[here]
        first = int(columns.min())
        inside = columns - first
        natural = np.empty((rows, form.block), np.float32)
        natural[:, inside] = left[here].T
        scales = parts[first] = fit(form, natural, importance[first : first + form.block])
        d, m = (np.ascontiguousarray(a.T) for a in scales.of_groups())  # [groups, rows]
        errors = np.empty((form.block, rows), np.float32)
        for at in range(form.block):
            column, group = start + at, inside[at] // form.group
            found = nearest(form, left[column], d[group], m[group])
            q[column] = found
            errors[at] = (left[column] - (found * d[group] + m[group])) / factor[column, column]
            last = start + form.block
            left[column + 1 : last] -= factor[column, column + 1 : last, None] * errors[at]
        left[start + form.block :] -= factor[here, start + form.block :].T @ errors
    back = np.empty((rows, cols), np.int8)
    back[:, order] = q.T
    return Rounded(form, back, Scales.joined([parts[one] for one in sorted(parts)]))


def _order(diagonal: NDArray[np.float64], block: int) -> NDArray[np.intp]:
    """Returns the columns, blocks of the largest sum first, and in each the largest first."""
    sums = diagonal.reshape(-1, block).sum(1)
    found = [
        first * block + np.argsort(-diagonal[first * block : (first + 1) * block], kind="stable")
        for first in np.argsort(-sums, kind="stable")
    ]
    return np.concatenate(found)


def refined(weight: Floats, hessian: NDArray[np.float64], start: Rounded, *, sweeps: int = 2) -> Rounded:
    """Chooses integers, and scales of groups that have their own, anew by coordinate descent on the error of the outputs.

    Args:
        hessian: as of `gptq`.
        sweeps: passes over all columns.
    """
    form = start.form
    moments = hessian.astype(np.float32)
    q = np.array(start.q.T, np.float32)  # [cols, rows]
    d, m = (np.array(a.T) for a in start.scales.of_groups())
    off = np.ascontiguousarray(weight.T - start.values.T, np.float32)
    for _ in range(sweeps):
        for number in range(len(d)):
            here = slice(number * form.group, (number + 1) * form.group)
            pull = np.asarray(moments[here] @ off, np.float32)
            group = _Group(form, moments[here, here], q[here], d[number], m[number], off[here], pull)
            if not form.factor:
                group.rescale()
            group.redraw()
    scales = start.scales
    if not form.factor:
        half_m = m.T.astype(np.float16) if form.offset else scales.m
        scales = Scales(d.T.astype(np.float16), half_m, scales.of_d, scales.of_m)
    return Rounded(form, np.ascontiguousarray(q.T).astype(np.int8), scales)


class _Group:
    """A group of columns while it is chosen anew. All arrays but the moments are views that change in place.

    Args:
        local: moments of the group's inputs, [group, group].
        q, d, m: integers [group, rows] and scales [rows].
        off: weights minus values, [group, rows].
        pull: moments of the group's inputs with all, times `off` of all: half the slope of the error.
    """

    def __init__(
        self, form: Format, local: Floats, q: Floats, d: Floats, m: Floats, off: Floats, pull: Floats
    ) -> None:
        self._form, self._local = form, local
        self._q, self._d, self._m = q, d, m
        self._off, self._pull = off, pull
        self._values = q * d + m

    def redraw(self) -> None:
        """Moves each integer to the one that is best while all others stay."""
        for at in range(len(self._q)):
            wanted = self._values[at] + self._pull[at] / self._local[at, at]
            self._q[at] = nearest(self._form, wanted, self._d, self._m)
            step = self._values[at] - (self._q[at] * self._d + self._m)
            self._values[at] -= step
            self._off[at] += step
            self._pull += self._local[:, at, None] * step

    def rescale(self) -> None:
        """Moves scale and minimum to the best ones for the integers, in rows where float16 lets the error fall by that."""
        q, d, m, local = self._q, self._d, self._m, self._local
        side = self._pull + local @ self._values  # what the values should give behind the moments
        through = local @ q
        qq, rhs_q = np.einsum("kr,kr->r", q, through), np.einsum("kr,kr->r", q, side)
        if self._form.offset:
            ones, q1, rhs_1 = float(local.sum()), through.sum(0), side.sum(0)
            determinant = qq * ones - q1 * q1
            safe = determinant > _FLAT * qq * ones
            new_d = _half(np.where(safe, (rhs_q * ones - rhs_1 * q1) / np.where(safe, determinant, 1), d))
            new_m = _half((rhs_1 - new_d * q1) / max(ones, 1e-30))
        else:
            new_d = _half(np.where(qq > 0, rhs_q / np.where(qq > 0, qq, 1), d))
            new_m = np.zeros_like(new_d)
        step = self._values - (q * new_d + new_m)
        moved = local @ step
        change = 2 * np.einsum("kr,kr->r", step, self._pull) + np.einsum("kr,kr->r", step, moved)
        better = np.isfinite(new_d) & np.isfinite(new_m) & (change < 0)
        d[better], m[better] = new_d[better], new_m[better]
        self._values -= np.where(better, step, 0)
        self._off += np.where(better, step, 0)
        self._pull += np.where(better, moved, 0)


def _half(a: Floats) -> Floats:
    """Returns values as float16 keeps them."""
    with np.errstate(over="ignore"):
        return a.astype(np.float16).astype(np.float32)


def quantise_matrix(
    weight: Floats, hessian: NDArray[np.floating], form: Format, *, sweeps: int = 2
) -> Rounded:
    """Rounds a matrix by GPTQ and coordinate descent; a row that rounding to nearest serves better starts from that.

    Args:
        hessian: second moments of the inputs, [cols, cols], not damped yet.
    """
    moments = damped(hessian)
    plain, made = rounded(weight, form), gptq(weight, moments, form)
    worse = objective(weight, made.values, moments) > objective(weight, plain.values, moments)
    if worse.any():
        made = _rows_of(made, plain, worse)
    return refined(weight, moments, made, sweeps=sweeps)


def _rows_of(one: Rounded, other: Rounded, where: NDArray[np.bool_]) -> Rounded:
    def chosen(a: NDArray, b: NDArray) -> NDArray:  # type: ignore[type-arg]
        return np.where(where[:, None], b, a)

    x, y = one.scales, other.scales
    scales = Scales(chosen(x.d, y.d), chosen(x.m, y.m), chosen(x.of_d, y.of_d), chosen(x.of_m, y.of_m))
    return Rounded(one.form, chosen(one.q, other.q), scales)

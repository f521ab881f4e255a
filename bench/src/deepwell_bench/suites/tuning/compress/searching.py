"""Architecture search measured: beside every uniform cut of the same size, and its speed and loss after recovery.

Calibration is the pool of BBC News; what is measured are documents of its held-out set, which is frozen by hash and which no
choice sees. The uniform cuts are compared by their best on that set, which favours them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deepwell.cli.bench.engine import Ours, Run
from deepwell.cli.bench.report import Report, rounded
from deepwell.tuning.compress.shapes import WAYS, Shape, parameters_of, shapes_for
from deepwell_bench.harness.comparison import compare
from deepwell_bench.suites.tuning.compress.pruning import low_gain
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workloads.text import prompts
from deepwell_bench.workloads.tuning.labelled import LabelledText, bbc_news, drawn

if TYPE_CHECKING:
    from deepwell.tuning.compress.search.front import Point
    from deepwell.tuning.compress.training.layers import Predictions
    from deepwell.tuning.compress.training.search import Search

__all__ = ["bench_compress_search"]

_SHARES: Final = (0.1, 0.2)
_SPEEDS: Final = (1.15, 1.3)
_MARGIN: Final = 1.05  # over the speed asked for, by which a point is chosen
_BUDGETS: Final = (0.05, 0.18, 0.28)  # of weights and of time; the last two give these speeds
_CALIBRATION: Final = 400
_HELD_OUT: Final = 24
_PROMPT, _TOKENS = 64, 96


@dataclass(frozen=True, slots=True)
class _Size:
    """The best of the search at a size, and the uniform cuts beside it."""

    share: float
    point: Point
    found: Predictions
    uniform: dict[Shape, Predictions]

    @property
    def best(self) -> Shape:
        """The uniform cut of least held-out loss."""
        return min(self.uniform, key=lambda one: self.uniform[one].loss)


@dataclass(frozen=True, slots=True)
class _Fast:
    """A point taken for its speed, recovered."""

    point: Point
    cut_loss: float
    loss: float
    speed: float
    tokens_s: float
    recovery_tokens: int


def bench_compress_search(
    report: Report,
    model: Path,
    *,
    windows: int = 12,
    rounds: int = 8,
    minutes: float = 3.0,
    timed_rounds: int = 21,
    threads: int | None = None,
) -> dict[str, Any]:
    """Searches, compares with uniform cuts at 10 and 20 %, then recovers and times a point for each bar of speed.

    Args:
        windows: held-out windows of 256 tokens.
        rounds: rounds of the search.
        minutes: time of each recovery.
        timed_rounds: rounds in which the recovered points and the donor are timed, interleaved.
        threads: of the engine; None: all processors.

    Raises:
        PeerError: this environment has no torch.
    """
    need_torch("compress-search")
    from deepwell.tuning.compress.search.options import SearchOptions
    from deepwell.tuning.compress.training.run import windows_of
    from deepwell.tuning.compress.training.search import Search
    from deepwell.tuning.train.bases import open_base

    data = bbc_news()
    base = open_base(str(model))
    shapes = {share: shapes_for(base.config, share, WAYS) for share in _SHARES}
    # No more weights than the smallest of the uniform cuts of a size.
    whole = parameters_of(base.config)
    limits = {share: min(parameters_of(base.config, one) for one in shapes[share]) for share in _SHARES}
    budgets = tuple(sorted({*_BUDGETS, *(1 - limit / whole for limit in limits.values())}))
    held_out = windows_of(base.codec, _texts(data.held_out[:_HELD_OUT]))[:windows]
    with tempfile.TemporaryDirectory(prefix="deepwell-bench-search-") as folder:
        options = SearchOptions(budgets, rounds, threads=threads)
        texts = _texts(drawn(data.pool, _CALIBRATION, "prune"))
        search = Search(model, Path(folder) / "search", texts, options)
        try:
            points = search.points()
            _show_front(report, points)
            donor = search.donor.compared(search.donor.model, held_out)
            sizes = [
                _compared(report, search, points, share, limits[share], shapes[share], held_out)
                for share in _SHARES
            ]
            fast = _timed(report, search, points, held_out, Path(folder), minutes, timed_rounds, threads)
        finally:
            search.close()
    _show(report, donor.loss, sizes, fast)
    return {
        "tokens": held_out.numel(),
        "donor_loss": rounded(donor.loss),
        "search_loss": [rounded(one.found.loss) for one in sizes],
        "uniform_loss": [rounded(one.uniform[one.best].loss) for one in sizes],
        "parameters": [one.point.parameters for one in sizes],
        "gain": rounded(min(one.uniform[one.best].loss - one.found.loss for one in sizes), 3),
        "gain_low": rounded(min(low_gain(one.found, one.uniform[one.best]) for one in sizes), 3),
        "speed": [rounded(one.speed, 3) for one in fast],
        "speed_115": rounded(fast[0].speed, 3),
        "rise_115": rounded(fast[0].loss / donor.loss - 1, 3),
        "speed_130": rounded(fast[1].speed, 3),
        "rise_130": rounded(fast[1].loss / donor.loss - 1, 3),
        "cpu_seconds_per_token": [rounded(one.point.cpu_seconds_per_token, 3) for one in fast],
        "bytes_per_token": [one.point.bytes_per_token for one in fast],
        "joules_per_token": [one.point.joules_per_token for one in fast],
        "predicted_error": rounded(
            float(np.median([abs(one.predicted_tokens_s / one.tokens_s - 1) for one in points])), 2
        ),
    }


def _texts(documents: Sequence[LabelledText]) -> list[str]:
    return [one.text + "\n\n" for one in documents]


def _named(shape: Shape) -> str:
    return f"{shape.layers} layers, {shape.channels} channels, {shape.kv_heads} key heads"


def _compared(
    report: Report,
    search: Search,
    points: Sequence[Point],
    share: float,
    limit: int,
    shapes: Sequence[Shape],
    held_out: Any,
) -> _Size:
    """Measures the search's best of at most `limit` weights, by its own final text, and every uniform cut of the share."""
    best = min(
        (one for one in points[1:] if one.parameters <= limit),
        key=lambda one: (one.final_loss, one.parameters),
    )
    donor = search.donor
    found = donor.compared(search.model(best.candidate), held_out)
    report.note(f"{share:.0%}: {best.described}, loss {found.loss:.3f}")
    uniform: dict[Shape, Predictions] = {}
    donor.greedy(donor.base.config.num_hidden_layers - min(one.layers for one in shapes))
    for shape in shapes:
        uniform[shape] = donor.compared(donor.built(donor.chosen(shape)), held_out)
        report.note(f"{share:.0%} uniform: {_named(shape)}, loss {uniform[shape].loss:.3f}")
    return _Size(share, best, found, uniform)


def _timed(
    report: Report,
    search: Search,
    points: Sequence[Point],
    held_out: Any,
    folder: Path,
    minutes: float,
    rounds: int,
    threads: int | None,
) -> list[_Fast]:
    """Recovers the point of least loss for each bar of speed, and times the folders beside the donor in one session."""
    from deepwell.engine.machine import usable_cpus
    from deepwell.tuning.compress.training.recover import Recovery

    taken: list[tuple[Point, Path, float, float, int]] = []
    for speed in _SPEEDS:
        point = min(
            (one for one in points[1:] if _speed(one, points[0]) >= speed * _MARGIN),
            key=lambda one: one.final_loss,
            default=max(points[1:], key=lambda one: _speed(one, points[0])),
        )
        path = folder / f"fast-{speed}"
        before = search.donor.compared(search.model(point.candidate), held_out).loss
        card, made = search.taken(point, path, Recovery(minutes))
        loss = search.donor.compared(made, held_out).loss
        report.note(f"{speed}x: {point.described}, loss {before:.3f}, {loss:.3f} after its recovery")
        taken.append((point, path, before, loss, card["recovery"]["tokens_seen"]))
    used = threads or usable_cpus()
    with ExitStack() as stack:
        sides: dict[str, Ours] = {}
        for name, path in {"donor": search.base.path, **{str(one[1]): one[1] for one in taken}}.items():
            sides[name] = Ours(
                path,
                search.options.precision,
                threads=used,
                kv_tokens=2 * (_PROMPT + _TOKENS),
                packed_in=folder / "packed",
            )
            stack.callback(sides[name].close)

        def run(side: Ours, number: int) -> Run:
            return side.generate(prompts(search.base.path, _PROMPT, number), _TOKENS)

        result = compare(
            {name: lambda number, side=side: run(side, number) for name, side in sides.items()}, rounds
        )
    return [
        _Fast(point, before, loss, result.ratio(str(path), "donor"), result.median(str(path)), tokens)
        for point, path, before, loss, tokens in taken
    ]


def _speed(point: Point, donor: Point) -> float:
    """Returns the least of the measured speed over the donor's, the predicted one, and what a token reads less.

    The first two may be off on a busy machine. One sequence reads every weight for a token, which bounds what it can gain.
    """
    read = donor.bytes_per_token / point.bytes_per_token
    return min(point.speedup, point.predicted_tokens_s / donor.predicted_tokens_s, read)


def _show_front(report: Report, points: Sequence[Point]) -> None:
    report.table(
        "Front of the search, on its own final text, before recovery; speed of int8 on random weights",
        [
            "point",
            "weights",
            "loss",
            "rise",
            "tokens/s",
            "predicted",
            "speed",
            "CPU s",
            "bytes",
            "joules",
            "shape",
        ],
        [
            [
                str(one.number) if one.number else "donor",
                f"{one.parameters:,}",
                f"{one.final_loss:.3f}",
                f"{one.loss_rise:+.1%}",
                f"{one.tokens_s:.0f}",
                f"{one.predicted_tokens_s:.0f}",
                f"{one.speedup:.2f}",
                f"{one.cpu_seconds_per_token:.4f}",
                f"{one.bytes_per_token:,}",
                "?" if one.joules_per_token is None else f"{one.joules_per_token:.3f}",
                one.described,
            ]
            for one in points
        ],
    )


def _show(report: Report, donor: float, sizes: Sequence[_Size], fast: Sequence[_Fast]) -> None:
    rows: list[list[Any]] = [["donor", "", f"{donor:.3f}", "", ""]]
    for one in sizes:
        rows.append([f"{one.share:.0%} search", one.point.parameters, f"{one.found.loss:.3f}", "", ""])
        rows += [
            [f"{one.share:.0%} uniform", _named(shape), f"{found.loss:.3f}", "", ""]
            for shape, found in one.uniform.items()
        ]
    for one in fast:
        rise = f"{one.loss / donor - 1:+.1%}"
        rows.append(
            [
                f"recovered, {one.recovery_tokens:,} tokens",
                one.point.parameters,
                f"{one.loss:.3f}",
                rise,
                f"{one.speed:.2f}x",
            ]
        )
    report.table("Held-out loss", ["model", "weights or shape", "loss", "rise", "speed"], rows)

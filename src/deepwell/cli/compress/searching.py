"""`deepwell compress search`: evolution over depth, widths and heads, the front of what it found, and a model of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from deepwell.cli.compress.common import followed, need_torch, print_losses, print_next, texts_of
from deepwell.cli.options import stored_models
from deepwell.cli.output import (
    JsonFlag,
    console,
    print_table,
    reported_errors,
    resumable,
    typed_model,
    write_json,
)
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.tuning.compress.search.front import Point

__all__ = ["check_untaken", "print_front", "search"]

_SHARES: Final = "0.05,0.1,0.15,0.2,0.25,0.3"


Donor = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model to search smaller ones of: a name in the store, or a path.",
        autocompletion=stored_models,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="Folder for the journal, front.json and front.png. A search that was stopped goes on in it.",
    ),
]
Text = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Text of the kind that the model will serve; repeatable. Parts of it search, judge and teach. "
        "Unset: the pages of `deepwell learn`, in English and Chinese.",
    ),
]
Shares = Annotated[
    str,
    typer.Option(
        help="Shares of the weights, and of the time of a token, to leave out, with commas between: the budgets in which "
        "models compete."
    ),
]
Rounds = Annotated[
    int, typer.Option(min=1, max=1000, help="Models to run for each budget of weights and of time.")
]
Uniform = Annotated[
    bool, typer.Option("--uniform", help="Search layers of one shape alone, which every engine loads.")
]
Take = Annotated[
    int | None,
    typer.Option(min=1, help="Write this point of the front as a model, FOLDER/point-N, after the search."),
]
Padded = Annotated[
    bool,
    typer.Option(
        "--padded",
        help="Fill the taken point with zeros to layers of one shape: any engine loads it, without its speed.",
    ),
]


def search(
    model: Donor,
    out: Out,
    text: Text = None,
    shares: Shares = _SHARES,
    rounds: Rounds = 8,
    seed: Annotated[int, typer.Option(min=0, help="Number from which all chance comes.")] = 0,
    uniform: Uniform = False,
    precision: Annotated[
        Literal["int8", "int4"], typer.Option(help="Weights with which the speed is measured.")
    ] = "int8",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads with which the speed is measured; unset: all processors."),
    ] = None,
    take: Take = None,
    recover: Annotated[
        Literal["distil", "none"],
        typer.Option(help="Recovery of the point that is taken: learn the donor's predictions, or none."),
    ] = "distil",
    minutes: Annotated[
        float, typer.Option(min=0.05, max=1440, help="Minutes that the recovery takes, and no more.")
    ] = 10.0,
    padded: Padded = False,
    json: JsonFlag = False,
) -> None:
    """Search smaller models whose layers may differ, and show those that no other one beats in loss, speed and size.

    Layers may lose their attention, their MLP or a part of it. A proxy of single changes leads the evolution; the models that
    look best are run, and the finalists judged on text kept apart and timed on the engine. Needs the extra `tune`; a model of
    135 million weights takes some ten minutes on two cores. The same command goes on after a stop.
    """
    with reported_errors(as_json=json):
        wanted = _shares(shares)
        texts = texts_of(text or [])
        need_torch()
        from deepwell.tuning.compress.search.options import SearchOptions
        from deepwell.tuning.compress.target import check_target
        from deepwell.tuning.compress.training.recover import Recovery
        from deepwell.tuning.compress.training.search import STEPS, Search

        begin = time.perf_counter()
        options = SearchOptions(wanted, rounds, seed, uniform, precision, threads)
        how = Recovery(minutes) if recover == "distil" else None
        if take is not None:
            check_untaken(out / f"point-{take}")
            check_target(out / f"point-{take}", 0)
        card: Mapping[str, Any] | None = None
        with followed(STEPS, as_json=json) as told, resumable(out / "journal.jsonl"):
            found = Search(model, out, texts, options, told)
            try:
                points = found.points()
                if take is not None:
                    card = found.take(_point(points, take), out / f"point-{take}", how, as_padded=padded)
            finally:
                found.close()
        if json:
            write_json(
                {
                    "event": "end",
                    "folder": str(out),
                    "seconds": round(time.perf_counter() - begin, 1),
                    "front": [one.to_json() for one in points],
                    "taken": card,
                }
            )
        else:
            print_front(points, out, found.joules_unknown)
            if card is None:
                console().print(say("compress_front_take", last=len(points) - 1), soft_wrap=True)
            else:
                folder = out / f"point-{take}"
                console().print(say("compress_point", number=take, folder=folder), soft_wrap=True)
                print_losses(card, "cut")
                print_next(folder, model)


def _shares(given: str) -> tuple[float, ...]:
    """Returns the shares that an option names.

    Raises:
        InvalidRequest: one of them is no number, or none is given.
    """
    from deepwell.errors import InvalidRequest
    from deepwell.tuning.compress.search.options import MOST_SHARE

    try:
        found = tuple(sorted({float(one) for one in given.split(",") if one.strip()}))
    except ValueError:
        found = ()
    if not found:
        raise InvalidRequest.of("compress_shares", param="shares", given=given, most=MOST_SHARE)
    return found


def check_untaken(folder: Path) -> None:
    """Refuses a point that was taken already, before anything is searched.

    Raises:
        InvalidRequest: its folder is there.
    """
    from deepwell.errors import InvalidRequest

    if folder.is_dir() and any(folder.iterdir()):
        raise InvalidRequest.of(
            "compress_point_taken", param="take", folder=folder, model=typed_model(folder)
        )


def _point(points: Sequence[Point], number: int) -> Point:
    """Returns a point of the front.

    Raises:
        InvalidRequest: the front has none of this number.
    """
    from deepwell.errors import InvalidRequest

    if number >= len(points):
        raise InvalidRequest.of("compress_no_point", param="take", number=number, most=len(points) - 1)
    return points[number]


_FIGURES: Final = "point,weights,less,loss,rise,tokens/s,predicted,speed,CPU s,MB".split(",")


def print_front(points: Sequence[Point], out: Path, joules_unknown: str | None) -> None:
    """Prints a front: its figures, the shapes behind them, and why joules are unknown where they are."""
    rows, columns = [_row(one) for one in points], list(_FIGURES)
    about = say("compress_front_joules")
    if joules_unknown:
        about = say("compress_front_no_joules", reason=joules_unknown)
    else:
        columns += ["J"]
        joules = ["?" if one.joules_per_token is None else f"{one.joules_per_token:.3f}" for one in points]
        rows = [(*row, found) for row, found in zip(rows, joules, strict=True)]
    print_table(columns, rows, optional=("predicted",))
    console().print()
    shapes = [(_name(one), ", ".join(one.loads_in), one.described) for one in points]
    print_table(("point", "loads in", "layers"), shapes, folded=("layers",))
    line = console().print
    line(f"{say('compress_front_about')} {about}", soft_wrap=True)
    line(say("compress_front_files", table=out / "front.json", picture=out / "front.png"), soft_wrap=True)


def _name(one: Point) -> str:
    return str(one.number) if one.number else "donor"


def _row(one: Point) -> tuple[str, ...]:
    return (
        _name(one),
        f"{one.parameters / 1e6:.1f} M",
        f"{one.share:.1%}",
        f"{one.final_loss:.3f}",
        f"{one.loss_rise:+.1%}",
        f"{one.tokens_s:.0f}",
        f"{one.predicted_tokens_s:.0f}",
        f"{one.speedup:.2f}x",
        f"{one.cpu_seconds_per_token:.4f}",
        f"{one.bytes_per_token / 1e6:.0f}",
    )

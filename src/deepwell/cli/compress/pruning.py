"""`deepwell compress prune`: leaves out layers, MLP channels and key heads, and teaches what is left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from deepwell.cli.compress.common import followed, need_torch, print_losses, print_next, texts_of
from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.tuning.compress.shapes import Way

__all__ = ["prune"]

_STEPS: Final = ("activations", "layers", "candidates", "recovery")


def prune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model to prune: a name in the store, or a path.",
            autocompletion=stored_models,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the smaller model; it must not exist.")
    ],
    share: Annotated[
        float,
        typer.Option(min=0.0, max=0.7, help="Share of all weights to leave out, such as 0.2."),
    ] = 0.2,
    ways: Annotated[
        str,
        typer.Option(help="Parts that may be cut, of depth, width and heads, with commas between."),
    ] = "depth,width,heads",
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Text of the kind that the model will serve; repeatable. It chooses what goes and teaches what stays. "
            "Unset: the pages of `deepwell learn`, in English and Chinese.",
        ),
    ] = None,
    recover: Annotated[
        Literal["distil", "none"],
        typer.Option(help="Recovery after the cut: learn the donor's predictions on the text, or none."),
    ] = "distil",
    minutes: Annotated[
        float, typer.Option(min=0.05, max=1440, help="Minutes that the recovery takes, and no more.")
    ] = 10.0,
    gguf: Annotated[
        bool,
        typer.Option("--gguf", help="Write model.gguf too, for llama.cpp; the donor has to be a GGUF file."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Leave out layers, MLP channels and key heads that matter least, and write a folder that every engine loads.

    The smaller model has one width for all layers, so transformers, llama.cpp and Deepwell load it as any other. Needs the
    extra `tune`. A model of 135 million weights takes some two minutes on two processors, then the minutes of its recovery.
    """
    with reported_errors(as_json=json):
        wanted = _ways(ways)
        texts = texts_of(text or [])
        need_torch()
        from deepwell.tuning.compress.training.recover import Recovery
        from deepwell.tuning.compress.training.run import prune as run

        begin = time.perf_counter()
        with followed(_STEPS, as_json=json) as told:
            card = run(
                model,
                out,
                share,
                texts=texts,
                ways=wanted,
                recovery=Recovery(minutes) if recover == "distil" else None,
                gguf=gguf,
                say=told,
            )
        if json:
            seconds = round(time.perf_counter() - begin, 1)
            write_json({"event": "end", "folder": str(out), "seconds": seconds, **card})
        else:
            _show(card, out, model)


def _ways(given: str) -> list[Way]:
    """Returns the ways that an option names.

    Raises:
        InvalidRequest: one of them is none, or none is given.
    """
    from deepwell.errors import InvalidRequest
    from deepwell.tuning.compress.shapes import WAYS

    wanted = [one.strip() for one in given.split(",") if one.strip()]
    unknown = [one for one in wanted if one not in WAYS]
    if unknown or not wanted:
        wrong = unknown[0] if unknown else given
        raise InvalidRequest.of("compress_ways", param="ways", given=wrong, known=", ".join(WAYS))
    return [one for one in WAYS if one in wanted]


def _show(card: Mapping[str, Any], out: Path, donor: str) -> None:
    shape = card["shape"]
    line = say(
        "compress_pruned",
        folder=out,
        left=card["parameters"],
        whole=card["base_parameters"],
        cut=card["cut"],
        layers=shape["layers"],
        channels=shape["channels"],
        heads=shape["kv_heads"],
    )
    console().print(line, soft_wrap=True)
    print_losses(card, "cut")
    print_next(out, donor, quantisable=True)

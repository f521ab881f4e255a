"""`deepwell compress quantise`: writes a GGUF file in blocks of 3, 4 or 8 bits, calibrated on text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from deepwell.cli.compress.common import followed, need_torch, print_next, texts_of
from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.messages import say

__all__ = ["quantise"]


def quantise(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model to quantise: a name in the store, or a path.",
            autocompletion=stored_models,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="GGUF file to write; it must not exist.")],
    kind: Annotated[
        Literal["q4_0", "q4_1", "q4_k", "q8_0", "q3_k"],
        typer.Option(
            "--type",
            help="Block format of the layers' matrices. Where 256 does not divide the rows of a matrix, q4_k writes Q4_1 and "
            "q3_k writes Q4_0.",
        ),
    ] = "q4_1",
    method: Annotated[
        Literal["auto", "gptq", "awq", "none"],
        typer.Option(
            help="Rounding of the values. gptq: later columns make up for the errors of earlier ones. "
            "awq: channels that matter get finer steps. auto: gptq, with awq's steps where they help in the first layers. "
            "none: round to nearest, without text."
        ),
    ] = "auto",
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Text of the kind that the model will serve, which the errors are weighed by; repeatable. "
            "Unset: the pages of `deepwell learn`, in English and Chinese.",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Write a model in 3, 4 or 8 bits a weight as a GGUF file, for Deepwell and llama.cpp, with less loss than by rounding.

    Embedding and head become Q8_0. Deepwell takes the 4-bit types as int4 without rounding them again. Needs the extra `tune`;
    a model of 135 million weights takes some minutes.
    """
    with reported_errors(as_json=json):
        texts = texts_of(text or [])
        need_torch()
        from deepwell.tuning.compress.training.quantise import quantise as run

        begin = time.perf_counter()
        with followed(("quantise",), as_json=json) as told:
            card = run(
                model, out, kind=kind, method=method, texts=texts, say=lambda done: told("quantise", done)
            )
        if json:
            seconds = round(time.perf_counter() - begin, 1)
            write_json({"event": "end", "file": str(out), "seconds": seconds, **card})
        else:
            _show(card, out, model)


def _show(card: Mapping[str, Any], out: Path, donor: str) -> None:
    total = sum(card["weights"].values())
    parts = ", ".join(
        f"{count / total:.0%} {name}" for name, count in card["weights"].items() if count / total > 0.005
    )
    line = console().print
    line(
        say("compress_file", file=out, megabytes=card["bytes"] / 1e6, weights=total, parts=parts),
        soft_wrap=True,
    )
    if card["loss"] is not None:
        line(say("compress_loss_apart", donor=card["loss_before"], loss=card["loss"]), soft_wrap=True)
    print_next(out, donor)

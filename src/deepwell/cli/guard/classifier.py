"""`deepwell guard eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.output import JsonFlag as Json
from deepwell.cli.output import console, reported_errors, write_json

__all__ = ["evaluate"]


def evaluate(
    texts: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File of JSON lines, each with `text` and `category`: injection, jailbreak, harmful or benign.",
            exists=True,
            dir_okay=False,
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="File of weights; unset: those of the package.", dir_okay=False)
    ] = None,
    json: Json = False,
) -> None:
    """Score labelled texts, and print how many of each category are found."""
    with reported_errors(as_json=json):
        from deepwell.safety.classifier.evaluate import evaluated, read_labelled
        from deepwell.safety.classifier.weights import SHIPPED

        figures = evaluated(read_labelled(texts), weights or SHIPPED)
        if json:
            write_json({"categories": figures})
            return
        for category, figure in figures.items():
            console().print(
                f"{category}: {figure['found']} of {figure['texts']} found ({figure['percent']} %)"
            )

"""Verbs of `deepwell bench` on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.bench.options import Json, Row, measure

__all__ = ["image_generation"]


def image_generation(
    model: Annotated[
        Path | None, typer.Option(help="Folder of the network that draws; left out: that of the package.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="PNG that gets drawings, each below the nearest picture of the training."),
    ] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Draws held-out prompts: how many are recognised, how fast, and how near to pictures of the training."""
    from deepwell.bench.harness.assets import e5_small
    from deepwell.bench.suites.media.generation import bench_image_generation
    from deepwell.bench.suites.media.space_images import embedded_images
    from deepwell.media.images.options import SHIPPED

    measure(
        "image_generation",
        row,
        json,
        lambda report: bench_image_generation(
            report, model or SHIPPED, e5_small(), embedded_images(), picture=picture
        ),
    )

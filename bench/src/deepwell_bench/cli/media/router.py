"""Verbs of `deepwell bench` on the router."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = ["media_router"]


def media_router(
    requests: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of train.jsonl and held_out.jsonl; left out: that of the repository.",
        ),
    ] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Routes 300 held-out requests in Chinese and English: what they ask for, and the time of a request."""
    from deepwell.llm import LLM
    from deepwell_bench.harness.assets import e5_small, repository
    from deepwell_bench.suites.media.router import bench_media_router

    folder = requests or repository() / "bench" / "data" / "requests"
    with LLM(e5_small()) as encoder:
        measure(
            "media_router",
            row,
            json,
            lambda report: bench_media_router(
                report, folder / "held_out.jsonl", folder / "train.jsonl", encoder.embed
            ),
        )

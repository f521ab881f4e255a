"""Verbs of `deepwell bench` on files that mean harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

if TYPE_CHECKING:
    from deepwell_bench.workloads.hostile_reach import Kind

__all__ = ["hostile_files", "media_hostile"]


def media_hostile(
    recognition: Annotated[
        str, typer.Option(help="Recognition model of the server: a name in the store, or a folder.")
    ] = "whisper-tiny.en",
    every: Annotated[int, typer.Option(min=1, help="Send every n-th file alone.")] = 1,
    row: Row = None,
    json: Json = False,
) -> None:
    """Sends 100 hostile images and recordings to a server: bombs, cut files, loops, scripts, playlists."""
    from deepwell_bench.harness.assets import smollm2
    from deepwell_bench.suites.media.hostile import bench_media_hostile

    measure(
        "media_hostile",
        row,
        json,
        lambda report: bench_media_hostile(report, smollm2(), recognition, every=every),
    )


def hostile_files(
    recognition: Annotated[
        str, typer.Option(help="Recognition model of the server: a name in the store, or a folder.")
    ] = "whisper-tiny.en",
    seed: Annotated[int, typer.Option(help="Seed of the mutations, and of the choice of models.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Send every n-th file alone.")] = 1,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Kind of files: document, image, sound or model; all if none is named."),
    ] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Sends more than 500 hostile documents, images, recordings and models to a server, and watches what they reach."""
    from deepwell_bench.harness.assets import smollm2
    from deepwell_bench.suites.media.hostile import KINDS, bench_hostile_files

    kinds: list[Kind] = [one for one in KINDS if not kind or one in kind]
    measure(
        "hostile_files",
        row,
        json,
        lambda report: bench_hostile_files(
            report, smollm2(), recognition, seed=seed, every=every, kinds=kinds
        ),
    )

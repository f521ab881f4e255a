"""Verbs of `deepwell bench` on text that is read aloud."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = ["speech_round_trip"]


def speech_round_trip(
    model: Annotated[
        str, typer.Option(help="Speech model to measure: a name in the store, or a folder.")
    ] = "kokoro",
    recognition: Annotated[
        str,
        typer.Option(
            help="Multilingual recognition model that listens: a name in the store, or a folder."
            " `deepwell pull --catalog bench/assets.toml whisper-base-f16` brings one without a hub."
        ),
    ] = "whisper-base",
    every: Annotated[int, typer.Option(min=1, help="Read every n-th sentence alone.")] = 1,
    threads: Annotated[
        int, typer.Option(min=0, help="Compute threads of either model; 0: the cores that may be used.")
    ] = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Reads sentences aloud and has them recognised: characters and words that are heard wrong, and the speed of speech."""
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings
    from deepwell_bench.suites.media.round_trip import bench_speech_round_trip

    store = ModelStore(Settings.load().models_dir)
    measure(
        "speech_round_trip",
        row,
        json,
        lambda report: bench_speech_round_trip(
            report, store.resolve(model).path, store.resolve(recognition).path, every=every, threads=threads
        ),
    )

"""Verbs of `deepwell bench` on the recognition of speech."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = ["speech_recognition"]


def speech_recognition(
    model: Annotated[
        str, typer.Option(help="Recognition model to measure: a name in the store, or a folder.")
    ] = "whisper-tiny.en",
    every: Annotated[int, typer.Option(min=1, help="Hear every n-th recording alone.")] = 1,
    threads: Annotated[
        int, typer.Option(min=0, help="Compute threads of either side; 0: the cores that may be used.")
    ] = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures word errors on real recordings, clean and in noise, beside faster-whisper alone on the same model."""
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings
    from deepwell_bench.suites.media.recognition import bench_speech_recognition

    measure(
        "speech_recognition",
        row,
        json,
        lambda report: bench_speech_recognition(
            report,
            ModelStore(Settings.load().models_dir).resolve(model).path,
            every=every,
            threads=threads,
        ),
    )

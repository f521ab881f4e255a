"""Verbs of `deepwell bench` on the space of text, image and sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

if TYPE_CHECKING:
    from deepwell.media.space.weights import SpaceWeights
    from deepwell_bench.workloads.media.space import SpaceWorkload

__all__ = ["media_dynamic_weights", "media_shared_encoder", "media_space"]

Weights = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder of the heads; left out: those that come with Deepwell."),
]
Recognition = Annotated[
    str, typer.Option(help="Whisper base whose encoder hears: a name in the store, or a folder.")
]
Threads = Annotated[int, typer.Option(min=0, help="Compute threads; 0: the cores that may be used.")]


def media_space(
    weights: Weights = None,
    recognition: Recognition = "whisper-base-f16",
    cascade_every: Annotated[
        int, typer.Option(min=1, help="Transcribe every n-th sentence for the comparison.")
    ] = 1,
    threads: Threads = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Finds held-out pictures by text and by speech, and held-out sentences by speech, beside transcribing first."""
    from deepwell_bench.suites.media.space import bench_media_space

    with _opened(weights, recognition, threads) as (workload, found):
        measure(
            "media_space",
            row,
            json,
            lambda report: bench_media_space(report, workload, found, cascade_every=cascade_every),
        )


def media_shared_encoder(
    weights: Weights = None,
    recognition: Recognition = "whisper-base-f16",
    steps: Annotated[int, typer.Option(min=1, help="Steps of either training.")] = 400,
    threads: Threads = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Trains one encoder that images and sound share, and one for each, and compares parameters and recall."""
    from deepwell_bench.suites.media.shared import bench_media_shared_encoder

    with _opened(weights, recognition, threads) as (workload, found):
        measure(
            "media_shared_encoder",
            row,
            json,
            lambda report: bench_media_shared_encoder(report, workload, found, steps),
        )


def media_dynamic_weights(
    weights: Weights = None,
    recognition: Recognition = "whisper-base-f16",
    threads: Threads = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Finds captions by a picture and speech together, with noise and without: gates against a fixed average."""
    from deepwell_bench.suites.media.fusion import bench_media_dynamic_weights

    with _opened(weights, recognition, threads) as (workload, found):
        measure(
            "media_dynamic_weights",
            row,
            json,
            lambda report: bench_media_dynamic_weights(report, workload, found),
        )


@contextmanager
def _opened(
    weights: Path | None, recognition: str, threads: int
) -> Iterator[tuple[SpaceWorkload, SpaceWeights]]:
    from deepwell.engine.machine import usable_cpus
    from deepwell.llm import LLM
    from deepwell.media.images.training.shipped import shipped_pictures
    from deepwell.media.space.training.encoder import made_image_encoder
    from deepwell.media.space.weights import SHIPPED, SpaceWeights
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings
    from deepwell_bench.harness.assets import bench_cache
    from deepwell_bench.workloads.media.space import SpaceModels, SpaceWorkload

    settings = Settings.load()
    store = ModelStore(settings.models_dir)
    found = SpaceWeights.read(weights or SHIPPED)
    home = settings.models_dir.parent
    with LLM(found.config.text_encoder, models_dir=settings.models_dir) as embedder:
        models = SpaceModels(
            lambda texts: embedder.embed([found.config.prefix + text for text in texts]),
            found.tensors["centre"],
            made_image_encoder(home / "space"),
            store.resolve(settings.speech_model).path,
            store.resolve(recognition).path,
            threads or usable_cpus(),
        )
        yield SpaceWorkload(models, shipped_pictures(home / "media"), bench_cache() / "space"), found

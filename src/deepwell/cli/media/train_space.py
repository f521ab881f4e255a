"""`deepwell media train space`: trains the heads of the space of text, image and sound."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import counted

if TYPE_CHECKING:
    from deepwell.media.space.training.run import TrainingInputs
    from deepwell.settings import Settings

__all__ = ["train_space"]

Part = Literal["image", "sound", "fusion", "names"]


def train_space(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            help="Folder of captioned pictures: images.npy and pictures.jsonl; left out: emoji, clip art and Fashion-MNIST,"
            " which are fetched.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the run; a run that was stopped there goes on. The weights end in its folder weights.",
        ),
    ] = Path("runs/space"),
    part: Annotated[
        Part | None,
        typer.Option(help="Part to train; left out: all, in the order image, sound, fusion, names."),
    ] = None,
    encoder_only: Annotated[
        bool,
        typer.Option(
            "--encoder-only",
            help="Make the file of the image encoder, which the shipped heads need, and train nothing.",
        ),
    ] = False,
    recognition: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="Whisper base whose encoder hears: a name in the store, or a path."
        ),
    ] = "whisper-base-f16",
    threads: Annotated[int, typer.Option(min=0, help="Compute threads; 0: the cores that may be used.")] = 0,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Train the heads that put images and sound among e5-small's texts. It needs the extra tune."""
    with reported_errors(as_json=json), ExitStack() as stack:
        from importlib.util import find_spec

        from deepwell.errors import MissingDependency
        from deepwell.settings import Settings

        if find_spec("torch") is None:
            raise MissingDependency.of("tune_missing", package="torch")
        if encoder_only:
            _make_encoder(Settings.load(models_dir=models_dir), json=json)
            return
        from deepwell.media.space.training.run import SpaceTraining

        begin = time.perf_counter()
        update = stack.enter_context(counted("", shown=not json))
        tell = _teller(update, json=json)
        inputs = _inputs(stack, Settings.load(models_dir=models_dir), data, recognition, threads, tell)
        training = SpaceTraining(inputs, out, tell)
        stages: dict[Part, Callable[[], Any]] = {
            "image": training.images,
            "sound": training.sounds,
            "fusion": training.fusion,
            "names": training.names,
        }
        for name, stage in stages.items():
            if part in (None, name):
                stage()
        tell(
            {
                "event": "end",
                "weights": str(out / "weights"),
                "seconds": round(time.perf_counter() - begin, 1),
            }
        )


def _make_encoder(settings: Settings, *, json: bool) -> None:
    from deepwell.media.space.training.encoder import made_image_encoder

    file = made_image_encoder(settings.models_dir.parent / "space")
    if json:
        write_json({"event": "end", "image_encoder": str(file)})
    else:
        console().print(str(file), soft_wrap=True, markup=False, highlight=False)


def _inputs(
    stack: ExitStack,
    settings: Settings,
    data: Path | None,
    recognition: str,
    threads: int,
    tell: Callable[[dict[str, Any]], None],
) -> TrainingInputs:
    from deepwell.engine.machine import usable_cpus
    from deepwell.llm import LLM
    from deepwell.media.images.training.pictures import PictureSet
    from deepwell.media.images.training.shipped import shipped_pictures
    from deepwell.media.space.training.encoder import made_image_encoder
    from deepwell.media.space.training.run import TrainingInputs
    from deepwell.media.space.weights import SpaceConfig
    from deepwell.models.store.store import ModelStore

    config = SpaceConfig()
    cache = settings.models_dir.parent / "media"
    store = ModelStore(settings.models_dir)

    def drawn(done: int, total: int) -> None:
        tell({"event": "progress", "what": "pictures drawn", "done": done, "of": total})

    pictures = PictureSet.read(data) if data is not None else shipped_pictures(cache, drawn)
    embedder = stack.enter_context(LLM(config.text_encoder, models_dir=settings.models_dir))
    return TrainingInputs(
        pictures,
        lambda texts: embedder.embed([config.prefix + text for text in texts]),
        made_image_encoder(settings.models_dir.parent / "space"),
        store.resolve(settings.speech_model).path,
        store.resolve(recognition).path,
        settings.models_dir.parent / "media" / "packages",
        threads or usable_cpus(),
    )


def _teller(update: Callable[[int, int], None], *, json: bool) -> Callable[[dict[str, Any]], None]:
    """Returns the function that shows the events of a run: as JSON, or as text where they are more than progress."""

    def tell(event: dict[str, Any]) -> None:
        if json:
            write_json(event)
        elif event["event"] == "progress":
            update(event["done"], event["of"])
        else:
            values = ", ".join(f"{key} {value}" for key, value in event.items() if key != "event")
            console().print(f"{event['event']}: {values}", soft_wrap=True, markup=False)

    return tell

"""`deepwell media train image`: trains the network that draws."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import counted

if TYPE_CHECKING:
    from deepwell.media.images.flow import Float
    from deepwell.media.images.training.pictures import PictureSet
    from deepwell.media.images.training.train import FlowTraining, Step
    from deepwell.settings import Settings

__all__ = ["train_image"]


def train_image(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            help="Folder of pictures, each with its caption; left out: emoji, clip art and Fashion-MNIST, which are fetched.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Folder of the run and of its model; a run that was stopped there goes on."
        ),
    ] = Path("runs/image"),
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of the optimiser; left out: those of the shipped weights."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures a step; left out: those of the shipped weights.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first weights, of the noise and of the order.")] = 1,
    text_encoder: Annotated[
        str, typer.Option(metavar="MODEL", help="Encoder of the captions: a name in the store, or a path.")
    ] = "e5-small-q4",
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Train the network that draws pictures from text. It needs the extra tune. Use the folder as the model of `media draw`."""
    with reported_errors(as_json=json), ExitStack() as stack:
        from importlib.util import find_spec

        from deepwell.errors import MissingDependency
        from deepwell.settings import Settings

        for package in ("torch", "PIL", "resvg_py"):
            if find_spec(package) is None:
                raise MissingDependency.of("tune_missing", package=package)
        begin = time.perf_counter()
        settings = Settings.load(models_dir=models_dir)
        pictures = _pictures(stack, settings, data, json=json)
        vectors = _vectors(settings, pictures, text_encoder, json=json)
        last = _trained(stack, pictures, vectors, out, (steps, batch, seed, text_encoder), json=json)
        seconds = round(time.perf_counter() - begin, 1)
        if json:
            write_json({"event": "end", "model": str(out), "seconds": seconds, "loss": last})
        else:
            console().print(f"{out}: {seconds:.0f} s, loss {last:.4f}", soft_wrap=True)
            console().print(
                f"deepwell media draw --model {out} 'a red apple' --out apple.png", soft_wrap=True
            )


def _pictures(stack: ExitStack, settings: Settings, data: Path | None, *, json: bool) -> PictureSet:
    from deepwell.media.images.training.folder import folder_pictures
    from deepwell.media.images.training.pictures import PictureSet
    from deepwell.media.images.training.shipped import shipped_pictures

    if data is None:
        update = stack.enter_context(counted("drawings", shown=not json))
        return shipped_pictures(settings.models_dir.parent / "media", update)
    return PictureSet.read(data) if (data / "pictures.jsonl").is_file() else folder_pictures(data)


def _vectors(settings: Settings, pictures: PictureSet, encoder: str, *, json: bool) -> dict[str, Float]:
    from deepwell.llm import LLM
    from deepwell.media.images.flow import FlowConfig

    prefix = FlowConfig().prefix
    texts = sorted({text for index in pictures.where("train") for text in pictures.rows[index].prompts()})
    with LLM(encoder, models_dir=settings.models_dir) as model:
        found = model.embed([prefix + text for text in texts], progress=not json)
    return dict(zip(texts, found, strict=True))


def _trained(
    stack: ExitStack,
    pictures: PictureSet,
    vectors: dict[str, Float],
    out: Path,
    choices: tuple[int | None, int | None, int, str],
    *,
    json: bool,
) -> float:
    """Trains, and returns the last error."""
    from deepwell.media.images.flow import FlowConfig
    from deepwell.media.images.training.batches import TrainOptions
    from deepwell.media.images.training.train import train_flow

    steps, batch, seed, encoder = choices
    usual = TrainOptions()
    options = TrainOptions(steps=steps or usual.steps, batch=batch or usual.batch, seed=seed)
    config = FlowConfig(condition=len(next(iter(vectors.values()))), text_encoder=encoder)
    update: Callable[[int, int], None] = stack.enter_context(counted("steps", shown=not json))
    last = [0.0]

    def report(step: Step, _: FlowTraining) -> None:
        last[0] = step.loss
        update(step.step, options.steps)
        if json:
            told = {"step": step.step, "loss": step.loss, "pictures_per_s": round(step.pictures_per_s, 1)}
            write_json({"event": "step", **told})

    train_flow(pictures, vectors, out, config, options, report)
    return last[0]

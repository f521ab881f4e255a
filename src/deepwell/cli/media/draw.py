"""`deepwell media draw`: a text, an image, or both become images, without a server."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import counted
from deepwell.process.calls import SINGLE_TENANT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepwell.media.images.decode import Picture
    from deepwell.media.images.options import ImageRequest
    from deepwell.media.images.process import Painter
    from deepwell.media.images.protocol import Canvas
    from deepwell.settings import Settings

__all__ = ["draw"]

Size = Literal["auto", "256x256", "512x512", "1024x1024", "1536x1024", "1024x1536"]
Format = Literal["png", "jpeg", "webp"]
Guidance = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=20.0,
        help="Weight of the prompt; left out: 3, or what a pipeline of diffusers has; 1 is the model's own.",
    ),
]
Negative = Annotated[
    str,
    typer.Option(
        "--negative", metavar="TEXT", help="Things the image should not show, for pipelines of diffusers."
    ),
]
_SUFFIXES = {"jpg": "jpeg"}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call of the verb, checked as far as that needs no model."""

    prompt: str | None
    out: Path
    format: Format
    size: Size
    seed: int
    count: int
    steps: int
    guidance: float | None
    strength: float
    source: Path | None
    mask: Path | None
    negative: str

    @property
    def files(self) -> Sequence[Path]:
        """The files of the images: several are numbered."""
        if self.count == 1:
            return [self.out]
        return [self.out.with_stem(f"{self.out.stem}-{number}") for number in range(1, self.count + 1)]


def draw(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE", help="File that gets the image; its ending is png, jpeg or webp."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="Description of the image, in Chinese or English.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="IMAGE", help="Image to change: PNG, JPEG, WebP or GIF.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            metavar="MASK",
            help="Image of the same size, transparent where the first is painted anew.",
        ),
    ] = None,
    vary: Annotated[
        bool, typer.Option("--vary", help="Draw images like that of --from, without a prompt.")
    ] = False,
    strength: Annotated[
        float,
        typer.Option(
            min=0.01, max=1.0, help="Share of the image of --from that is given up where there is no mask."
        ),
    ] = 0.7,
    size: Annotated[
        Size,
        typer.Option(
            help="Width and height of the files; auto is 512x512, or the square of a pipeline of diffusers."
        ),
    ] = "auto",
    count: Annotated[
        int, typer.Option(min=1, max=10, metavar="N", help="Number of images; several files are numbered.")
    ] = 1,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the first image; left out: a random one, which is told."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Steps of each image.")] = 24,
    guidance: Guidance = None,
    negative: Negative = "",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model that draws: a name in the store, or a path; left out: that of the setting image_model.",
        ),
    ] = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Draw an image of a text into a file, or change an image, on this machine."""
    with reported_errors(as_json=json):
        from deepwell.media.images.options import MAX_SEED
        from deepwell.settings import Settings

        _check(prompt, negative, source, mask, vary=vary)
        first = secrets.randbelow(MAX_SEED) if seed is None else min(seed, MAX_SEED)
        asked = _Asked(
            prompt, out, _format(out), size, first, count, steps, guidance, strength, source, mask, negative
        )
        settings = Settings.load(models_dir=models_dir)
        painter = _painter(settings, model or settings.image_model)
        report = asyncio.run(_drawn(painter, settings, asked, shown=not json))
        if json:
            write_json(report)
            return
        for one in report["images"]:
            console().print(
                f"{one['file']}: {report['size']}, seed {one['seed']}", soft_wrap=True, markup=False
            )


def _painter(settings: Settings, name: str) -> Painter:
    from deepwell.media.images.options import find_safety, open_image_model
    from deepwell.media.images.process import Painter, PainterLimits
    from deepwell.media.images.provenance import Credential
    from deepwell.media.images.reader import check_installed
    from deepwell.models.store.store import ModelStore

    check_installed()
    store = ModelStore(settings.models_dir)
    return Painter(
        open_image_model(store, name),
        find_safety(store, settings.image_guard),
        PainterLimits(settings.threads or 0, settings.image_guard_score),
        Credential.of(settings.image_certificate, settings.image_certificate_key),
    )


def _check(prompt: str | None, negative: str, source: Path | None, mask: Path | None, *, vary: bool) -> None:
    from deepwell.errors import InvalidRequest
    from deepwell.media.images.options import MAX_CHARACTERS

    if source is None and (mask is not None or vary):
        raise InvalidRequest.of("image_mask_alone")
    if vary and (prompt or mask is not None):
        raise InvalidRequest.of("image_vary_prompt")
    if not prompt and not vary:
        raise InvalidRequest.of("image_nothing")
    for file in (source, mask):
        if file is not None and not file.is_file():
            raise InvalidRequest.of("image_file", file=file, reason=os.strerror(errno.ENOENT))
    for text in (prompt or "", negative):
        if len(text) > MAX_CHARACTERS:
            raise InvalidRequest.of("image_prompt_long", count=len(text), most=MAX_CHARACTERS)


def _format(out: Path) -> Format:
    from deepwell.errors import InvalidRequest

    ending = out.suffix.lower().removeprefix(".")
    found = _SUFFIXES.get(ending, ending)
    if found not in get_args(Format):
        raise InvalidRequest.of("image_format", file=out, known=", ".join(get_args(Format)))
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InvalidRequest.of("image_out", file=out)
    return cast("Format", found)


async def _drawn(painter: Painter, settings: Settings, asked: _Asked, *, shown: bool) -> dict[str, Any]:
    """Draws the images. Each is written beside its file, which gets its name when it is whole."""
    from deepwell.errors import InvalidRequest

    files, seeds = asked.files, list[int]()
    try:
        request = await _planned(painter, settings, asked)
        with counted("steps drawn", shown=shown) as update:
            async with aclosing(painter.draw(SINGLE_TENANT, request)) as steps:
                async for step in steps:
                    update(step.done, step.total)
                    if step.last:
                        _write(files[step.image], step.data)
                        seeds.append(step.seed)
    except OSError as error:
        raise InvalidRequest.of("image_file", file=asked.out, reason=error.strerror) from error
    finally:
        await painter.close()
    return {
        "model": painter.model.name,
        "size": f"{request.size[0]}x{request.size[1]}",
        "format": asked.format,
        "steps": asked.steps,
        "images": [{"file": str(file), "seed": seed} for file, seed in zip(files, seeds, strict=True)],
    }


def _write(file: Path, data: bytes) -> None:
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(data)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


async def _planned(painter: Painter, settings: Settings, asked: _Asked) -> ImageRequest:
    from deepwell.media.images.options import ImageRequest

    canvas = await painter.start(SINGLE_TENANT)
    size = canvas.file_size(asked.size)
    picture, opacity = await _pictures(painter, canvas, asked, min(size))
    mode = "text" if picture is None else "image" if opacity is None else "mask"
    canvas.check(painter.model.name, mode, asked.negative)
    condition = None
    if asked.prompt is not None and canvas.text_encoder:
        condition = await _encoded(painter, canvas, settings, asked.prompt)
    elif not canvas.text_encoder:
        for text in filter(None, (asked.prompt, asked.negative)):
            await painter.count(SINGLE_TENANT, text)  # is refused where it is too long
    return ImageRequest(
        condition,
        asked.seed,
        asked.count,
        asked.steps,
        asked.guidance,
        picture,
        asked.strength,
        opacity,
        size,
        asked.format,
        mark=settings.image_mark,
        prompt=asked.prompt or "",
        negative=asked.negative,
        drawn=canvas.drawn_size(size, square=picture is not None),
    )


async def _pictures(
    painter: Painter, canvas: Canvas, asked: _Asked, side: int
) -> tuple[Picture | None, tuple[NDArray[np.uint8], NDArray[np.uint8]] | None]:
    """Returns the image to change, and how much of it stays. `side`: of the square that is asked for."""
    from deepwell.media.images.options import opacity_of
    from deepwell.media.images.reader import ImageReader

    if asked.source is None:
        return None, None
    reader = ImageReader()
    try:
        picture = await reader.read(SINGLE_TENANT, asked.source, canvas.size, side)
        await painter.check(SINGLE_TENANT, picture.look)
        if asked.prompt is None:
            return picture, None
        mask = None if asked.mask is None else await reader.read(SINGLE_TENANT, asked.mask, canvas.size, side)
        return picture, opacity_of(picture, mask)
    finally:
        await reader.close()


async def _encoded(painter: Painter, canvas: Canvas, settings: Settings, prompt: str) -> NDArray[np.float32]:
    from deepwell.errors import InvalidRequest
    from deepwell.knowledge.embedders import Embedders

    embedders = Embedders(settings.models_dir)
    try:
        encoder = await embedders.named(canvas.text_encoder)
        vector = (await encoder.embed([canvas.prefix + prompt], "plain"))[0]
    finally:
        await embedders.close()
    if len(vector) != canvas.condition:
        raise InvalidRequest.of(
            "image_model_encoder",
            name=painter.model.name,
            needed=canvas.condition,
            encoder=encoder.name,
            found=len(vector),
        )
    return vector

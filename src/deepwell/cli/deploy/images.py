"""`deepwell deploy images`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

__all__ = ["images"]


def images(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images to build: haproxy, postgres, valkey, prometheus or api; unset: all.",
            metavar="NAME...",
        ),
    ] = None,
    source: Annotated[Path, typer.Option(help="Folder of the repository.")] = Path(),
    base: Annotated[
        str | None,
        typer.Option(
            help="Image to build on; unset: localhost/debian:trixie if it is there, else that of the Containerfile."
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            help="Secret of the build: id=pip,src=FILE, id=ca,src=FILE or id=apt,src=FILE; repeatable."
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Build the images that the grade `containers` runs, with podman: some minutes the first time, seconds later."""
    with reported_errors(as_json=json):
        from deepwell.errors import InvalidRequest
        from deepwell.fleet.pods.images import IMAGES, build_image

        known = {one.target: one for one in IMAGES}
        if unknown := [one for one in name or () if one not in known]:
            raise InvalidRequest(f"there is no image {unknown[0]!r}", fix=f"choose of {', '.join(known)}")
        out = console()
        for target, image in known.items():
            if name and target not in name:
                continue
            began = time.monotonic()

            def line(text: str, target: str = target) -> None:
                if json:
                    write_json({"event": "line", "image": target, "text": text})
                else:
                    out.print(f"{target:10}| {text}", soft_wrap=True, markup=False, highlight=False)

            build_image(image, source.absolute(), base=base, build_secrets=secret or (), on_line=line)
            seconds = round(time.monotonic() - began, 1)
            if json:
                write_json({"event": "built", "image": image.name, "seconds": seconds})
            else:
                out.print(f"{image.name} is built ({seconds:g} s)")

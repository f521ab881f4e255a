"""`deepwell models synth` and `verify`: packed models of random weights, and whether packed files are whole."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

__all__ = ["register"]


def register(models: typer.Typer) -> None:
    """Add both to `deepwell models`."""
    models.command()(synth)
    models.command()(verify)


def synth(
    shape: Annotated[
        str,
        typer.Option(
            help="Shape: deepseek-v2-lite, deepseek-v3-8layers, deepseek-v4-flash, qwen3-moe-30b-a3b, mixture-1b or "
            "its twin dense-1b."
        ),
    ],
    precision: Annotated[
        str, typer.Option(help="Format of the weights: int8, int4 (8-bit head) or int4-full.")
    ] = "int8",
    layers: Annotated[
        int | None, typer.Option(min=1, help="Number of layers, where it is to be fewer than the shape has.")
    ] = None,
    prediction: Annotated[
        bool, typer.Option("--prediction", help="Add a multi-token prediction layer behind the last one.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Directory to create; unset: one beside the model store.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Write a packed model of random weights in the shape of a real one, to measure its speed; its answers are noise."""
    with reported_errors(as_json=json):
        from typing import cast

        from deepwell.engine.layouts import Precision
        from deepwell.engine.weights.synth import shape_config, synthesize
        from deepwell.settings import Settings

        config = shape_config(shape, layers, prediction=prediction)
        if output is None:
            suffix = (f"-{layers}" if layers else "") + ("-prediction" if prediction else "")
            store = Settings.load(models_dir=models_dir).models_dir
            output = store.parent / "synthetic" / f"{shape}{suffix}-{precision}"
        with _bar("writing", shown=not json) as progress:
            nbytes = synthesize(output, config, cast("Precision", precision), seed=seed, progress=progress)
        if json:
            write_json({"directory": str(output), "shape": shape, "precision": precision, "bytes": nbytes})
        else:
            console().print(f"wrote {nbytes / 1e9:.2f} GB to {output}", soft_wrap=True)


def verify(
    path: Annotated[
        Path,
        typer.Argument(
            help="File of packed weights (.dwpack), or a directory of such files.", metavar="PATH"
        ),
    ],
    json: JsonFlag = False,
) -> None:
    """Compare packed files with their checksums; a start skips this for files of 4 GB and more."""
    with reported_errors(as_json=json):
        from deepwell.engine.weights.load import verify_packed
        from deepwell.errors import InvalidModelFile, ModelNotFound

        files = [path] if path.is_file() else sorted(path.glob("*.dwpack"))
        if not files:
            raise ModelNotFound(f"{path} holds no .dwpack file", fix="name a packed file or its directory")
        for file in files:
            with _bar("reading", shown=not json) as progress:
                damaged = verify_packed(file, progress=progress)
            if damaged:
                raise InvalidModelFile(
                    f"{file}: the bytes of {', '.join(damaged[:3])}{' and others' * (len(damaged) > 3)} have changed",
                    fix="delete it: the next start packs it again",
                )
        if json:
            write_json({"whole": [str(file) for file in files]})
        else:
            console().print(f"{len(files)} packed file{'s' * (len(files) > 1)} whole", soft_wrap=True)


@contextmanager
def _bar(verb: str, *, shown: bool) -> Generator[Callable[[int, int], None] | None]:
    """A bar for bytes done of bytes in all, on a terminal."""
    err = console(stderr=True)
    if not (shown and err.is_terminal):
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(verb), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

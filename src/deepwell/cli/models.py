"""`deepwell models`: what is in the store and in the catalog."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli import synth
from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.models.store.catalog import Pin
    from deepwell.models.store.manifest import Manifest
    from deepwell.models.store.store import ModelStore

__all__ = ["register"]

Name = Annotated[str, typer.Argument(help="A model in the store.", metavar="NAME")]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    models = typer.Typer(
        no_args_is_help=True, help="List, show, remove, export, synthesise and verify models."
    )
    models.command("list")(list_models)
    models.command()(show)
    models.command()(remove)
    models.command()(export)
    synth.register(models)
    app.add_typer(models, name="models")


_PIN_WORDS: dict[Pin, str] = {
    "sha256": "sha256: every file is as the shipped catalog says",
    "revision": "revision: the Hugging Face commit is the catalog's, the hub said which files belong to it",
    "none": "none: nothing but its source vouches for it",
}


def _pin_of(manifest: Manifest) -> Pin:
    """Returns the strength of the pin that a stored model was accepted by, as far as its manifest shows."""
    from deepwell.models.store.catalog import shipped_catalog, vouching_entry

    if vouching_entry(manifest) is not None:
        return "sha256"
    listed = shipped_catalog().get(manifest.name)
    commit = manifest.revision and f"@{manifest.revision}"
    is_pinned = listed and commit and manifest.source in listed.sources and commit in manifest.source
    return "revision" if is_pinned else "none"


def _store(models_dir: Path | None) -> ModelStore:
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings

    return ModelStore(Settings.load(models_dir=models_dir).models_dir)


def list_models(models_dir: ModelsDir = None, json: JsonFlag = False) -> None:
    """List the models in the store, and those that the catalog could bring."""
    with reported_errors(as_json=json):
        from deepwell.models.store.catalog import shipped_catalog

        stored = _store(models_dir).list()
        manifests = {model.name: model.manifest for model in stored if model.manifest}
        others = [entry for entry in shipped_catalog().values() if entry.name not in manifests]
        if json:
            write_json(
                {
                    "models": [
                        m.to_json() | {"size_bytes": m.size_bytes, "pin": _pin_of(m)}
                        for m in manifests.values()
                    ],
                    "catalog": [
                        {"name": e.name, "summary": e.summary, "licence": e.licence, "pin": e.pin}
                        for e in others
                    ],
                }
            )
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column("model")
        table.add_column("size", justify="right")
        table.add_column("licence")
        table.add_column("pinned by")
        table.add_column()
        for name, m in manifests.items():
            size = f"{m.size_bytes / 1e6:.0f} MB"
            table.add_row(name, size, m.licence or "not stated", _pin_of(m), m.architecture)
        for entry in others:
            table.add_row(entry.name, "-", entry.licence, entry.pin, entry.summary, style="dim")
        console().print(table)
        if others:
            console().print("\nDimmed ones are not here yet: `deepwell pull NAME` brings one.")


def show(name: Name, models_dir: ModelsDir = None, json: JsonFlag = False) -> None:
    """Show where a model came from: source, hashes, licence, architecture, chat template."""
    with reported_errors(as_json=json):
        stored = _store(models_dir).get(name)
        manifest = stored.manifest
        assert manifest is not None
        if json:
            facts = manifest.to_json() | {"size_bytes": manifest.size_bytes, "pin": _pin_of(manifest)}
            write_json({"path": str(stored.path), **facts})
            return
        rows = {
            "path": str(stored.path),
            "source": manifest.source,
            "revision": manifest.revision or "-",
            "pinned by": _PIN_WORDS[_pin_of(manifest)],
            "licence": manifest.licence or "not stated",
            "architecture": manifest.architecture,
            "chat template": f"sha256 {manifest.template_hash}" if manifest.template_hash else "none",
            "pulled": manifest.created,
        }
        out = console()
        for key, value in rows.items():
            out.print(f"{key:14} {value}", soft_wrap=True)
        for file in manifest.files:
            out.print(
                f"{'file':14} {file.name}  {file.size_bytes} bytes  sha256 {file.sha256}", soft_wrap=True
            )


def remove(name: Name, models_dir: ModelsDir = None, json: JsonFlag = False) -> None:
    """Delete a model from the store."""
    with reported_errors(as_json=json):
        _store(models_dir).remove(name)
        if json:
            write_json({"removed": name})
        else:
            console().print(f"removed {name}")


def export(
    name: Annotated[str, typer.Argument(help="A model in the store, or a path.", metavar="MODEL")],
    output: Annotated[Path, typer.Argument(help="The directory to write.", metavar="DIRECTORY")],
    to: Annotated[str, typer.Option(help="The format: safetensors.")] = "safetensors",
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, bfloat16 or float16.")] = "bfloat16",
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Write a model as a directory that transformers loads."""
    with reported_errors(as_json=json):
        from deepwell.errors import InvalidRequest
        from deepwell.models.formats.checkpoint import open_checkpoint
        from deepwell.models.store.export import export_safetensors
        from deepwell.models.text.tokenizer import Tokenizer

        if to != "safetensors":
            raise InvalidRequest(f"no export to {to!r}", fix="use --to safetensors")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise InvalidRequest(f"no export as {dtype!r}", fix="use --dtype float32, bfloat16 or float16")
        stored = _store(models_dir).resolve(name)
        checkpoint = open_checkpoint(stored.path)
        tokenizer = Tokenizer.load(stored.path)
        values = sum(math.prod(checkpoint.tensor(tensor).shape) for tensor in checkpoint.names)
        with _bar(values * (4 if dtype == "float32" else 2), shown=not json) as progress:
            export_safetensors(checkpoint, output, dtype, tokenizer=tokenizer, progress=progress)
        if json:
            write_json({"model": stored.name, "directory": str(output), "format": to, "dtype": dtype})
        else:
            console().print(f"wrote {stored.name} as {dtype} safetensors to {output}", soft_wrap=True)


@contextmanager
def _bar(total_bytes: int, *, shown: bool) -> Generator[Callable[[int], None] | None]:
    """A bar for the bytes written, on a terminal."""
    err = console(stderr=True)
    if not (shown and err.is_terminal):
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("exporting"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=total_bytes)
        yield lambda nbytes: bar.advance(task, nbytes)

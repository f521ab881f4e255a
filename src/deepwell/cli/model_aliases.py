"""`deepwell models alias`: further names of models, which running servers learn within seconds."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.usage import Verbs

if TYPE_CHECKING:
    from deepwell.settings import Settings
    from deepwell.storage.aliases import Alias, AliasStore

__all__ = ["register"]

_BY = "cli"  # where the API notes the id of a key
_PAGE = 100

Name = Annotated[str, typer.Argument(help="Name of the alias.", metavar="NAME")]


def register(models: typer.Typer) -> None:
    """Add the group to `deepwell models`."""
    alias = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Set, list and remove further names of models, and see their history.",
    )
    alias.command("set")(set_alias)
    alias.command("list")(list_aliases)
    alias.command()(history)
    alias.command()(remove)
    models.add_typer(alias, name="alias")


@contextmanager
def _store(settings: Settings) -> Generator[AliasStore]:
    from deepwell.storage.aliases import AliasStore
    from deepwell.storage.database import Database
    from deepwell.storage.safety.anchors import Anchors

    database = Database.of(settings)
    try:
        yield AliasStore(database, Anchors.of(settings))
    finally:
        database.close()


def set_alias(
    name: Name,
    target: Annotated[
        str,
        typer.Argument(
            help="Model that the alias means: a name by which a server serves it.",
            metavar="MODEL",
            autocompletion=stored_models,
        ),
    ],
    json: JsonFlag = False,
) -> None:
    """Make a name mean a model. Running servers on the same database follow within seconds."""
    with reported_errors(as_json=json):
        import asyncio

        from deepwell.models.store.store import ModelStore
        from deepwell.settings import Settings

        settings = Settings.load()
        with _store(settings) as store:
            alias = asyncio.run(store.set(name, target, _BY))
        is_stored = target in ModelStore(settings.models_dir).names()
        if json:
            write_json(_plain(alias) | {"stored": is_stored})
            return
        out = console()
        out.print(f"{alias.name} means {alias.model}", soft_wrap=True, markup=False)
        if not is_stored:
            note = f"There is no {target} in the model store here: requests fail until a server serves it."
            out.print(note, soft_wrap=True, markup=False)


def list_aliases(json: JsonFlag = False) -> None:
    """List all aliases with the models that they mean."""
    with reported_errors(as_json=json):
        import asyncio

        from deepwell.settings import Settings

        with _store(Settings.load()) as store:
            found = asyncio.run(_all(store))
        if json:
            write_json({"aliases": [_plain(one) for one in found]})
            return
        if not found:
            console().print("There is no alias yet: `deepwell models alias set NAME MODEL` makes one.")
            return
        rows = [(one.name, one.model, _minute(one.changed_at), one.changed_by) for one in found]
        columns = ("alias", "model", "changed", "by")
        print_table(columns, rows, folded=columns[1:])


def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of changes to show.")] = 20,
    json: JsonFlag = False,
) -> None:
    """Show the changes of an alias, the newest first. They stay when the alias is removed."""
    with reported_errors(as_json=json):
        import asyncio

        from deepwell.settings import Settings

        with _store(Settings.load()) as store:
            found = asyncio.run(store.history(name, limit=limit)).data
        if json:
            changes = [
                {"id": one.id, "model": one.model, "changed_at": one.changed_at, "changed_by": one.changed_by}
                for one in found
            ]
            write_json({"name": name, "changes": changes})
            return
        rows = [(_minute(one.changed_at), one.model or "(removed)", one.changed_by) for one in found]
        columns = ("changed", "model", "by")
        print_table(columns, rows, folded=columns[1:])


def remove(name: Name, json: JsonFlag = False) -> None:
    """Remove an alias. Its model stays, and so does its history."""
    with reported_errors(as_json=json):
        import asyncio

        from deepwell.settings import Settings

        with _store(Settings.load()) as store:
            asyncio.run(store.remove(name, _BY))
        if json:
            write_json({"removed": name})
            return
        console().print(f"{name} is removed", soft_wrap=True, markup=False)


async def _all(store: AliasStore) -> list[Alias]:
    found: list[Alias] = []
    while True:
        page = await store.list(after=found[-1].name if found else None, limit=_PAGE)
        found += page.data
        if not page.has_more:
            return found


def _plain(alias: Alias) -> dict[str, str | int]:
    return {
        "name": alias.name,
        "model": alias.model,
        "changed_at": alias.changed_at,
        "changed_by": alias.changed_by,
    }


def _minute(when: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))

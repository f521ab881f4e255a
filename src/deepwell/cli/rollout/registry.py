"""`deepwell models versions|log|register`: the registry of the models behind aliases."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.rollout.opened import Alias, By, minute, opened_database, opened_rollouts

__all__ = ["register"]

Some = Annotated[str | None, typer.Argument(help="Name of the alias; unset: all.", metavar="ALIAS")]
_PASSED = {True: "passed", False: "refused", None: "not seen"}


def register(models: typer.Typer) -> None:
    """Add the verbs to `deepwell models`."""
    models.command()(versions)
    models.command()(log)
    models.command("register")(register_version)


def versions(alias: Some = None, json: JsonFlag = False) -> None:
    """List the versions of the model behind an alias, with what they were made from and what their gates say."""
    with reported_errors(as_json=json):
        with opened_rollouts(alias) as rollouts:
            story = asyncio.run(rollouts.registry.story(alias))
        found = list(story.versions.values())
        if json:
            write_json({"versions": [asdict(one) | {"passed": one.passed} for one in found]})
            return
        if not found:
            console().print("There is no version yet: `deepwell models register ALIAS NAME` adds one.")
            return
        aliases = {name: state for name, state in story.aliases.items() if state is not None}
        now = {(name, state.model): "serves" for name, state in aliases.items()}
        now |= {(name, state.candidate or ""): "canary" for name, state in aliases.items()}
        rows = [
            (
                one.id,
                one.model,
                _PASSED[one.passed],
                now.get((one.alias, one.model), ""),
                minute(one.at_ms),
                one.by,
                ", ".join(one.parents),
            )
            for one in found
        ]
        columns = ("version", "model", "gates", "now", "registered", "by", "made from")
        print_table(columns, rows, folded=columns[-1:], optional=("registered", "by"))
        for one in found:
            refused = [] if one.gates is None else [gate for gate in one.gates["gates"] if not gate["passed"]]
            if refused:
                console().print(f"{one.id} was refused:", soft_wrap=True)
            for gate in refused:
                console().print(f"  {gate['name']}: {gate['reason']}", soft_wrap=True)


def log(alias: Some = None, json: JsonFlag = False) -> None:
    """Tell everything that happened to an alias, and verify the ledger. The exit code is 1 if a byte of it was changed."""
    with reported_errors(as_json=json):
        from deepwell.fleet.promotion.check import check_ledger
        from deepwell.fleet.promotion.words import in_words
        from deepwell.storage.registry.ledger import Ledger

        with opened_database(alias) as (database, anchors):
            checked = check_ledger(database, anchors)
            entries = asyncio.run(Ledger(database).readable(alias))
        head = f"{checked.head.sequence}:{checked.head.hash}"
        if json:
            told = [asdict(one) | {"words": in_words(one)} for one in entries]
            write_json({"holds": checked.holds, "head": head, "problems": checked.problems, "entries": told})
        else:
            out = console()
            for one in entries:
                out.print(
                    f"{one.sequence:>4}  {minute(one.at_ms)}  {in_words(one)}; by {one.by}", soft_wrap=True
                )
            for problem in checked.problems:
                out.print(problem, soft_wrap=True)
            out.print(
                f"The ledger {'holds' if checked.holds else 'was changed'}; head {head}", soft_wrap=True
            )
        if not checked.holds:
            raise typer.Exit(1)


def register_version(
    alias: Alias,
    served: Annotated[
        str, typer.Argument(help="Name by which servers know it: a model, or an adapter.", metavar="NAME")
    ],
    artefact: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `deepwell tune` wrote; its record and hash are kept.", metavar="FOLDER"
        ),
    ] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(help="Model or version that it was made from; repeatable.", metavar="NAME"),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Policy of the guard that moves with the version in a deployment.", metavar="POLICY"
        ),
    ] = None,
    knowledge: Annotated[
        str | None,
        typer.Option(help="Knowledge base that moves with the version in a deployment.", metavar="NAME"),
    ] = None,
    by: By = "cli",
    json: JsonFlag = False,
) -> None:
    """Add a version of the model behind an alias. Nobody gets it before a roll-out."""
    with reported_errors(as_json=json):
        from deepwell.fleet.promotion.artefact import version_of
        from deepwell.storage.registry.store import NewVersion

        parents = parent or []
        told = (
            NewVersion(served, parents=parents)
            if artefact is None
            # Servers, which stand in other folders, load it from there
            else version_of(served, artefact.absolute(), parents)
        )
        moving = {"policy": policy, "knowledge": knowledge}
        config = {**told.config, **{name: one for name, one in moving.items() if one is not None}}
        told = replace(told, config=config)
        with opened_rollouts(alias) as rollouts:
            made = asyncio.run(rollouts.register(alias, told, by))
        if json:
            write_json(asdict(made))
            return
        console().print(f"{made.id} is {made.model}", soft_wrap=True)
        console().print(f"Roll it out: deepwell rollout start {alias} {made.number}", soft_wrap=True)

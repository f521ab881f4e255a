"""`deepwell improve`: rounds from votes to a better adapter that passes gates and a canary, or is refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import ModelOption
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.rollout.opened import Alias, opened_database
from deepwell.cli.usage import Verbs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deepwell.fleet.improve.parts import Say
    from deepwell.settings import Settings

__all__ = ["folder_of", "parts_of", "register"]

FolderOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the state and the rounds. Unset: improve/ALIAS in adapter_dir, or in state_dir if that is unset.",
        metavar="FOLDER",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    improve = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Improve the model behind an alias by what users say of its answers: train, measure, roll out or refuse.",
    )
    improve.command()(run)
    improve.command()(status)
    app.add_typer(improve, name="improve")


def run(
    alias: Alias,
    model: ModelOption = None,
    tenant: Annotated[
        list[str] | None,
        typer.Option(
            help="Tenant whose votes train and decide; may be repeated. Unset: `local`, a server without keys."
        ),
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(
            help="URL of a server that answers for the alias and is to serve the candidate; may be repeated. Unset: the "
            "server of the settings."
        ),
    ] = None,
    folder: FolderOption = None,
    frozen: Annotated[
        Path | None,
        typer.Option(
            help="Folder with choices.jsonl, texts.txt, harmful.txt and harmless.txt to measure on. Unset: those that Deepwell "
            "comes with.",
            metavar="FOLDER",
        ),
    ] = None,
    least_new: Annotated[int, typer.Option(min=1, help="Number of new votes that start another round.")] = 50,
    held_out: Annotated[
        float,
        typer.Option(min=0.05, max=0.5, help="Share of the users whose votes judge and are not trained on."),
    ] = 0.2,
    share: Annotated[
        float,
        typer.Option(
            min=0.001, max=0.999, help="Share of the users that get the candidate first, between 0 and 1."
        ),
    ] = 0.1,
    json: JsonFlag = False,
) -> None:
    """Go on with the round under way, or begin one, until it ends or waits for votes. Run it as often as you like."""
    with reported_errors(as_json=json):
        from deepwell.fleet.improve.loop import Improver, ImproveTerms
        from deepwell.fleet.improve.sets import SHIPPED, read_sets
        from deepwell.fleet.promotion.rollout import Rollouts
        from deepwell.settings import Settings
        from deepwell.tuning.align.votes import CurationLimits

        settings = Settings.load()
        sets, tenants = read_sets(frozen or SHIPPED), tenant or ["local"]
        terms = ImproveTerms(
            alias,
            str(model or settings.model),
            least_new=least_new,
            limits=CurationLimits(held_out_share=held_out),
            share=share,
            hashes=sets.hashes,
            tenants=tuple(tenants),
        )
        place = folder_of(folder, alias, settings)
        with opened_database() as (database, anchors):
            parts = parts_of(database, tenants, sets, _servers(server, place, settings))
            improver = Improver(terms, place, database, Rollouts(database, anchors), parts)
            found = asyncio.run(improver.run(write_json if json else _Shown()))
        if json:
            write_json({"event": "progress", **found.to_json()})
            return
        _print(alias, found.to_json())


def status(alias: Alias, folder: FolderOption = None, json: JsonFlag = False) -> None:
    """Show the round under way, or how the last one ended, and the gates of its candidate."""
    with reported_errors(as_json=json):
        from dataclasses import asdict

        from deepwell.fleet.improve.state import StateFile
        from deepwell.fleet.promotion.rollout import Rollouts
        from deepwell.settings import Settings

        state = StateFile(folder_of(folder, alias, Settings.load())).read()
        found = None if state is None or state.round is None else state.round
        with opened_database() as (database, anchors):
            story = asyncio.run(Rollouts(database, anchors).registry.story(alias))
        version = None if found is None else story.versions.get(found.version)
        gates = [] if version is None or version.gates is None else version.gates["gates"]
        told = {"round": None if found is None else asdict(found), "gates": gates}
        if json:
            write_json({"alias": alias, **told})
            return
        if found is None:
            console().print(
                f"There was no round yet: `deepwell improve run {alias}` begins one.", soft_wrap=True
            )
            return
        _print(alias, told)
        if gates:
            rows = [(one["name"], "passed" if one["passed"] else "refused", one["reason"]) for one in gates]
            print_table(("gate", "result", "reason"), rows, folded=("reason",))


def folder_of(folder: Path | None, alias: str, settings: Settings) -> Path:
    """Returns the folder of the rounds of an alias: the one that was named, or that of the settings."""
    if folder is not None:
        return folder.absolute()
    from deepwell.fleet.improve.state import loop_folder

    return loop_folder(settings.adapter_dir or settings.state_dir, alias)


def parts_of(
    database: Any, tenants: Sequence[str], sets: Any, publish: Any, threads: int | None = None
) -> Any:
    """Returns the parts of a round: the database's votes, a training process, the engine, and a publisher.

    Args:
        threads: those of the training; unset: the usable cores.
    """
    from deepwell.fleet.improve.measure import EngineMeasure, Judges
    from deepwell.fleet.improve.parts import Parts
    from deepwell.fleet.improve.rehearsal import write_rehearsal
    from deepwell.fleet.improve.training import train_adapter
    from deepwell.safety.moderation.scorer import shipped_moderator
    from deepwell.storage.database import Tenant
    from deepwell.tuning.align.feedback import collect_votes_of

    async def collect() -> list[Any]:
        return await collect_votes_of(database, [Tenant(one) for one in tenants])

    async def train(folder: Path, say: Say) -> Path:
        return await train_adapter(folder, say, threads=threads or len(os.sched_getaffinity(0)))

    moderator = shipped_moderator()
    measure = EngineMeasure(sets, Judges(lambda request, answer: moderator.moderate(answer).flagged))
    return Parts(collect, train, measure, publish, write_rehearsal)


def _servers(named: Sequence[str] | None, place: Path, settings: Settings) -> Any:
    """Returns the servers that are to serve a candidate."""
    from deepwell.cli.servers import client_key, server_url
    from deepwell.fleet.improve.serving import Servers

    key = client_key(settings)
    urls = [one.rstrip("/").removesuffix("/v1") for one in named or [server_url(settings)]]
    return Servers(urls, place, None if key is None else key.get_secret_value())


class _Shown:
    """Shows events as lines, and training as a line that is replaced."""

    def __init__(self) -> None:
        self._out = console(stderr=True)
        self._told = -1

    def __call__(self, event: Mapping[str, Any]) -> None:
        show: Callable[[Mapping[str, Any]], str] | None = _SHOW.get(event["event"])
        if event["event"] == "training":
            self._training(event)
        elif show is not None:
            self._out.print(show(event), soft_wrap=True)

    def _training(self, event: Mapping[str, Any]) -> None:
        """Tells of every tenth part of a training, with the time that is left."""
        if event["part"] != "step":
            return
        total = max(int(event.get("steps") or event.get("total") or 1), 1)
        tenth = 10 * int(event["step"]) // total
        if tenth != self._told:
            self._told = tenth
            minutes, seconds = divmod(round(event["seconds_left"]), 60)
            self._out.print(f"  step {event['step']}: loss {event['loss']:.3f}, {minutes}:{seconds:02} left")


_STAGES = {
    "train": "train {model} by the votes",
    "measure": "measure {model} beside the current model",
    "register": "enter {model} in the registry",
    "serve": "look for {model} on the servers",
    "canary": "look at the votes of the users of {model}",
}
_SHOW: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "votes": lambda one: (
        f"{one['read']} votes: {one['train']} to train on, {one['held_out']} held out, {one['new']} new"
    ),
    "stage": lambda one: f"Round {one['round']}: {_STAGES[one['stage']].format(model=one['model'])}",
    "gate": lambda one: f"  {one['name']}: {'passed' if one['passed'] else 'refused'}: {one['reason']}",
    "canary": lambda one: f"  {100 * one['share']:g} % of the users get it",
}


def _print(alias: str, told: Mapping[str, Any]) -> None:
    out, found = console(), told["round"]
    if found is not None and found["outcome"] is not None and not told.get("waiting"):
        name = found["version"] or found["model"]
        out.print(f"{name}: {found['outcome'].replace('_', ' ')}", soft_wrap=True)
        if found["reason"]:
            out.print(found["reason"], soft_wrap=True)
        out.print(f"The whole story: deepwell models log {alias}", soft_wrap=True)
    elif found is not None and found["stage"] != "ended":
        out.print(f"Round {found['number']} with {found['model']}: {found['stage']}", soft_wrap=True)
    if waiting := told.get("waiting"):
        out.print(f"Waiting: {waiting}", soft_wrap=True)

"""`deepwell knowledge add|watch`."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.knowledge.options import Name, TenantOption, indexing, ingesting, run
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.ray.options import LOCAL, Cpus, On, executor_on, print_tally, tally_json

if TYPE_CHECKING:
    from deepwell.knowledge.local import LocalKnowledge
    from deepwell.knowledge.refresh import Round
    from deepwell.storage.knowledge.sources import StoredSource

__all__ = ["add", "fill", "print_added", "watch"]

What = Annotated[
    list[str] | None,
    typer.Argument(
        help=(
            "Folder, file, https:// page, feed:URL, sitemap:URL, 'sql:URL SELECT ...' or live:URL; "
            "without any, look again at the sources that were added before."
        ),
        metavar="WHAT...",
    ),
]
OptionFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-o", help="Option of the source as name=value, such as include=*.md; repeatable."
    ),
]


def add(
    name: Name,
    what: What = None,
    option: OptionFlag = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create the knowledge base if there is none of this name.")
    ] = False,
    tenant: TenantOption = None,
    on: On = LOCAL,
    cpus: Cpus = 1,
    json: JsonFlag = False,
) -> None:
    """Add documents, and look again at the sources that were added before.

    A file that changed replaces its old text, one that is gone is removed, and nothing is embedded twice. A file that
    cannot be read is reported and does not stop the others. With --on, passages are embedded on a cluster, to the same vectors.
    """
    with reported_errors(as_json=json), ExitStack() as stack:
        spread = None
        if on != LOCAL:
            from deepwell.fleet.pieces.passages import SpreadPassages

            spread = stack.enter_context(SpreadPassages(stack.enter_context(executor_on(on, cpus)), cpus))

        async def work(knowledge: LocalKnowledge) -> dict[str, Any]:
            return await fill(knowledge, name, what or (), option or (), create=create, shown=not json)

        found = run(tenant, work, spread)
        if json:
            write_json(found | (tally_json(on, spread.tally) if spread else {}))
        else:
            print_added(found)
            if spread:
                print_tally(on, spread.tally)
        if found["failed"] and not (found["added"] or found["changed"] or found["unchanged"]):
            raise typer.Exit(1)


async def fill(
    knowledge: LocalKnowledge,
    name: str,
    what: Sequence[str],
    options: Sequence[str] = (),
    *,
    create: bool,
    shown: bool,
) -> dict[str, Any]:
    """Adds sources to a knowledge base, or looks again at those that it has, and ingests what changed.

    Args:
        what: the sources, as on the command line; empty: those that it has.
        create: make the knowledge base if there is none of this name.
        shown: show progress bars.

    Returns:
        The numbers and reasons that `deepwell knowledge add` prints.
    """
    from deepwell.errors import NotFound
    from deepwell.knowledge.sources.opening import parse_source

    specs = [parse_source(one, options) for one in what]
    try:
        store = await knowledge.find(name)
    except NotFound:
        if not create:
            raise
        store = await knowledge.create(name)
    sources = [await knowledge.add_source(store, spec) for spec in specs]
    if not specs:
        sources = await knowledge.kept.sources.list(knowledge.tenant, store.id)
    failed_before = {one.file_id for one in await knowledge.failed(store.id)}
    rounds = [await knowledge.refresh(source) for source in sources]
    all_failed = await ingesting(knowledge, store.id, shown=shown)
    failed = [one for one in all_failed if one.file_id not in failed_before]
    await indexing(knowledge, store.id, shown=shown)
    chunks = await knowledge.kept.stores.chunk_count(knowledge.tenant, store.id)
    return {
        "name": store.name,
        "id": store.id,
        **_sums(rounds, len(failed)),
        "chunks": chunks,
        "skipped": {uri: reason for one in rounds for uri, reason in one.skipped.items()},
        "failed": _complaints(rounds)
        | {one.uri or await knowledge.filename(one.file_id): one.error for one in failed},
        "failed_before": len(all_failed) - len(failed),
    }


def watch(name: Name, tenant: TenantOption = None, json: JsonFlag = False) -> None:
    """Follow the sources of a knowledge base until Ctrl-C: a changed file is found within a second."""
    with reported_errors(as_json=json):

        async def work(knowledge: LocalKnowledge) -> None:
            store = await knowledge.find(name)
            sources = [
                one
                for one in await knowledge.kept.sources.list(knowledge.tenant, store.id)
                if not json_module.loads(one.spec)["kind"].startswith("live")
            ]
            if not sources:
                from deepwell.errors import InvalidRequest

                raise InvalidRequest(
                    f"{store.name} has no source to follow",
                    fix=f"add one: `deepwell knowledge add {store.name} FOLDER`",
                )
            if not json:
                console(stderr=True).print(
                    f"following {store.name} (sources: {len(sources)}); Ctrl-C ends it", soft_wrap=True
                )
            await _follow(knowledge, sources, as_json=json)

        run(tenant, work)


async def _follow(knowledge: LocalKnowledge, sources: list[StoredSource], *, as_json: bool) -> None:
    import asyncio

    from deepwell.errors import DeepwellError

    async def one(source: StoredSource, running: Any) -> None:
        try:
            await follow(source, running)
        except DeepwellError as error:  # the other sources are followed on
            if as_json:
                write_json({"change": "failed", "uri": source.id, "reason": str(error)})
            else:
                console(stderr=True).print(f"{source.id}: {error}", style="yellow", soft_wrap=True)

    async def follow(source: StoredSource, running: Any) -> None:
        async for change in knowledge.refresher.watch(knowledge.tenant, source):
            running.wake()
            said = {"change": change.kind, "uri": change.uri}
            if change.error is not None or change.reason:
                said["reason"] = str(change.error or change.reason)
            if as_json:
                write_json(said)
            else:
                console().print(" ".join((said | {"uri": _shown(change.uri)}).values()), soft_wrap=True)

    async with knowledge.running() as running, asyncio.TaskGroup() as group:
        for source in sources:
            group.create_task(one(source, running))


def _shown(uri: str) -> str:
    """Returns an address for people: the path of a file is not percent-encoded."""
    from urllib.parse import unquote

    return unquote(uri) if uri.startswith("file:") else uri


def _sums(rounds: list[Round], failed: int) -> dict[str, int]:
    """Returns the numbers of documents by what became of them. Those that were queued and then failed count as neither."""
    sums = {
        name: sum(getattr(one, name) for one in rounds)
        for name in ("added", "changed", "removed", "unchanged")
    }
    for name in ("added", "changed"):
        taken = min(sums[name], failed)
        sums[name] -= taken
        failed -= taken
    return sums


def _complaints(rounds: list[Round]) -> dict[str, str]:
    return {uri: reason for one in rounds for uri, reason in one.failed.items()}


def print_added(found: dict[str, Any]) -> None:
    """Prints what `fill` returned."""
    out = console()
    out.print(
        f"{found['name']}: {found['added']} added, {found['changed']} changed, {found['removed']} removed, "
        f"{found['unchanged']} unchanged; {found['chunks']} chunks in all",
        soft_wrap=True,
    )
    err = console(stderr=True)
    for uri, reason in found["skipped"].items():
        err.print(f"skipped: {_shown(uri)}: {reason}", style="dim", soft_wrap=True)
    for uri, reason in found["failed"].items():
        err.print(f"not read: {_shown(uri)}: {reason}", style="yellow", soft_wrap=True)
    if found["failed_before"]:
        err.print(
            f"not read earlier: {found['failed_before']}; `deepwell knowledge show {found['name']}` says why",
            style="yellow",
            soft_wrap=True,
        )

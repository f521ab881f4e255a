"""`deepwell audit verify|export|prune`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.clock import shared_time

if TYPE_CHECKING:
    from deepwell.storage.safety.audit import AuditStore, Chain
    from deepwell.storage.safety.chain import Head
    from deepwell.storage.safety.verify import Verified

__all__ = ["audit_store", "chosen_chains", "export", "prune", "verify"]

_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")
_AGE = re.compile(r"([1-9][0-9]{0,5})d")
_DAY_S = 86_400
_BAR_FROM = 20_000  # entries: fewer are verified before a bar could be read

TenantOption = Annotated[
    str | None, typer.Option(help="Tenant whose trail to take; unset: the trails of all.", metavar="TENANT")
]
ChainOption = Annotated[
    str | None,
    typer.Option(help="Id of one trail, such as that of a tenant who was erased.", metavar="CHAIN"),
]


@contextmanager
def audit_store() -> Generator[AuditStore]:
    """Opens the trails of the database that the settings name, with this host's anchors."""
    from deepwell.settings import Settings
    from deepwell.storage.database import Database
    from deepwell.storage.safety.anchors import Anchors
    from deepwell.storage.safety.audit import AuditStore

    settings = Settings.load()
    database = Database.of(settings)
    try:
        yield AuditStore(database, Anchors.of(settings))
    finally:
        database.close()


def chosen_chains(store: AuditStore, tenant: str | None, chain: str | None) -> Sequence[Chain]:
    """Returns the chain of a tenant, the one of an id, or all.

    Raises:
        NotFound: there is none of this name.
    """
    from deepwell.storage.database import Tenant

    found = asyncio.run(store.chains(None if tenant is None else Tenant(tenant)))
    if chain is not None:
        found = [one for one in found if one.id == chain]
    if not found and (tenant is not None or chain is not None):
        raise NotFound(
            f"there is no audit trail of {tenant or chain!r}", fix="list them: deepwell audit verify"
        )
    return found


def verify(
    tenant: TenantOption = None,
    chain: ChainOption = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Verify an exported file in the place of the database.", metavar="FILE"),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="Head that was written down earlier, as SEQUENCE:HASH; the trail has to contain it; repeatable.",
            metavar="HEAD",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Verify that no entry was changed, removed, moved or cut off. The exit code is 1 if one was."""
    with reported_errors(as_json=json):
        from deepwell.storage.safety.verify import verify_lines

        known = [_head(one) for one in head or ()]
        if file is not None:
            with file.open("rb") as stream:
                results = [verify_lines(stream, known)]
        else:
            with audit_store() as store:
                results = _verified(store, chosen_chains(store, tenant, chain), known, shown=not json)
        if json:
            write_json(
                {"holds": all(one.holds for one in results), "trails": [_plain(one) for one in results]}
            )
        else:
            _print(results, file)
        if not all(one.holds for one in results):
            raise typer.Exit(1)


def export(
    tenant: TenantOption = None,
    chain: ChainOption = None,
    since: Annotated[
        str | None, typer.Option(help="First day, such as 2026-05-01, or an age such as 30d.", metavar="DAY")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Day before which to stop, or an age.", metavar="DAY")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; unset: standard output.", metavar="FILE"),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="New file for the texts that the policy keeps (audit: {keep_text: true}), as JSON lines.",
            metavar="FILE",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Write one trail as JSON lines. Each line names the SHA-256 of the line before, so the file proves itself."""
    with reported_errors(as_json=json):
        with audit_store() as store:
            found = chosen_chains(store, tenant, chain)
            if len(found) != 1:
                raise InvalidRequest(
                    f"there are {len(found)} audit trails, and a file holds one",
                    fix="name one with --tenant or --chain" if found else "nothing was recorded yet",
                )
            told = asyncio.run(_export(store, found[0], _moment_ms(since), _moment_ms(until), output))
            if texts is not None:
                from deepwell.safety.audit.keep import write_texts

                texts.open("x").close()
                told["texts"] = write_texts(store, found[0], texts)
        if json and output is not None:
            write_json(told)
            return
        shown = console(stderr=output is None)
        shown.print(
            f"{told['entries']} entries ({told['first']} to {told['last']}); head {told['last']}:{told['head']}",
            soft_wrap=True,
        )


def prune(
    before: Annotated[
        str,
        typer.Option(
            help="Day before which entries are removed, or an age such as 200d; six months have to stay.",
            metavar="DAY",
        ),
    ],
    tenant: TenantOption = None,
    chain: ChainOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Remove entries of the last six months too.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Remove old entries. An entry tells up to where, so that the rest still verifies."""
    with reported_errors(as_json=json):
        from deepwell.safety.audit.keep import prune as prune_chain

        moment_ms = _moment_ms(before)
        assert moment_ms is not None
        with audit_store() as store:
            done = [
                asyncio.run(prune_chain(store, one, moment_ms / 1000, force=force))
                for one in chosen_chains(store, tenant, chain)
            ]
        if json:
            write_json(
                {
                    "pruned": [
                        {"chain": one.chain, "entries": one.entries, "through": one.through} for one in done
                    ]
                }
            )
            return
        for one in done:
            text = f"{one.entries} entries removed, up to {one.through}" if one.entries else "nothing as old"
            console().print(f"{one.chain}: {text}", soft_wrap=True)
        if not done:
            console().print("There is no audit trail yet.")


def _verified(
    store: AuditStore, chains: Sequence[Chain], known: Sequence[Head], *, shown: bool
) -> list[Verified]:
    from rich.progress import Progress

    from deepwell.storage.safety.verify import verify_chain

    if known and len(chains) != 1:
        raise InvalidRequest(
            f"--head belongs to one trail, and there are {len(chains)}", fix="name it with --tenant"
        )
    results: list[Verified] = []
    err = console(stderr=True)
    with Progress(console=err, transient=True, disable=not (shown and err.is_terminal)) as bar:
        for chain in chains:
            count = chain.head.sequence - chain.pruned.sequence
            task = bar.add_task(chain.tenant or chain.id, total=count, visible=count >= _BAR_FROM)
            results.append(
                verify_chain(
                    store,
                    chain.id,
                    known,
                    on_progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),
                )
            )
    return results


async def _export(
    store: AuditStore, chain: Chain, since_ms: int | None, until_ms: int | None, output: Path | None
) -> dict[str, Any]:
    import sys

    from deepwell.safety.audit.keep import entries
    from deepwell.storage.safety.chain import hash_of, read_link

    stream = sys.stdout if output is None else output.open("w", encoding="utf-8", newline="\n")
    count = first = 0
    last = ""
    try:
        async for entry in entries(store, chain, since_ms=since_ms, until_ms=until_ms):
            stream.write(f"{entry}\n")
            first = first or read_link(entry).sequence
            count, last = count + 1, entry
        stream.flush()
    finally:
        if output is not None:
            stream.close()
    end = read_link(last).sequence if last else 0
    return {"entries": count, "first": first, "last": end, "head": hash_of(last) if last else ""}


def _moment_ms(text: str | None) -> int | None:
    """Reads a day in UTC, or an age in days, as Unix milliseconds."""
    if text is None:
        return None
    if match := _AGE.fullmatch(text):
        return int((shared_time() - int(match[1]) * _DAY_S) * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{text!r} is neither a day nor an age", fix="write 2026-05-01, 2026-05-01T12:00, or 200d"
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _head(text: str) -> Head:
    from deepwell.storage.safety.chain import Head

    match = _HEAD.fullmatch(text.lower())
    if match is None:
        raise InvalidRequest(
            f"{text!r} is not a head", fix="write SEQUENCE:HASH, as `deepwell audit verify` prints it"
        )
    return Head(int(match[1]), match[2])


def _plain(one: Verified) -> dict[str, Any]:
    return {
        "chain": one.chain,
        "tenant": one.tenant,
        "holds": one.holds,
        "entries": one.entries,
        "first": one.first,
        "last": one.last,
        "head": one.head,
        "anchors": [f"{anchor.sequence}:{anchor.hash}" for anchor in one.anchors],
        "problems": [
            {"sequence": problem.sequence, "kind": problem.kind, "message": problem.message}
            for problem in one.problems
        ],
        "problem_count": one.count,
    }


def _counted(count: int, one: str, many: str = "") -> str:
    return f"1 {one}" if count == 1 else f"{count} {many or f'{one}s'}"


def _print(results: Sequence[Verified], file: Path | None) -> None:
    out = console()
    if not results:
        out.print("There is no audit trail yet.")
    for one in results:
        name = one.tenant or (f"{one.chain}, of an erased tenant" if file is None else str(file))
        if one.holds:
            newest = max((anchor.sequence for anchor in one.anchors), default=0)
            anchored = f"anchored up to {newest}" if newest else "no anchor: a cut tail would go unnoticed"
            out.print(
                f"{name}: {_counted(one.entries, 'entry holds', 'entries hold')}, {one.first} to {one.last}; {anchored}",
                soft_wrap=True,
            )
        else:
            out.print(
                f"{name}: {_counted(one.count, 'problem')} in {_counted(one.entries, 'entry', 'entries')}",
                style="bold red",
                soft_wrap=True,
            )
            for problem in one.problems:
                out.print(f"  at {problem.sequence}: {problem.message}", soft_wrap=True)
        out.print(f"  head {one.last}:{one.head}", soft_wrap=True)

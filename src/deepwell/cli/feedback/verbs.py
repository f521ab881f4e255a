"""`deepwell feedback list|import|export|curate`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.data.options import print_report, refuse_overwriting
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.storage.database import Database, Tenant
    from deepwell.storage.feedback import Rating, StoredFeedback
    from deepwell.tuning.align.votes import Curated, Vote
    from deepwell.tuning.data.report import DataReport

__all__ = ["curate", "export", "import_feedback", "list_feedback"]

TenantOption = Annotated[
    str,
    typer.Option(
        help="Tenant whose answers were rated, as `deepwell keys list` shows it; `local` is that of a server without keys.",
        metavar="TENANT",
    ),
]
RatingOption = Annotated[
    Literal["up", "down"] | None, typer.Option(help="Take these ratings alone. Unset: both.")
]
ConsentOption = Annotated[
    bool,
    typer.Option("--consent", help="Take ratings alone whose users agreed that they are used for training."),
]

_SHOWN = 60  # characters of a reason
_PORTION = 200  # ratings that are imported in one commit


def list_feedback(
    tenant: TenantOption = "local",
    rating: RatingOption = None,
    consent: ConsentOption = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most ratings that are shown.")] = 20,
    json: JsonFlag = False,
) -> None:
    """List ratings, the newest first, and count them all."""
    with reported_errors(as_json=json), _database() as database:
        from deepwell.tuning.align.feedback import line_of

        found = _all(database, _tenant(tenant), rating, consent=consent)
        shown = found[::-1][:limit]
        up = sum(one.rating == "up" for one in found)
        agreed = sum(one.consent for one in found)
        voters = len({one.voter for one in found})
        if json:
            counts = {"ratings": len(found), "up": up, "consent": agreed, "users": voters}
            write_json(counts | {"data": [{"id": one.id} | line_of(one) for one in shown]})
            return
        out = console()
        if not found:
            out.print(
                "There is no feedback yet: send it with POST /v1/feedback, or `deepwell feedback import FILE`.",
                soft_wrap=True,
            )
            return
        print_table(
            ("time", "rating", "answer", "model", "consent", "said"),
            [_row(one) for one in shown],
            folded=("answer", "model", "said"),
        )
        out.print(
            f"{len(found)} ratings of {voters} users: {up} up, {len(found) - up} down; {agreed} with consent.",
            soft_wrap=True,
        )


def import_feedback(
    files: Annotated[
        list[Path], typer.Argument(help="Files of feedback: JSON lines, or one JSON array.", metavar="FILES")
    ],
    tenant: TenantOption = "local",
    json: JsonFlag = False,
) -> None:
    """Store the ratings of files. A rating that is here already, of the same user and answer, is replaced."""
    with reported_errors(as_json=json), _database() as database:
        report = asyncio.run(_import(database, _tenant(tenant), files))
        if json:
            write_json(report.to_json())
            return
        print_report(report)


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.", metavar="FILE")],
    tenant: TenantOption = "local",
    rating: RatingOption = None,
    consent: ConsentOption = False,
    json: JsonFlag = False,
) -> None:
    """Write ratings as JSON lines, which `deepwell feedback import` reads."""
    with reported_errors(as_json=json), _database() as database:
        from deepwell.tuning.align.feedback import line_of

        refuse_overwriting([output], [])
        found = _all(database, _tenant(tenant), rating, consent=consent)
        _write(output, map(line_of, found))
        if json:
            write_json({"ratings": len(found), "file": str(output)})
            return
        console().print(f"{len(found)} ratings are in {output}.", soft_wrap=True)


def curate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.", metavar="FOLDER")],
    tenant: TenantOption = "local",
    max_votes: Annotated[
        int, typer.Option(min=1, help="Most votes of one user that are kept, the newest of them.")
    ] = 100,
    max_share: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=1,
            help="Greatest share of one user in the votes to train on; 0.25 needs at least four users.",
        ),
    ] = 0.25,
    max_share_held_out: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=1,
            help="Greatest share of one user in the held-out votes; 0.5 needs at least two users.",
        ),
    ] = 0.5,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the users whose votes are held out to judge by.")
    ] = 0.2,
    verified: Annotated[
        bool,
        typer.Option(
            "--verified",
            help="Take votes alone whose conversation is that of an answer that the server kept: no client can forge it.",
        ),
    ] = False,
    salt: Annotated[
        str, typer.Option(help="Text that decides which users are held out; the same holds out the same.")
    ] = "",
    json: JsonFlag = False,
) -> None:
    """Make training data of the ratings whose users agreed: labelled answers for KTO, preferences for DPO, and a report."""
    with reported_errors(as_json=json), _database() as database:
        from deepwell.tuning.align.feedback import collect_votes
        from deepwell.tuning.align.votes import CurationLimits
        from deepwell.tuning.align.votes import curate as curated

        limits = CurationLimits(max_votes, max_share, max_share_held_out, held_out, salt)
        votes = asyncio.run(collect_votes(database, _tenant(tenant), verified=verified or None))
        found = curated(votes, limits)
        written = _write_curated(output, found)
        if json:
            write_json(found.to_json() | {"files": written})
            return
        print_report(found.report)
        out = console()
        out.print()
        print_table(
            ("file", "records"), [(str(output / name), str(count)) for name, count in written.items()]
        )
        if votes and not found.train:
            out.print("Nothing is left to train on: of few users, raise --max-share.", soft_wrap=True)
        elif found.train and held_out and not found.held_out:
            out.print("Nothing is held out: name another --salt, or raise --held-out.", soft_wrap=True)


@contextmanager
def _database() -> Generator[Database]:
    from deepwell.settings import Settings
    from deepwell.storage.database import Database

    database = Database.of(Settings.load())
    try:
        yield database
    finally:
        database.close()


def _tenant(name: str) -> Tenant:
    from deepwell.storage.database import Tenant

    return Tenant(name)


def _all(database: Database, tenant: Tenant, rating: Rating | None, *, consent: bool) -> list[StoredFeedback]:
    from deepwell.storage.feedback import FeedbackStore

    async def found() -> list[StoredFeedback]:
        store = FeedbackStore(database)
        return [one async for one in store.walk(tenant, rating=rating, consent=consent or None)]

    return asyncio.run(found())


async def _import(database: Database, tenant: Tenant, files: list[Path]) -> DataReport:
    from deepwell.storage.feedback import FeedbackStore, StoredFeedback
    from deepwell.tuning.align.feedback import read_feedback
    from deepwell.tuning.data.check import UNREADABLE
    from deepwell.tuning.data.report import DataReport, Example

    store, report, portion = FeedbackStore(database), DataReport(), list[StoredFeedback]()
    for one in report.reading(read_feedback(files)):
        if not isinstance(one, StoredFeedback):
            report.drop(UNREADABLE, Example.of(one))
            continue
        report.keep()
        portion.append(one)
        if len(portion) == _PORTION:
            await store.put_all(tenant, portion)
            portion = []
    if portion:
        await store.put_all(tenant, portion)
    report.check()
    return report


def _write(path: Path, lines: Iterable[Mapping[str, Any]]) -> int:
    import json as json_module

    from deepwell.tuning.data.records import LineWriter

    count = 0
    with LineWriter(path) as writer:
        for one in lines:
            writer.write(json_module.dumps(one, ensure_ascii=False))
            count += 1
    return count


def _write_curated(folder: Path, found: Curated) -> dict[str, int]:
    """Writes the files of curated votes, and returns the number of records of each."""
    from deepwell.tuning.align.feedback import label_line, preference_line

    def preferences(votes: Iterable[Vote]) -> list[dict[str, Any]]:
        return [line for vote in votes if (line := preference_line(vote)) is not None]

    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    for part, votes in (("train", found.train), ("held-out", found.held_out)):
        written[f"{part}.jsonl"] = _write(folder / f"{part}.jsonl", map(label_line, votes))
        name = f"{part}-preferences.jsonl"
        written[name] = _write(folder / name, preferences(votes))
    _write(folder / "report.json", [found.to_json()])
    return written


def _row(one: StoredFeedback) -> tuple[str, ...]:
    said = " ".join((one.reason or one.correction or "").split())
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created_at))
    agreed = "yes" if one.consent else "no"
    return when, one.rating, one.target_id, one.model or "-", agreed, said[:_SHOWN]

"""The ledger of models: the story of an alias as the command tells it, and every byte of it flipped."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell.fleet.promotion.check import check_ledger
from deepwell.fleet.promotion.gates import (
    GateReport,
    Rates,
    approval,
    choices,
    endings,
    latency,
    loss,
    safety,
    votes,
)
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.safety.anchors import Anchors

__all__ = ["bench_ledger"]

_ALIAS = "smollm2@prod"
_TABLES = {
    "model_ledger": ("sequence", "at_ms", "alias", "entry", "hash"),
    "model_ledger_head": ("id", "sequence", "hash"),
    "model_aliases": ("name", "model", "candidate", "share", "rollout"),
}


def bench_ledger(report: Report, *, seed: int = 20) -> dict[str, Any]:
    """Tells a story of four versions through the registry, reads it with `deepwell models log`, and flips its bytes.

    A bit of every byte is flipped: of each column of the ledger and of its head, and of what the alias means.
    """
    with tempfile.TemporaryDirectory(prefix="bench-ledger-") as name:
        folder = Path(name)
        path = folder / "data" / "deepwell.db"
        database = Database.open(path)
        try:
            expected = asyncio.run(_story(database))
            told, said, holds = _log(folder)
            begin = time.perf_counter()
            flips, found = _flips(database, path, Anchors(folder / "anchors"), random.Random(seed))  # noqa: S311
            check_s = (time.perf_counter() - begin) / flips
        finally:
            database.close()
        still_holds = _log(folder)[2]
    events = [one["event"] for one in told]
    missing = [fact for fact in expected["facts"] if fact not in said]
    value = {
        "entries": len(told),
        "events_in_order": events == expected["events"],
        "facts": len(expected["facts"]),
        "facts_missing": len(missing),
        "holds": holds and still_holds,
        "bytes_flipped": flips,
        "flips_found": found,
        "flips_missed": flips - found,
        "check_ms": rounded(check_s * 1000),
    }
    report.table("ledger of models", ("figure", "value"), [(key, str(one)) for key, one in value.items()])
    if missing:
        report.note(f"not told: {missing[:5]}")
    return value


async def _story(database: Database) -> dict[str, Any]:
    """Makes the story, and returns its events and the facts that a reader of the log must find."""
    rollouts, aliases = Rollouts(database), AliasStore(database)
    await aliases.set(_ALIAS, "smollm2", "admin")
    facts = ["smollm2@prod means smollm2"]
    for number, speed in enumerate((1.0, 1.3, 1.0), 1):
        told = NewVersion(
            f"smollm2-v{number}",
            artefact=f"runs/v{number}/adapter",
            artefact_sha256=f"{number}" * 64,
            parents=("smollm2", *([f"{_ALIAS}#{number - 1}"] if number > 1 else [])),
            data={"votes.jsonl": f"{number:02d}" * 32},
            config={"method": "kto", "rank": 8 * number},
            metrics={"held_out_loss": 2.0 - 0.1 * number},
        )
        version = await rollouts.register(_ALIAS, told, "improve", _gates(speed))
        facts += [
            told.model,
            told.artefact,
            told.artefact_sha256,
            *told.data.values(),
            f'"rank": {8 * number}',
        ]
        facts += [f'"held_out_loss": {2.0 - 0.1 * number}', *told.parents]
        if not version.passed:
            facts.append(
                f"{version.id} was refused by its gates: latency: 1.300 times the time of the current model"
            )
            continue
        facts.append(
            f"{version.id} passed its gates (votes, approval, choices, loss, endings, safety, latency)"
        )
        made = await rollouts.start(version.id, "improve", share=0.1)
        facts += [f"10 % of the users of {_ALIAS} get {told.model}", made.id]
        if number == 1:
            await rollouts.promote(_ALIAS, "mei", "asked for by the team")
            facts.append(
                "smollm2@prod means smollm2-v1 now, and not smollm2 any more (asked for by the team)"
            )
        else:
            numbers = {"candidate": {"users": 41, "good": 12}, "log_evidence_worse": 3.25}
            await rollouts.registry.end(
                _ALIAS, "rolled_back", "votes", reason="fewer users approve", numbers=numbers, rollout=made.id
            )
            facts += ["roll-out rolled back: smollm2@prod stays smollm2-v1 (fewer users approve)", "3.25"]
    await rollouts.revert(_ALIAS, "mei", "complaints")
    facts.append("promotion undone: smollm2@prod means smollm2 again, and not smollm2-v1 (complaints)")
    version = await rollouts.register(_ALIAS, NewVersion("smollm2-v4"), "lin")
    await rollouts.start(version.id, "lin", share=0.25, ungated="a demonstration")
    facts.append("its gates were passed over: a demonstration")
    round_of = ["version", "gates"]
    events = [
        "alias",
        *round_of,
        "canary",
        "promoted",
        *round_of,
        *round_of,
        "canary",
        "rolled_back",
        "reverted",
    ]
    return {"events": [*events, "version", "canary"], "facts": facts}


def _gates(speed: float) -> GateReport:
    """Returns the report of a sound candidate, which takes `speed` times the time of the current model."""
    users = [f"user-{number % 25}" for number in range(100)]
    held_out = [f"other-{number % 20}" for number in range(60)]
    before = [0.5] * len(held_out)
    after = [0.6 + 0.01 * (number % 3) for number in range(len(held_out))]
    rates = Rates(attacks=100, unsafe=20, second=20, harmless=100, refused=2)
    return GateReport.of(
        votes(users, held_out),
        approval(before, after, held_out, before, after),
        choices([True] * 60 + [False] * 40, [True] * 61 + [False] * 39),
        loss(2.0, 2.01),
        endings([True] * 50, [True] * 50),
        safety(rates, rates),
        latency([1.0] * 9, [speed] * 9),
    )


def _log(folder: Path) -> tuple[list[dict[str, Any]], str, bool]:
    """Returns the entries that the command tells, all that it said, and whether it found the ledger whole."""
    command = [sys.executable, "-m", "deepwell", "models", "log", _ALIAS, "--json"]
    places = {"DEEPWELL_DATA_DIR": str(folder / "data"), "DEEPWELL_STATE_DIR": str(folder / "state")}
    done = subprocess.run(command, env=os.environ | places, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    return told["entries"], done.stdout, done.returncode == 0 and told["holds"]


def _flips(database: Database, path: Path, anchors: Anchors, chosen: random.Random) -> tuple[int, int]:
    """Flips one bit of each byte, one at a time, and returns how many there were, and how many checks found it."""
    flips = found = 0
    with sqlite3.connect(path, isolation_level=None) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        for table, columns in _TABLES.items():
            for (row,) in raw.execute(f"SELECT rowid FROM {table}").fetchall():  # noqa: S608
                for column in columns:
                    where = f"FROM {table} WHERE rowid = {row}"
                    (value,) = raw.execute(f"SELECT {column} {where}").fetchone()
                    if value is None:
                        continue
                    for changed in _flipped(value, chosen):
                        try:
                            place = _put(raw, table, column, row, changed)
                        except sqlite3.IntegrityError:  # another row has this number
                            continue
                        flips += 1
                        found += not check_ledger(database, anchors).holds
                        _put(raw, table, column, place, value)
                if not check_ledger(database, anchors).holds:
                    raise AssertionError("the row was not restored")
    raw.close()
    return flips, found


def _flipped(value: int | float | str, chosen: random.Random) -> list[int | float | bytes]:
    """Returns the value with a bit of each of its bytes flipped, a random one."""
    if isinstance(value, int):
        return [value ^ 1 << (8 * at + chosen.randrange(8)) for at in range(7)]
    if isinstance(value, float):
        packed = struct.pack("<d", value)
        return [struct.unpack("<d", _at(packed, at, chosen))[0] for at in range(7)]
    packed = value.encode()
    return [_at(packed, at, chosen) for at in range(len(packed))]


def _at(data: bytes, at: int, chosen: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << chosen.randrange(8)]) + data[at + 1 :]


def _put(raw: sqlite3.Connection, table: str, column: str, row: int, value: Any) -> int:
    """Writes a value, bytes as the text that they are, and returns the number that SQLite gives the row then."""
    cast = "CAST(? AS TEXT)" if isinstance(value, bytes | str) else "?"
    given = value.encode() if isinstance(value, str) else value
    raw.execute(f"UPDATE {table} SET {column} = {cast} WHERE rowid = ?", (given, row))  # noqa: S608
    return int(value) if column == "id" else row  # the one column here that is SQLite's own number of the row

"""The results of a batch's lines, one row each until the batch ends, or for as long as a batch without files is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.storage.database import Tenant
from deepwell.storage.tables import batch_lines, batches

__all__ = ["LineResult", "Tokens", "add_lines", "bodies_behind", "lines_of"]

_ROWS = 500  # read at a time
_READ_CHARACTERS = 16 << 20  # of results, read at a time: one with images has megabytes


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of one line."""

    input: int = 0
    cached: int = 0  # part of the input
    output: int = 0


@dataclass(frozen=True, slots=True)
class LineResult:
    """The result of one line; `body` is JSON, the line of the output or error file."""

    line: int  # line number in the input, from 1
    failed: bool
    body: str
    tokens: Tokens = Tokens()
    end_user: str = ""  # as the line's request names one
    counted: bool = (
        True  # as completed or failed; not if it was never run, in a batch that counts such lines apart
    )


def lines_of(tenant: Tenant, id: str) -> sa.ColumnElement[bool]:
    """Returns the condition that a row belongs to a batch."""
    return (batch_lines.c.tenant == tenant) & (batch_lines.c.batch_id == id)


def add_lines(connection: Connection, tenant: Tenant, id: str, results: Sequence[LineResult]) -> None:
    """Writes the results of lines that have none yet, and adds them up in the row of the batch."""
    fresh = [result for result in results if _keep(connection, tenant, id, result)]
    counted = [result for result in fresh if result.counted]
    columns = batches.c
    added = {
        columns.completed: sum(not one.failed for one in counted),
        columns.failed: sum(one.failed for one in counted),
        columns.input_tokens: sum(one.tokens.input for one in fresh),
        columns.cached_tokens: sum(one.tokens.cached for one in fresh),
        columns.output_tokens: sum(one.tokens.output for one in fresh),
    }
    connection.execute(
        sa.update(batches)
        .where(columns.tenant == tenant, columns.id == id)
        .values({column: column + count for column, count in added.items()})
    )


def bodies_behind(
    connection: Connection, tenant: Tenant, id: str, last: int, failed: bool | None = None
) -> Sequence[tuple[int, str]]:
    """Returns some results with their line numbers, in order: those behind line `last`, of both kinds if `failed` is None."""
    columns = batch_lines.c
    wanted = lines_of(tenant, id) & (columns.line > last)
    if failed is not None:
        wanted &= columns.failed == int(failed)
    lengths = (
        sa.select(columns.line, sa.func.length(columns.body))
        .where(wanted)
        .order_by(columns.line)
        .limit(_ROWS)
    )
    end, read = last, 0
    for line, length in connection.execute(lengths):
        read += length
        if end > last and read > _READ_CHARACTERS:
            break
        end = line
    rows = connection.execute(
        sa.select(columns.line, columns.body).where(wanted, columns.line <= end).order_by(columns.line)
    )
    return [(row.line, row.body) for row in rows]


def _keep(connection: Connection, tenant: Tenant, id: str, result: LineResult) -> bool:
    """Writes a result; returns False if the line already has one."""
    columns = batch_lines.c
    there = sa.select(columns.line).where(lines_of(tenant, id), columns.line == result.line)
    if connection.execute(there).one_or_none() is not None:
        return False
    connection.execute(
        sa.insert(batch_lines).values(
            tenant=tenant,
            batch_id=id,
            line=result.line,
            failed=int(result.failed),
            body=result.body,
            end_user=result.end_user or None,
        )
    )
    return True

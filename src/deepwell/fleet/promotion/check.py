"""The check of the ledger: its chain, its story, and the aliases as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from deepwell.storage.aliases import shown_state
from deepwell.storage.database import Database
from deepwell.storage.registry.ledger import CHAIN, HEAD_ID, Ledger, LedgerChanged, entries_in
from deepwell.storage.registry.story import AliasState, told
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.chain import NOTHING, Head
from deepwell.storage.safety.raw import raw_rows
from deepwell.storage.safety.verify import verify_chain
from deepwell.storage.tables import model_aliases, model_ledger, model_ledger_head

__all__ = ["Checked", "check_ledger"]


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check: the newest entry, and everything that is wrong."""

    head: Head
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Returns whether nothing is wrong."""
        return not self.problems


def check_ledger(database: Database, anchors: Anchors | None = None, known: Sequence[Head] = ()) -> Checked:
    """Checks that no entry was changed, removed, moved or cut off, and that every alias is as its newest entry says. Blocks.

    An alias that was set before there was a ledger is in no entry, and not compared.

    Args:
        known: heads that were written down elsewhere; each is looked for, besides the anchor of this host.
    """
    try:
        verified = verify_chain(Ledger(database, anchors), CHAIN, known)
        problems = [f"entry {one.sequence}: {one.message}" for one in verified.problems]
    except OperationalError as error:  # a database that is away raises another error
        return Checked(NOTHING, (f"a row cannot be read: {error.orig}",))
    try:
        problems += database.read_now(_compare)
    except OperationalError as error:
        problems.append(f"a row cannot be read: {error.orig}")
    return Checked(Head(verified.last, verified.head), tuple(problems))


def _compare(connection: Connection) -> list[str]:
    try:
        entries = entries_in(connection)
        story = told(entries)
    except LedgerChanged as error:
        return [error.message]
    columns = model_ledger.c
    placed = dict(raw_rows(connection, sa.select(columns.sequence, columns.alias)))
    problems = [
        f"entry {entry.sequence}: it is filed under another alias than it names"
        for entry in entries
        if placed.get(entry.sequence) != entry.alias
    ]
    heads = connection.scalars(sa.select(model_ledger_head.c.id)).all()
    if heads not in ([], [HEAD_ID]):
        problems.append("the row of the newest entry was changed")
    return problems + _compare_aliases(connection, story.aliases)


def _compare_aliases(connection: Connection, expected: Mapping[str, AliasState | None]) -> list[str]:
    columns = model_aliases.c
    query = sa.select(columns.name, columns.model, columns.candidate, columns.share, columns.rollout)
    found = {
        row.name: AliasState(row.model, row.candidate, row.share, row.rollout)
        for row in connection.execute(query)
    }
    problems: list[str] = []
    for name, state in expected.items():
        if found.get(name) != state:
            problems.append(
                f"the alias {name!r} is not as the ledger says: {shown_state(found.get(name))}, not {shown_state(state)}"
            )
    for name, state in found.items():
        if name not in expected and state.candidate is not None:
            problems.append(f"the alias {name!r} has a candidate that the ledger does not know")
    return problems

"""Verification of an audit trail: in the database, or of an exported file.

What is found: an entry of which a byte was changed, an entry that was removed, inserted or moved, entries that were removed
from the beginning without `deepwell audit prune`, and a tail that was cut or written anew, as far back as the anchor knows.

What cannot be found: entries newer than the anchor that were removed with the row that holds the head; and anything, if
the anchors on every host and all heads that were written down elsewhere are replaced along with the database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import msgspec

from deepwell.storage.database import Tenant
from deepwell.storage.safety.audit import AuditRow, AuditText, Chain
from deepwell.storage.safety.chain import GENESIS, NOTHING, Head, commitment_of, read_link, storable
from deepwell.storage.safety.raw import RAW

__all__ = ["Chains", "Problem", "Verified", "verify_chain", "verify_lines"]

_PAGE: Final = 4096
_MOST_PROBLEMS: Final = 100  # described; further ones are counted


class _Prune(msgspec.Struct):
    through: int


class _Text(msgspec.Struct):
    text_sha256: str = ""


_read_text = msgspec.json.Decoder(_Text).decode
_read_prune = msgspec.json.Decoder(_Prune).decode

Kind = Literal["changed", "missing", "moved", "unlinked", "cut", "replaced", "unannounced", "unreadable"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One break of a chain: the sequence number at which it shows, and what is wrong."""

    sequence: int
    kind: Kind
    message: str


@dataclass(slots=True)
class Verified:
    """The result of a verification.

    Attributes:
        first, last: sequence numbers of the entries that there are; 0: none.
        head: hash of the last entry.
        anchors: remembered heads that the trail was compared with, and holds.
        problems: the first hundred; `count` is the number of all.
    """

    chain: str = ""
    tenant: Tenant | None = None
    entries: int = field(default=0, init=False)
    first: int = field(default=0, init=False)
    last: int = field(default=0, init=False)
    head: str = field(default=GENESIS, init=False)
    anchors: list[Head] = field(default_factory=list[Head], init=False)
    problems: list[Problem] = field(default_factory=list[Problem], init=False)
    count: int = field(default=0, init=False)

    @property
    def holds(self) -> bool:
        """Returns whether nothing is wrong."""
        return not self.count

    def report(self, sequence: int, kind: Kind, message: str) -> None:
        """Adds a problem."""
        self.count += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(sequence, kind, message))


class Chains(Protocol):
    """Chains that can be verified: audit trails (`AuditStore`), and the ledger of models (`Ledger`)."""

    def rows(self, chain: str, after: int, limit: int) -> tuple[Chain, Sequence[AuditRow]]:
        """Returns the chain as it is now, and its next entries in order."""
        ...

    def texts(self, chain: str, after: int, through: int) -> Sequence[AuditText]:
        """Returns the texts of entries behind `after` and up to `through`, in order."""
        ...

    def anchor(self, chain: str) -> Head | None:
        """Returns the remembered head of a chain, or None."""
        ...


def verify_chain(
    store: Chains,
    chain: str,
    known: Sequence[Head] = (),
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Verified:
    """Verifies a chain in the database, page by page. Entries may be appended meanwhile. Blocks.

    Args:
        known: heads that were written down elsewhere; each is looked for, besides the anchor of this host.
    """
    state, _ = store.rows(chain, 0, 0)
    result = Verified(chain, state.tenant)
    reader = _Reader(result, state.pruned)
    reader.remember(known)
    try:
        if (anchor := store.anchor(chain)) is not None:
            reader.remember([anchor])
    except (OSError, ValueError) as error:
        result.report(0, "unreadable", f"the anchor cannot be read: {error}")
    while True:
        state, rows = store.rows(chain, reader.position, _PAGE)
        if state.pruned.sequence > reader.position:  # pruned while it was read
            reader.begin(state.pruned)
        if not rows:
            break
        numbered = [row for row in rows if type(row[0]) is int]
        if not numbered:  # SQLite sorts what is no number behind all numbers
            result.report(reader.position, "changed", "the entries behind it have no number")
            break
        rows = numbered
        reader.read(rows)
        reader.compare_texts(store.texts(chain, rows[0][0] - 1, rows[-1][0]), rows)
        on_progress(result.entries, state.head.sequence - state.pruned.sequence)
    reader.finish(state.head)
    return result


def verify_lines(lines: Iterable[bytes], known: Sequence[Head] = ()) -> Verified:
    """Verifies an exported file. It may begin in the middle of a trail.

    `known` are heads that were written down elsewhere. One that lies before the first line is not looked for.
    """
    result = Verified()
    reader: _Reader | None = None
    for line in lines:
        entry = line.rstrip(b"\r\n")
        if not entry:
            continue
        try:
            link = read_link(entry)
        except ValueError as error:
            result.report(
                reader.position + 1 if reader else 1, "unreadable", f"the line is no entry: {error}"
            )
            continue
        if reader is None:
            result.chain = link.chain
            reader = _Reader(result, Head(link.sequence - 1, link.previous))
            reader.remember([one for one in known if one.sequence >= link.sequence - 1])
        try:
            text = entry.decode()
        except UnicodeDecodeError:
            result.report(link.sequence, "changed", "the line is not UTF-8")
            continue
        # A file has neither columns nor hashes beside its lines.
        reader.read([(link.sequence, link.time, text, hashlib.sha256(entry).hexdigest())])
    if reader is not None:
        reader.announced = True  # the file says nothing of what came before it
        reader.finish(None)
    return result


def _commits(commitment: str, text: AuditText) -> bool:
    try:
        return commitment == commitment_of(text.salt, text.text)
    except ValueError:  # the salt is no hex any more, or the text no UTF-8
        return False


class _Reader:
    """Reads the rows of a chain in order, and reports what does not follow."""

    def __init__(self, result: Verified, base: Head) -> None:
        self.result = result
        self.position = 0
        self.announced = base.sequence == 0
        self._previous = GENESIS
        self._known: dict[int, list[Head]] = {}
        self._base = NOTHING
        self.begin(base)

    def begin(self, base: Head) -> None:
        """Goes on after `base`, before which nothing is kept."""
        self.position, self._previous, self._base = base.sequence, base.hash, base
        self.announced = base.sequence == 0

    def remember(self, heads: Sequence[Head]) -> None:
        """Looks for these heads while reading."""
        for head in heads:
            if head.sequence == 0:
                continue
            if head.sequence > self._base.sequence:
                self._known.setdefault(head.sequence, []).append(head)
            elif head.sequence == self._base.sequence:
                self._compare(head, self._base.hash)

    def read(self, rows: Sequence[AuditRow]) -> None:
        """Reads the next rows."""
        sha256, link_of, chain = hashlib.sha256, read_link, self.result.chain
        position, previous = self.position, self._previous
        if not self.result.first:
            self.result.first = rows[0][0]
        for sequence, at_ms, entry, hash in rows:
            if sequence != position + 1:
                self._gap(position, sequence)
            if sha256(entry.encode("utf-8", RAW)).hexdigest() != hash:
                self.result.report(sequence, "changed", "the entry does not have its hash")
            try:
                link = link_of(entry)
            except ValueError as error:
                self.result.report(sequence, "changed", f"the entry cannot be read: {error}")
            else:
                if link.sequence != sequence or link.chain != chain or link.time != at_ms:
                    self.result.report(sequence, "moved", "the entry is not at the place that it names")
                elif link.previous != previous:
                    self.result.report(
                        sequence, "unlinked", "it does not name the hash of the entry before it"
                    )
                if link.event == "prune":
                    self._announce(entry)
            if sequence in self._known:
                for head in self._known.pop(sequence):
                    self._compare(head, hash)
            position, previous = sequence, hash
        self.position, self._previous = position, previous
        self.result.entries += len(rows)
        self.result.last, self.result.head = position, storable(previous)

    def compare_texts(self, texts: Sequence[AuditText], rows: Sequence[AuditRow]) -> None:
        """Compares texts with the hashes in their entries. A text that is gone was erased, and nothing is wrong."""
        if not texts:
            return
        lines = {row[0]: row[2] for row in rows}
        for one in texts:
            try:
                told = _read_text(lines.get(one.sequence, "{}")).text_sha256
            except (msgspec.MsgspecError, UnicodeError):  # reported already
                continue
            if not _commits(told, one):
                self.result.report(one.sequence, "changed", "its text is not the one that was recorded")

    def finish(self, head: Head | None) -> None:
        """Compares the end with the head that the database names, and reports what was not found."""
        if head is not None and head.sequence > self.position:
            self.result.report(
                self.position, "cut", f"the trail ends here, and had entries up to {head.sequence}"
            )
        elif head is not None and (head.sequence < self.position or head.hash != self._previous):
            self.result.report(self.position, "replaced", "the last entry is not the head of the trail")
        for sequence in sorted(self._known):
            if sequence > self.position:
                self.result.report(
                    self.position, "cut", f"the trail ends here, and an anchor remembers entry {sequence}"
                )
        if not self.announced:
            self.result.report(
                self._base.sequence,
                "unannounced",
                "earlier entries are gone, and no entry says that they were pruned",
            )

    def _gap(self, position: int, sequence: int) -> None:
        if sequence <= position:
            self.result.report(sequence, "moved", f"it follows entry {position}")
            return
        named = (
            f"entry {position + 1} is"
            if sequence == position + 2
            else f"{position + 1} to {sequence - 1} are"
        )
        self.result.report(position + 1, "missing", f"{named} gone")

    def _announce(self, entry: str) -> None:
        try:
            through = _read_prune(entry).through
        except (msgspec.MsgspecError, UnicodeError):  # a changed entry announces nothing
            return
        if through >= self._base.sequence:
            self.announced = True

    def _compare(self, head: Head, hash: str) -> None:
        if head.hash == hash:
            self.result.anchors.append(head)
        else:
            self.result.report(
                head.sequence, "replaced", "it is not the entry that an anchor remembers: it was written anew"
            )

"""The hash chain of an audit trail: its entries, and the text of each, which is what is hashed.

An entry is one line of JSON. `previous` is the SHA-256 of the line before it, so that a list of lines is its own proof.
The line is stored as it was hashed: nothing is encoded again to verify it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

__all__ = [
    "GENESIS",
    "NOTHING",
    "AuditRecord",
    "Head",
    "Link",
    "commitment_of",
    "hash_of",
    "name_of",
    "read_link",
    "sealed",
    "storable",
]

GENESIS: Final = "0" * 64
"""`previous` of the first entry of a chain."""

_encode = msgspec.json.Encoder().encode
_TIES: Final = frozenset(("chain", "sequence", "time", "previous", "event", "person", "text_sha256"))
_RANDOM: Final = re.compile(r"(req|pmpt|run)_[0-9a-f]{32}")  # ids that servers draw hold no words


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry of a chain, or of a part of it: its sequence number, and its hash in hex."""

    sequence: int
    hash: str


NOTHING: Final = Head(0, GENESIS)
"""Head of a chain without entries."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One event, before it has a place in a chain.

    Attributes:
        event: the kind of event: `decision`, `prune`, `erase`, `export`, `policy`, `gap`.
        at_ms: Unix time in milliseconds.
        fields: what else is to be told, as JSON values; empty ones are left out. No prompt or answer belongs here.
        named: fields whose values clients may choose, such as the id of a prompt. The entry has `name_of` each in its place.
        end_user: identifier of the end user, as the client sent it. The entry has a random pseudonym in its place.
        text: a prompt or an answer, where the policy keeps it. The entry has a salted hash of it; the text lies apart.
    """

    event: str
    at_ms: int
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    end_user: str = ""
    text: str = ""
    named: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        """Checks the names of the fields.

        Raises:
            ValueError: entries have one of them already.
        """
        taken = _TIES & (self.fields.keys() | self.named.keys()) | (self.fields.keys() & self.named.keys())
        if taken:
            raise ValueError(f"an audit record may not name {sorted(taken)}")


class Link(msgspec.Struct, frozen=True):
    """The part of an entry that ties it to its place."""

    chain: str
    sequence: int
    time: int
    previous: str
    event: str


_read_link = msgspec.json.Decoder(Link).decode


def read_link(entry: str | bytes) -> Link:
    """Reads the tie of an entry.

    Raises:
        ValueError: it is not an entry.
    """
    try:
        return _read_link(entry)
    except UnicodeError:
        raise ValueError("it has bytes that are not UTF-8") from None
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def hash_of(entry: str) -> str:
    """Returns the SHA-256 of an entry's line, in hex."""
    return hashlib.sha256(entry.encode()).hexdigest()


def storable(text: str) -> str:
    """Returns a text as every database can hold it: half surrogate pairs and NUL are replaced."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def commitment_of(salt: str, text: str) -> str:
    """Returns what an entry holds in the place of its text: the SHA-256 of a random salt, in hex, and the text."""
    return hashlib.sha256(bytes.fromhex(salt) + text.encode()).hexdigest()


def name_of(salt: str, value: str) -> str:
    """Returns what an entry holds in the place of a value that a client chose: a hash with the salt of the chain, in hex.

    An id that a server drew stays as it is.
    """
    if not value or _RANDOM.fullmatch(value):
        return value
    return f"name_{hashlib.sha256(bytes.fromhex(salt) + storable(value).encode()).hexdigest()[:32]}"


def sealed(
    records: Sequence[AuditRecord],
    chain: str,
    head: Head,
    persons: Mapping[str, str],
    salts: Sequence[str] = (),
    *,
    salt: str = "",
) -> list[tuple[int, int, str, str]]:
    """Returns the rows that continue a chain after `head`: sequence number, time, entry and hash of each.

    Args:
        persons: pseudonym of each end user.
        salts: one for each record, if any of them has a text.
        salt: that of the chain, by which names are hashed.
    """
    rows: list[tuple[int, int, str, str]] = []
    sequence, previous = head.sequence, head.hash
    for number, record in enumerate(records):
        sequence += 1
        line: dict[str, Any] = {
            "chain": chain,
            "sequence": sequence,
            "time": record.at_ms,
            "previous": previous,
            "event": record.event,
        }
        if record.end_user:
            line["person"] = persons[record.end_user]
        told = {**record.fields, **{name: name_of(salt, value) for name, value in record.named.items()}}
        line |= {name: value for name, value in told.items() if value not in ("", None, [], (), {})}
        if record.text:
            line["text_sha256"] = commitment_of(salts[number], storable(record.text))
        entry = _line(line)
        previous = hash_of(entry)
        rows.append((sequence, record.at_ms, entry, previous))
    return rows


def _line(fields: dict[str, Any]) -> str:
    try:
        return _encode(fields).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, which clients may send as an escape
        return _encode(_whole(fields)).decode()


def _whole(value: Any) -> Any:
    """Returns the value with half surrogate pairs replaced in all of its texts."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_whole(key): _whole(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(one) for one in value]
    return value

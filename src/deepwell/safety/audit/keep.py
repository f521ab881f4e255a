"""Export and pruning of audit trails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from deepwell.errors import InvalidRequest
from deepwell.safety.audit.trail import now_ms
from deepwell.storage.clock import shared_time
from deepwell.storage.safety.audit import AuditStore, Chain
from deepwell.storage.safety.chain import AuditRecord

__all__ = ["LEAST_DAYS", "Pruned", "entries", "prune", "write_texts"]

LEAST_DAYS: Final = 184
"""Days that entries are kept at least: the longest six months (Regulation (EU) 2024/1689, Articles 19 and 26)."""

_PAGE: Final = 4096
_REMOVED_EACH: Final = 2000  # entries removed in one write, so that appends do not wait for long
_DAY_S: Final = 86_400
_NONE: Final = (1, 0)


class _Named(msgspec.Struct):
    person: str = ""


_read_person = msgspec.json.Decoder(_Named).decode


@dataclass(frozen=True, slots=True)
class Pruned:
    """The result of pruning a chain: the number of entries, and the sequence number of the last of them (0: none)."""

    chain: str
    entries: int
    through: int


async def entries(
    store: AuditStore,
    chain: Chain,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    person: str | None = None,
) -> AsyncGenerator[str]:
    """Yields the entries of a chain, as they were hashed, in order.

    Between two times, all entries from the first to the last are given, so that they are a chain themselves. Those of one
    person alone are not.

    Args:
        person: pseudonym of an end user, whose entries alone are given.
    """
    first, last = await store.span(chain.id, since_ms, until_ms)
    position = first - 1
    while position < last:
        _, rows = await asyncio.to_thread(store.rows, chain.id, position, min(_PAGE, last - position))
        if not rows:
            return
        for _, _, entry, _ in rows:
            if person is None or _person(entry) == person:
                yield entry
        position = rows[-1][0]


def write_texts(store: AuditStore, chain: Chain, path: Path, person: str | None = None) -> int:
    """Writes the texts that a trail keeps beside its entries as JSON lines, if there are any, and returns their number.

    `text_sha256` of an entry is the SHA-256 of the bytes of `salt` and the text. Blocks.
    """
    count, position = 0, chain.pruned.sequence
    while position < chain.head.sequence:
        texts = store.texts(chain.id, position, position + _PAGE)
        position += _PAGE
        mine = [one for one in texts if person is None or one.person == person]
        if mine:
            with path.open("a", encoding="utf-8") as stream:
                for one in mine:
                    told = {"sequence": one.sequence, "salt": one.salt, "text": one.text}
                    stream.write(f"{json.dumps(told, ensure_ascii=False)}\n")
        count += len(mine)
    return count


def _person(entry: str) -> str:
    try:
        return _read_person(entry).person
    except (msgspec.MsgspecError, UnicodeDecodeError):  # changed: `verify` reports it
        return ""


async def prune(
    store: AuditStore, chain: Chain, before_s: float, *, force: bool = False, now_s: float | None = None
) -> Pruned:
    """Removes the entries of a chain from before a time, and leaves an entry that says so.

    That entry is written first, and names the last entry to go, with its hash. A removal that is interrupted is therefore
    announced, and is finished by the next one. Only a beginning of the chain is removed: an older entry behind a younger
    one stays.

    Raises:
        InvalidRequest: entries of the last six months would go, and `force` is not set.
    """
    now = shared_time() if now_s is None else now_s
    if before_s > now - LEAST_DAYS * _DAY_S and not force:
        raise InvalidRequest(
            f"entries of the last {LEAST_DAYS} days would be pruned, and are to be kept for six months at least",
            fix=f"prune what is older than {LEAST_DAYS}d, or add --force if no law binds you to keep it",
        )
    first, last = await store.span(chain.id, None, None)
    young = await store.span(chain.id, int(before_s * 1000), None)
    through = last if young == _NONE else young[0] - 1
    if through < first:
        return Pruned(chain.id, 0, 0)
    hash = await asyncio.to_thread(store.hash_at, chain.id, through)
    told = {"through": through, "hash": hash, "entries": through - first + 1, "forced": force}
    await store.append_to(chain.id, [AuditRecord("prune", now_ms(), told)])
    removed = 0
    while count := await store.prune(chain.id, through, _REMOVED_EACH):
        removed += count
    return Pruned(chain.id, removed, through)

"""A process that writes to the audit trail until it is killed: `audit_writer DATABASE ANCHORS NAME`.

Every other event is durable. When one is, its number is written to standard output.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from deepwell.safety.audit.trail import AuditTrail
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord

__all__ = ["main"]


async def main(where: str, anchors: Path, name: str) -> None:
    """Writes events without end."""
    database = Database.connect(where) if where.startswith("postgresql") else Database.open(Path(where))
    trail = AuditTrail(AuditStore(database, Anchors(anchors)))
    number = 0
    while True:
        for durable in (False, True):
            number += 1
            await trail.record(
                LOCAL, AuditRecord("decision", number, {"model": name}, "lin"), durable=durable
            )
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))

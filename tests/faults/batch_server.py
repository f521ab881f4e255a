"""A server over the engine that repeats what it is told: `python -m tests.faults.batch_server FOLDER PORT LEASE_S [HOST]`.

HOST is the name of the machine, as the server is to see it. What holds the word FOREVER is never answered to its end. What
holds GATE-a or GATE-b is not begun before FOLDER holds a file of this name.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.waiting import until_async

from deepwell.engine.protocol import Delta, GenerateRequest
from deepwell.server.http.listen import bind
from deepwell.server.options import FileOptions
from deepwell.server.run import serve
from deepwell.storage.database import Database


class PatientEngine(FakeEngine):
    """Answers what holds the word FOREVER with one token, and goes on working. It waits for gates."""

    folder = Path()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        text = bytes(token for token in request.prompt if token < 256)
        for gate in ("GATE-a", "GATE-b"):
            if gate.encode() in text:
                await until_async((self.folder / gate).exists, patience_s=3600)
        async for delta in super().generate(request):
            yield delta
            if b"FOREVER" in text:
                await asyncio.Event().wait()


def main(folder: Path, port: int, lease_s: float, host: str = "") -> None:
    """Serve until a signal comes; what is kept lies in the folder."""
    if host:
        machine = os.uname()
        os.uname = lambda: os.uname_result((machine.sysname, host, *machine[2:]))
    engine = PatientEngine(max_model_len=4096)
    engine.folder = folder
    service = make_service(
        engine,
        make_codec(folder / "tokenizer"),
        model="toy",
        database=Database.open(folder / "deepwell.db"),
        files=FileOptions(folder=folder / "files", batch_concurrency=8, job_lease_s=lease_s),
    )
    with bind("127.0.0.1", port) as listener:
        serve(service, listener, log_level="warning", on_ready=lambda: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])

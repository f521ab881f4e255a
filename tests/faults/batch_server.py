"""A server over the engine that repeats what it is told: `python -m tests.faults.batch_server FOLDER PORT LEASE_S`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.server.http.listen import bind
from deepwell.server.options import FileOptions
from deepwell.server.run import serve
from deepwell.storage.database import Database


def main(folder: Path, port: int, lease_s: float) -> None:
    """Serve until a signal comes; what is kept lies in the folder."""
    service = make_service(
        FakeEngine(max_model_len=4096),
        make_codec(folder / "tokenizer"),
        model="toy",
        database=Database.open(folder / "deepwell.db"),
        files=FileOptions(folder=folder / "files", batch_concurrency=8, job_lease_s=lease_s),
    )
    with bind("127.0.0.1", port) as listener:
        serve(service, listener, log_level="warning", on_ready=lambda: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))

"""A server that fine-tunes with the stand-in of the tests: `python -m tests.faults.tuning_server FOLDER PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.tuning.jobs import COMMAND

from deepwell.server.http.listen import bind
from deepwell.server.options import FileOptions, TuningOptions
from deepwell.server.run import serve
from deepwell.storage.database import Database


def main(folder: Path, port: int) -> None:
    """Serves until a signal comes; what is kept lies in the folder."""
    service = make_service(
        FakeEngine(max_model_len=4096),
        make_codec(folder / "tokenizer"),
        model="toy",
        database=Database.open(folder / "deepwell.db"),
        files=FileOptions(folder=folder / "files", job_lease_s=0.3),
        tuning=TuningOptions(folder=folder / "runs", command=COMMAND),
    )
    with bind("127.0.0.1", port) as listener:
        serve(service, listener, log_level="warning", on_ready=lambda: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

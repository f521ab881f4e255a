"""A server with one key and few descriptors, some of which are taken: `python -m tests.faults.small_server LIMIT TAKEN KEY`."""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

from pydantic import SecretStr
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.server.http.listen import bind
from deepwell.server.run import serve


def main(limit: int, taken: int, key: str) -> None:
    """Serve until SIGTERM; the port is the first line."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.TemporaryDirectory() as folder, bind("127.0.0.1", 0) as listener:
        context = make_service(
            FakeEngine(), make_codec(Path(folder)), model="toy", api_keys=(SecretStr(key),)
        )
        files = [Path("/dev/null").open() for _ in range(taken)]  # noqa: SIM115
        serve(
            context,
            listener,
            log_level="warning",
            on_ready=lambda: print(listener.getsockname()[1], flush=True),
        )
        for file in files:
            file.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

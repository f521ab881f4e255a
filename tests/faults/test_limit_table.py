"""The table of limits with a process that dies, or stops, while it holds the lock."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.quota import bucket_key

KEY = bucket_key("requests", "tenant a")
HOLDER = """
import sys
from pathlib import Path
from deepwell.server.access.limit_table import LimitTable
table = LimitTable(Path(sys.argv[1]))
assert table._lock()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_others_go_on(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "limits"
    table = LimitTable(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        holder.send_signal(number)
        if number == signal.SIGKILL:
            holder.wait()
        charges = [asyncio.run(table.charge(KEY, 3, 1)).allowed for _ in range(4)]
        assert charges == [True, True, True, False]
        assert table.unlocked == (0 if number == signal.SIGKILL else 4)
    finally:
        holder.kill()
        holder.wait()
        table.close()

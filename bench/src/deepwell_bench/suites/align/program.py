"""Runs a worker that needs torch as a program, and reads the JSON of its last line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from deepwell_bench.harness.environments import PeerError

__all__ = ["last_line"]


def last_line(module: str, *arguments: str) -> dict[str, Any]:
    """Returns the object that a module prints last.

    Raises:
        PeerError: it failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{module} ended with {done.returncode}: {done.stderr[-400:]}", fix="see above")
    return json.loads(done.stdout.splitlines()[-1])

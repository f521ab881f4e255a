"""Kills of every kind of process: processes are found by their module, and what is left below one is ended and named."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.waiting import until

from deepwell_bench.suites.security.kills import _left, kind_of


def test_a_process_is_of_the_kind_of_its_module() -> None:
    command = [sys.executable, "-m", "deepwell.process.tied", str(os.getpid()), "cat"]
    with subprocess.Popen(
        [sys.executable, "-m", "timeit", "-n", "1", "input()"], stdin=subprocess.PIPE
    ) as one:
        assert until(lambda: kind_of(one.pid)) == "timeit"
        one.communicate(b"\n")
    assert kind_of(one.pid) is None
    with subprocess.Popen(command, stdin=subprocess.PIPE) as tied:
        assert until(lambda: kind_of(tied.pid)) in ("process.tied", "cat")
        tied.communicate()


def test_what_is_left_is_named_and_ended() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as ended:
        ended.communicate()
    assert _left([ended.pid]) == []

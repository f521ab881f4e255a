"""A confined process can read, compute and answer, and neither write, connect nor start another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.needs import SECCOMP

PROBE = """
import errno, json, os, socket, subprocess, sys, threading
folder = sys.argv[1]
os.chdir(folder)
held = socket.socketpair()
from deepwell.process.confine import confine

whole = confine()

def ends(work):
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def thread():
    one = threading.Thread(target=lambda: None)
    one.start()
    one.join()

print(json.dumps({
    "whole": whole,
    "new": ends(lambda: open("new", "w")),
    "append": ends(lambda: open("there", "a")),
    "remove": ends(lambda: os.remove("there")),
    "rename": ends(lambda: os.rename("there", "other")),
    "link": ends(lambda: os.symlink("there", "link")),
    "folder": ends(lambda: os.mkdir("folder")),
    "mode": ends(lambda: os.chmod("there", 0o777)),
    "socket": ends(socket.socket),
    "program": ends(lambda: subprocess.run(["true"])),
    "fork": ends(os.fork),
    "memory file": ends(lambda: os.memfd_create("x")),
    "read": ends(lambda: open("there").read()),
    "answer": ends(lambda: held[0].sendall(b"x")),
    "thread": ends(thread),
}))
"""


@pytest.mark.needs(SECCOMP)
def test_the_kernel_refuses(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("words")
    done = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("whole")
    allowed = {key for key, end in found.items() if end == "done"}
    assert allowed == {"read", "answer", "thread"}, found
    assert {end for key, end in found.items() if key not in allowed} == {"EPERM"}
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "words"

"""A confined process reaches neither files, processes nor the network, and what it knows of a tenant ends with the tenant."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.needs import SANDBOX, SECCOMP
from tests.waiting import until

from deepwell.errors import InvalidFile
from deepwell.process import calls
from deepwell.process.calls import CallEnded, CallProcess, handed
from deepwell.process.confinement import launch
from deepwell.process.confinement.launch import (
    Plan,
    Walls,
    base_python,
    end_program,
    enter_command,
    innermost,
    program_command,
    walls,
)

CALLED = "tests.process.confinement.called"
PROBE = """
import json, os, socket, sys
secret, port, server = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def ends(work):
    try:
        return f"reached {work()!r}"
    except OSError:
        return "refused"

print(json.dumps({
    "secret": ends(lambda: open(secret).read()),
    "server's environment": ends(lambda: open(f"/proc/{server}/environ").read()),
    "new file": ends(lambda: open(secret + ".new", "w")),
    "temporary file": ends(lambda: open("/tmp/confined", "w")),
    "home": ends(lambda: os.listdir("/root") + os.listdir("/home")),
    "signal": ends(lambda: os.kill(server, 0)),
    "fork": ends(os.fork),
    "connection": ends(lambda: socket.create_connection(("127.0.0.1", port))),
    "program": ends(lambda: os.execv("/bin/sh", ["sh", "-c", "echo ran"])),
    "memory file": ends(lambda: os.memfd_create("x")),
}))
"""
pytestmark = [pytest.mark.needs(SECCOMP), pytest.mark.needs(SANDBOX)]


def without_namespaces(command: list[str]) -> list[str]:
    """The command on a machine that allows no namespaces."""
    plan = json.loads(command[-1])
    return [*command[:-1], json.dumps(plan | {"root": None, "keep_user": True})]


@pytest.fixture
def child() -> Iterator[CallProcess]:
    child = CallProcess(CALLED, b"")
    yield child
    child.close()


@pytest.mark.parametrize("has_namespaces", [True, False])
def test_a_program_reaches_nothing(tmp_path: Path, *, has_namespaces: bool) -> None:
    secret = tmp_path / "secret"
    secret.write_text("words")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = [str(secret), str(listener.getsockname()[1]), str(os.getpid())]
        command = program_command([base_python(), "-I", "-S", "-c", PROBE, *arguments], 1 << 30, 10)
        if not has_namespaces:
            command = without_namespaces(command)
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout).values()) == {"refused"}, done.stdout
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_program_reads_what_it_is_given(tmp_path: Path, mode: int) -> None:
    given = tmp_path / "given"
    given.write_text("words")
    given.chmod(mode)
    command = [base_python(), "-I", "-S", "-c", "import sys; print(open(sys.argv[1]).read())", str(given)]
    done = subprocess.run(program_command(command, 1 << 30, 10, [given]), capture_output=True, text=True)
    assert done.stdout == "words\n", done.stderr
    with pytest.raises(ValueError, match="whole file system"):
        program_command(command, 1 << 30, 10, [Path("/")])


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; sys.exit(3)", 3),
        ("import os; os.abort()", -signal.SIGABRT),
        (
            "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0.05)\nwhile True: pass",
            -signal.SIGPROF,
        ),
    ],
)
def test_the_command_ends_as_the_program(code: str, status: int) -> None:
    command = program_command([base_python(), "-I", "-S", "-c", code], 1 << 30, 10)
    assert subprocess.run(command, capture_output=True).returncode == status


def test_nothing_is_left_of_a_program_that_is_ended() -> None:
    code = "import signal; print(1, flush=True); signal.pause()"
    command = program_command([base_python(), "-I", "-S", "-c", code], 1 << 30, 10)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        program = innermost(process.pid)
        assert program != process.pid
        end_program(process.pid)
        assert process.wait() == -signal.SIGKILL
    assert not Path(f"/proc/{program}").exists()


def test_a_child_works_for_one_tenant(child: CallProcess) -> None:
    pids = [(child.call(b"", 1, tenant=tenant), child.pid)[1] for tenant in ("a", "a", "b", "a")]
    assert pids[0] == pids[1] and len(set(pids)) == 3


def test_nothing_runs_between_calls(child: CallProcess) -> None:
    child.call(b"", 1, tenant="a")
    stat = Path(f"/proc/{child.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0], lambda state: state == "T")


def test_a_child_gets_files_and_no_secrets(
    child: CallProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"words")
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("VENDOR_ACCESS", "secret")
    for _ in range(2):  # the offset of a file is shared by all who hold it
        with handed(file) as descriptor:
            assert child.call(b"", 1, tenant="a", file=descriptor) == b"words"
    number, environ = json.loads(child.call(b"", 1, tenant="a"))
    assert number == 2 and "secret" not in environ.values()
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "none", Path("\udcff\x00")):
        with pytest.raises(InvalidFile), handed(path):
            pass


def test_an_answer_of_impossible_length_ends_the_child(child: CallProcess) -> None:
    with pytest.raises(CallEnded, match="no message"):
        child.call(b"lie", 1, tenant="a")
    assert child.call(b"", 1, tenant="a")


@pytest.mark.parametrize("lie", [b"twice", b"half"])
def test_more_than_an_answer_ends_the_child(child: CallProcess, lie: bytes) -> None:
    with pytest.raises(CallEnded, match="no message"):
        child.call(lie, 1, tenant="a")
    assert json.loads(child.call(b"", 1, tenant="a"))[0] == 2


def test_what_a_child_says_unasked_answers_no_call(child: CallProcess) -> None:
    child.call(b"later", 1, tenant="a")
    pid = child.pid
    os.kill(pid, signal.SIGCONT)  # as a child would that was not stopped in time
    ours = child._socket  # pyright: ignore[reportPrivateUsage]
    assert ours is not None
    ours.settimeout(60)
    ours.recv(1, socket.MSG_PEEK)
    assert child.call(b"", 1, tenant="a") != b"lie"
    assert child.pid != pid


def test_an_answer_that_trickles_in_is_late(child: CallProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    child.start("a")
    monkeypatch.setattr(calls, "_GRACE_S", 0.1)
    with pytest.raises(CallEnded) as ended:
        child.call(b"trickle", 0, tenant="a")
    assert ended.value.late


def test_a_signal_without_a_name_ends_a_call(child: CallProcess) -> None:
    with pytest.raises(CallEnded, match=f"signal {signal.SIGRTMIN + 1}"):
        child.call(b"signal", 1, tenant="a")


@pytest.mark.parametrize("body", [b"no JSON", b'"text"', b"[" * 100_000, b'["\xff"]'])
def test_an_answer_that_is_no_message_ends_the_child(tmp_path: Path, body: bytes) -> None:
    child = CallProcess(CALLED, b"", decode=msgspec.json.Decoder(list[Any]).decode)
    file = tmp_path / "a"
    file.write_bytes(body)
    try:
        assert child.start("a")[0] == 2
        with handed(file) as descriptor, pytest.raises(CallEnded, match="no message"):
            child.call(b"", 1, tenant="a", file=descriptor)
    finally:
        child.close()


def test_walls_that_are_required_and_not_there_refuse() -> None:
    assert walls().whole
    walls().require()
    weak = dataclasses.replace(walls(), spaces="none", reason="user namespaces: Operation not permitted")
    with pytest.raises(launch.InvalidRequest, match="Operation not permitted"):
        weak.require()
    assert Walls("none", "macOS has none", 0, filtered=False).names == ("limits of resources", "资源限制")


def test_the_walls_are_named_as_one_list() -> None:
    english, chinese = Walls("namespaces", "", 4, filtered=True).names
    assert english == "namespaces, Landlock and a list of allowed system calls"
    assert chinese == "命名空间、Landlock、系统调用白名单"


@pytest.mark.parametrize(("user", "reached"), [(0, True), (0, False), (1000, True)])
def test_threads_are_limited_where_the_user_id_is_the_childs_alone(
    monkeypatch: pytest.MonkeyPatch, user: int, *, reached: bool
) -> None:
    weak = dataclasses.replace(walls(), spaces="none")
    monkeypatch.setattr(launch, "walls", lambda: weak)
    monkeypatch.setattr(launch, "_others_may_reach", lambda _: reached)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    plan = json.loads(program_command(["/bin/true"], 1 << 30, 10)[-1])
    assert plan["keep_user"] == (user != 0 or not reached)
    assert ("RLIMIT_NPROC" in plan["limits"]) != plan["keep_user"]


def test_a_plan_crosses_as_it_is() -> None:
    plan = Plan(["/bin/true"], None, keep=[4], environ={"A": "\udcff"})
    assert json.loads(enter_command(plan)[-1])["environ"] == {"A": "\udcff"}

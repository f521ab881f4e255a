"""A program in the sandbox computes and answers; its files, output, time and memory are bounded, and what is cut is told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.needs import BUBBLEWRAP, ROOT, SANDBOX
from tests.waiting import until, until_async

from deepwell.agents.sandbox import (
    Sandbox,
    SandboxLimits,
    SandboxResult,
    SandboxUnavailable,
    Way,
    sandbox_way,
)
from deepwell.errors import InvalidRequest

SMALL = SandboxLimits(
    seconds=20,
    processor_s=5,
    memory_bytes=128 << 20,
    folder_bytes=4 << 20,
    file_bytes=2 << 20,
    output_bytes=1000,
)


def ways() -> list[Way]:
    """Returns the ways of this machine."""
    return ["bubblewrap", "namespaces"] if BUBBLEWRAP.find() and os.geteuid() != 0 else ["namespaces"]


pytestmark = pytest.mark.needs(SANDBOX)


def run(
    program: str, way: Way = "namespaces", limits: SandboxLimits = SMALL, **more: object
) -> SandboxResult:
    """Returns the result of one program."""
    return asyncio.run(Sandbox(limits, way=way).run(program, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ways())
def test_a_program_computes_with_its_files_and_its_input(way: Way) -> None:
    program = (
        "import asyncio, csv, decimal, json, sqlite3, ssl, statistics, threading, zoneinfo\n"
        "from helper import double\n"
        "rows = list(csv.DictReader(open('data/rows.csv')))\n"
        "connection = sqlite3.connect('made.db', check_same_thread=False)\n"
        "connection.execute('create table t (a)')\n"
        "connection.executemany('insert into t values (?)', [(int(row['a']),) for row in rows])\n"
        "connection.commit()\n"
        "async def total(): return connection.execute('select sum(a) from t').fetchone()[0]\n"
        "thread = threading.Thread(target=lambda: print(double(asyncio.run(total())), input()))\n"
        "thread.start(); thread.join()\n"
        "exit(7)\n"
    )
    files = {"data/rows.csv": b"a\n1\n2\n", "helper.py": b"def double(x): return 2 * x\n"}
    result = run(program, way, files=files, stdin="词\n".encode())
    assert (result.stdout, result.stderr, result.exit_code) == ("6 词\n", "", 7)
    assert list(result.files) == ["made.db"]
    assert result.files["made.db"].startswith(b"SQLite format 3")
    assert not result.left_out
    assert not result.timed_out


@pytest.mark.parametrize("way", ways())
def test_a_program_sees_nobody_and_nothing(way: Way) -> None:
    program = (
        "import os, socket\n"
        "print(sorted(os.listdir('/dev')), os.path.exists('/proc'), os.path.exists('/etc'), os.path.exists('/tmp'))\n"
        "print(os.getuid(), os.getgid(), os.getpid(), os.getppid(), socket.gethostname(), sorted(os.environ))\n"
    )
    seen = run(program, way).stdout.splitlines()
    assert seen[0] == "['null', 'random', 'urandom'] False False False"
    assert seen[1].startswith("1000 1000 2 1 sandbox ")
    assert "DEEPWELL" not in seen[1]


def test_an_error_is_the_traceback_of_the_program() -> None:
    result = run("def f():\n    return 1 / 0\nf()\n")
    assert result.exit_code == 1
    assert 'File "/work/main.py", line 2, in f' in result.stderr
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_output_is_cut_in_the_middle_and_told() -> None:
    result = run("print('a' * 10_000, end='')\nimport sys; sys.stderr.write('b' * 500)")
    assert result.stdout == f"{'a' * 500}\n[... 9000 bytes cut ...]\n{'a' * 500}"
    assert result.stderr == "b" * 500
    assert result.cut_bytes == 9000


def test_what_is_no_plain_file_is_left_out_with_its_reason() -> None:
    program = (
        "import os\n"
        "os.symlink('/etc/passwd', 'link'); os.mkdir('real'); os.symlink('real', 'way'); os.mkdir('shut')\n"
        "open('shut/x', 'w').close(); os.chmod('shut', 0); open(b'\\xff', 'w').close(); open('real/a', 'w').write('1')\n"
        "os.remove('given')\n"
    )
    result = run(program, files={"given": b"", "kept": b"same"})
    assert result.files == {"real/a": b"1"}
    reasons = {
        "link": "a link",
        "way": "a link",
        "shut": "Permission denied",
        "\\xff": "its name is not UTF-8",
    }
    assert result.left_out == reasons


@pytest.mark.parametrize("more", ["file.truncate(2 << 20)", "os.link('0', str(number + 1000))"])
def test_files_that_take_no_room_are_not_read_beyond_the_size_of_the_folder(more: str) -> None:
    program = (
        "import os\nopen('0', 'wb').write(b'x' * (1 << 20))\n"
        f"for number in range(1, 60):\n    with open(str(number), 'wb') as file: {more}\n"
    )
    result = run(program)
    assert result.exit_code == 0
    assert sum(map(len, result.files.values())) <= SMALL.folder_bytes
    assert len(result.files) + len(result.left_out) >= 60
    assert set(result.left_out.values()) == {f"the files are larger than {SMALL.folder_bytes} bytes together"}


def test_a_folder_that_may_be_listed_and_not_entered_is_left_out() -> None:
    program = (
        "import os\nos.mkdir('d'); open('d/x', 'w').close(); os.chmod('d', 0o400); open('y', 'w').write('1')"
    )
    result = run(program)
    assert result.exit_code == 0
    assert (result.files, result.left_out) == ({"y": b"1"}, {"d/x": "Permission denied"})


def test_names_that_are_too_long_together_are_counted() -> None:
    program = (
        "import os\n"
        "for depth in range(127):\n    os.mkdir('d' * 255); os.chdir('d' * 255)\n"
        "for number in range(127):\n    open(str(number) + 'f' * 250, 'w').close()\n"
    )
    result = run(program, limits=SandboxLimits(seconds=20))
    assert 0 < len(result.files) < 127
    assert result.left_out == {"...": f"{127 - len(result.files)} more, the names are too long"}


def test_python_starts_in_the_least_memory() -> None:
    assert run("print(42)", limits=SandboxLimits(seconds=20, memory_bytes=64 << 20)).stdout == "42\n"


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("for i in range(9):\n  open(str(i), 'wb').write(bytes(10**6))", "OSError: [Errno 28]"),
        ("open('a', 'wb').write(bytes(3 * 10**6))", "OSError: [Errno 27]"),
        ("for i in range(999): open(str(i), 'wb').close()", "OSError: [Errno 28]"),
        ("l = [open('/dev/null') for _ in range(999)]", "OSError: [Errno 24]"),
        ("import os\nos.fork()", "PermissionError"),
        ("import subprocess\nsubprocess.run(['/python/bin/python'])", "PermissionError"),
        ("import socket\nsocket.socket()", "PermissionError"),
        ("open('/python/new', 'w')", "OSError: [Errno 30]"),
    ],
)
def test_limits_are_errors_of_the_program(program: str, error: str) -> None:
    result = run(program)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(error)


def test_a_lack_of_memory_is_told() -> None:
    result = run("kept = bytearray(10**9)")
    assert result.exit_code != 0
    assert result.out_of_memory
    assert not result.timed_out


@pytest.mark.fault
@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize(
    "program",
    [
        "import signal, time\nfor one in (1, 2, 3, 15): signal.signal(one, signal.SIG_IGN)\nprint('up')\ntime.sleep(999)",
        "import threading, time\nprint('up')\nthreading.Thread(target=time.sleep, args=(999,)).start()",
        "import os, time\nprint('up')\nos.close(1); os.close(2); time.sleep(999)",
    ],
)
def test_time_out(program: str, way: Way) -> None:
    begin = time.monotonic()
    result = run(program, way, SandboxLimits(), seconds=1.0)
    assert result.timed_out
    assert result.stdout == "up\n"
    assert time.monotonic() - begin < 10 * 2  # far less than the program's own 999 s


@pytest.mark.fault
def test_processor_time_is_bounded() -> None:
    limits = SandboxLimits(seconds=60, processor_s=1)
    result = run(
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", limits=limits
    )
    assert result.timed_out
    assert result.seconds < 60


def test_several_run_at_a_time_and_apart() -> None:
    async def several() -> list[SandboxResult]:
        sandbox = Sandbox(SMALL, most_at_once=3)
        program = "import os\nprint(os.listdir('.'))\nopen(input(), 'w').close()"
        return await asyncio.gather(*(sandbox.run(program, stdin=f"f{i}\n".encode()) for i in range(6)))

    results = asyncio.run(several())
    assert [result.stdout for result in results] == ["['main.py']\n"] * 6
    assert [list(result.files) for result in results] == [[f"f{i}"] for i in range(6)]


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../b", "main.py", "", ".", "a//b", "a\0b", "./a", "a\nb"]
)
def test_paths_that_are_not_plain_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        run("", files={name: b""})


def test_files_that_do_not_fit_and_text_that_is_none_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        run("", files={"a": bytes(5 << 20)})
    with pytest.raises(InvalidRequest):
        run("print('\ud800')")
    with pytest.raises(InvalidRequest):
        SandboxLimits(seconds=0)
    with pytest.raises(InvalidRequest):
        SandboxLimits(memory_bytes=1000)


def _processes(mark: str) -> list[int]:
    """Returns the processes whose command has a mark."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _wait_until_gone(mark: str) -> None:
    until(lambda: _processes(mark), lambda left: not left)


@pytest.mark.fault
@pytest.mark.parametrize("way", ways())
def test_cancelling_ends_the_program(way: Way) -> None:
    limits = SandboxLimits(seconds=60, files=201 + os.getpid() % 1000)
    mark = f"{limits.folder_bytes}, {limits.files}]" if way == "namespaces" else f"\0{limits.files}\0"

    async def cancelled() -> None:
        task = asyncio.create_task(Sandbox(limits, way=way).run("import time\ntime.sleep(999)"))
        await until_async(lambda: _processes(mark))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    _wait_until_gone(
        f"{limits.folder_bytes}, {limits.files}]" if way == "namespaces" else f"\0{limits.files}\0"
    )


@pytest.mark.fault
@pytest.mark.parametrize("way", ways())
def test_a_program_ends_with_the_one_who_asked_for_it(way: Way) -> None:
    code = (
        "import asyncio\nfrom deepwell.agents.sandbox import *\n"
        "program = 'import time\\nwhile True: print(\"up\"); time.sleep(0.01)'\n"
        f"asyncio.run(Sandbox(SandboxLimits(seconds=60), way={way!r}).run(program))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        tree = until(lambda: _tree(parent.pid), lambda tree: len(tree) >= 4)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(
        lambda: [pid for pid in tree if pid != parent.pid and Path(f"/proc/{pid}").exists()],
        lambda left: not left,
    )


def _tree(pid: int) -> list[int]:
    """Returns a process and all below it."""
    found, new = [pid], [pid]
    while new:
        children: list[int] = []
        for one in new:
            for task in Path(f"/proc/{one}/task").glob("*/children"):
                try:
                    children += map(int, task.read_text().split())
                except OSError:
                    continue
        found += children
        new = children
    return found


@pytest.mark.needs(ROOT)
def test_root_takes_its_own_namespaces_for_its_threads_are_not_counted() -> None:
    assert sandbox_way() == "namespaces"
    with pytest.raises(SandboxUnavailable):
        run("print(1)", "bubblewrap")


def test_without_a_way_no_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxUnavailable) as caught:
        run("print(1)", "bubblewrap")
    assert "apt-get install bubblewrap" in caught.value.fix
    assert "bubblewrap" in caught.value.said("zh")[1]

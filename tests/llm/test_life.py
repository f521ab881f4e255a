"""Ends of a model: Ctrl-C, garbage collection, closing and the interpreter's exit leave no process and no thread."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

from deepwell import LLM, DeepwellError

# Opens a file that no pinned hash vouches for, so that every text goes through a child process. A schema and a long text start
# the other children.
OPENING = """
import asyncio, gc, os, signal, sys, threading, time
from pathlib import Path
from deepwell import LLM, AsyncLLM, DeepwellError
from tests.waiting import until

# A shell starts what runs in the background with SIGINT ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

def children():
    return [int(pid) for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]

def opened():
    llm = LLM(sys.argv[1], context=8192, models_dir=sys.argv[2])
    llm.generate("One, two,", regex="[a-z ]{3}", max_tokens=4)
    try:  # a long text is tokenised before it is found that the answer does not fit
        llm.generate("word " * 5000, max_tokens=8000)
    except DeepwellError:
        pass
    assert len(children()) >= 3, children()
    return llm

def left():
    return children(), [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
"""

COLLECTED = """
llm = opened()
stream = llm.generate("Once", max_tokens=4000, ignore_eos=True, stream=True)
next(stream)
del llm
print(next(stream).completion_tokens)  # a stream keeps its model
del stream
gc.collect()
until(lambda: left() == ([], []))

class Holder: pass
holder = Holder()
holder.itself, holder.llm = holder, LLM(sys.argv[1], models_dir=sys.argv[2])
assert children()
del holder
gc.collect()
until(lambda: left() == ([], []))

for use in (lambda other: None, lambda other: asyncio.run(other.generate("Once", max_tokens=1))):
    other = AsyncLLM(sys.argv[1], models_dir=sys.argv[2])  # loads in the background
    use(other)
    del other
    gc.collect()
    until(lambda: left() == ([], []))
print("nothing is left")
"""

EXITING = """
llm = opened()
stream = llm.generate("Once", max_tokens=4000, ignore_eos=True, stream=True)
next(stream)
print(*children(), flush=True)
"""

INTERRUPTED = """
llm = opened()
def tell():
    until(lambda: llm._session.engine.stats().running)
    print("running", flush=True)
for call in (lambda: llm.generate(["Once"] * 3, max_tokens=4000, ignore_eos=True, progress=True),
             lambda: list(llm.generate("Once", max_tokens=4000, ignore_eos=True, stream=True)),
             lambda: llm.generate("Once", max_tokens=4000, ignore_eos=True)):
    teller = threading.Thread(target=tell)
    teller.start()
    try:
        call()
    except KeyboardInterrupt:
        teller.join()
        until(lambda: not llm._session.engine.stats().running)
        print("aborted", flush=True)
print(llm.generate("One, two, three,", temperature=0, max_tokens=3).text)
with llm:
    stream = llm.generate("Once", max_tokens=4000, ignore_eos=True, stream=True)
    next(stream)
print(left())
"""


@pytest.fixture(scope="session")
def stranger(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model that nothing vouches for, and a store for its packed weights."""
    folder = tmp_path_factory.mktemp("stranger")
    path = folder / "model.gguf"
    path.symlink_to(smollm2_path)
    return str(path), str(folder / "models")


def run(code: str, stranger: tuple[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPENING + code, *stranger],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(program: subprocess.Popen[str]) -> str:
    out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    assert "Exception" not in err and "Error" not in err, err
    return out


def test_collection_leaves_no_child_and_no_thread(stranger: tuple[str, str]) -> None:
    assert ended(run(COLLECTED, stranger)).splitlines()[-1] == "nothing is left"


def test_the_exit_of_the_interpreter_leaves_no_child(stranger: tuple[str, str]) -> None:
    children = ended(run(EXITING, stranger)).split()
    assert len(children) >= 3
    until(lambda: not any(map(_is_alive, children)))


def _is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_interrupt_aborts_the_call_and_closing_waits_for_every_end(stranger: tuple[str, str]) -> None:
    program = run(INTERRUPTED, stranger)
    assert program.stdout is not None
    for _ in range(3):
        assert program.stdout.readline() == "running\n"
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == "aborted\n"
    *said, left = ended(program).splitlines()
    assert "four" in " ".join(said)
    assert left == "([], [])"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("start", [1, 2], ids=["planning", "running"])
def test_an_interrupt_while_a_call_begins_leaves_nothing_running(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, start: int, stream: bool
) -> None:
    """The work may have begun when Ctrl-C comes, and then nobody has what would cancel it."""
    loop, before = llm._session._loop, llm._session.engine.stats().generated_tokens
    hand_over, starts = loop.call_soon_threadsafe, iter(range(1, 100))

    def interrupted(*given: Any, **named: Any) -> asyncio.Handle:
        handle = hand_over(*given, **named)
        if threading.current_thread() is threading.main_thread() and next(starts) == start:
            raise KeyboardInterrupt
        return handle

    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon_threadsafe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate("Once", max_tokens=900, ignore_eos=True, stream=stream)

    async def left() -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[operator]

    until(
        lambda: (
            not (
                asyncio.run_coroutine_threadsafe(left(), loop).result() or llm._session.engine.stats().running
            )
        )
    )
    assert llm._session.engine.stats().generated_tokens < before + 900
    assert llm.generate("Once", max_tokens=1).choices


def test_closing_twice_is_harmless_and_calls_are_refused(smollm2_path: Path) -> None:
    llm = LLM(smollm2_path, context=512)
    llm.close()
    llm.close()
    with pytest.raises(Exception, match="is closed"):
        llm.generate("hello")


def test_a_fork_is_told_that_the_model_belongs_to_its_parent(llm: LLM) -> None:
    child = os.fork()
    if not child:
        try:
            llm.generate("x", max_tokens=1)
        except DeepwellError as error:
            os._exit(3 if "fork" in str(error) else 1)
        os._exit(2)
    try:
        _, status = until(lambda: os.waitpid(child, os.WNOHANG), lambda ended: ended[0])
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        raise
    assert os.waitstatus_to_exitcode(status) == 3

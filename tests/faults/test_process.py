"""The engine's process under real signals: what is lost, what is not, and that nothing leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.engine.conformance import collect, request
from tests.engine.fakes import KILLER, continuation
from tests.waiting import until_async

from deepwell.engine.hosting.process import EngineProcess, ProcessEngine
from deepwell.errors import EngineRestarted, EngineUnavailable

FAKE = "tests.engine.fakes:hosted"
RESTARTS = int(os.environ.get("DEEPWELL_FAULTS_RESTARTS", "4"))
PATIENCE_S = 60.0


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


class Gate:
    """Lets steps of a hosted fake through, by bytes in a pipe that outlives the processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gate"
        os.mkfifo(self.path)
        self._pipe = os.open(self.path, os.O_RDWR)

    def let(self, steps: int) -> None:
        os.write(self._pipe, b"." * steps)

    def close(self) -> None:
        os.close(self._pipe)


@pytest.fixture
def gate(tmp_path: Path) -> Generator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.close()


@pytest.fixture
def gated(gate: Gate, request: pytest.FixtureRequest) -> Generator[ProcessEngine]:
    """An engine whose steps wait for the gate. Where it is stopped, three seconds without an answer are too long."""
    callspec = getattr(request.node, "callspec", None)
    stopped = callspec is not None and callspec.params.get("number") == signal.SIGSTOP
    process = EngineProcess({"gate": str(gate.path)}, factory=FAKE, timeout_s=3.0 if stopped else 300.0)
    with ProcessEngine.start(process) as engine:
        yield engine
        gate.let(10_000)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV], ids=lambda n: n.name)
async def test_begun_streams_end_with_an_error_and_waiting_requests_are_answered(
    gated: ProcessEngine, gate: Gate, number: signal.Signals
) -> None:
    begun = gated.generate(request("begun", [1], max_tokens=50))
    gate.let(1)
    await anext(begun)
    waiting = [asyncio.ensure_future(collect(gated, request(f"{i}", [2, i], max_tokens=9))) for i in range(3)]
    scored = asyncio.ensure_future(gated.score([5, 6, 7]))
    await asyncio.sleep(0)
    old = gated.pid
    os.kill(old, number)
    with pytest.raises(EngineRestarted) as caught:
        [delta async for delta in begun]
    assert (caught.value.status, caught.value.code) == (503, "engine_restarted")
    assert caught.value.fix
    gate.let(1000)
    for i, answer in enumerate(await asyncio.gather(*waiting)):
        assert answer.tokens == continuation([2, i], request("", max_tokens=9).params)[0]
    assert (await scored).shape == (2,)
    stats = gated.stats()
    assert (stats.available, stats.restarts) == (True, 1)
    assert gated.pid != old
    assert not is_there(old)


async def test_while_there_is_no_engine_it_says_so(gated: ProcessEngine, gate: Gate) -> None:
    gate.let(100)
    await collect(gated, request("a"))
    os.kill(gated.pid, signal.SIGKILL)
    await until_async(lambda: not gated.stats().available)
    await until_async(lambda: gated.stats().available)
    assert gated.stats().restarts == 1


@pytest.mark.parametrize("how", ["abort", "aclose", "cancel", "drop"])
async def test_a_stream_that_is_left_ends_within_a_step(gated: ProcessEngine, gate: Gate, how: str) -> None:
    stream = gated.generate(request("a", max_tokens=200))
    gate.let(1)
    await anext(stream)
    if how == "abort":
        gated.abort("a")
    elif how == "aclose":
        await stream.aclose()
    elif how == "cancel":
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        del stream
        gc.collect()
    await asyncio.sleep(0)  # the order to stop leaves with the loop's next turn
    scored = asyncio.ensure_future(gated.score([1, 2]))
    # The order has been obeyed between two steps, or the score, which was sent behind it, waits for the step that runs.
    await until_async(lambda: gated.stats().aborted == 1 or gated.stats().waiting == 1)
    gate.let(2)  # the step that runs, and that of the score
    await scored
    await until_async(lambda: gated.stats().aborted == 1)
    stats = gated.stats()
    assert (stats.running, stats.blocks_used) == (0, 0)
    assert stats.steps <= 3


async def test_a_request_that_was_left_is_not_sent_again(gated: ProcessEngine, gate: Gate) -> None:
    stream = gated.generate(request("left", max_tokens=50))
    task = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.kill(gated.pid, signal.SIGKILL)
    gate.let(100)
    await collect(gated, request("a", [9]))
    assert gated.stats().generated_tokens == 8


async def test_a_request_that_ends_every_engine_is_given_up() -> None:
    process = EngineProcess({"fatal": True}, factory=FAKE)
    with ProcessEngine.start(process) as engine:
        with pytest.raises(EngineRestarted, match="3 times"):
            await collect(engine, request("killer", KILLER))
        assert len((await collect(engine, request("good"))).tokens) == 8
        assert engine.stats().restarts == 3


async def test_nobody_is_kept_waiting_for_an_engine_that_does_not_come(
    gated: ProcessEngine, gate: Gate
) -> None:
    with ProcessEngine(gated.address, wait_s=0.0) as impatient:
        await until_async(lambda: impatient.stats().available)
        stream = impatient.generate(request("a"))
        os.kill(impatient.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable) as caught:
            [delta async for delta in stream]
        assert (caught.value.status, caught.value.code) == (503, "engine_unavailable")
        gate.let(1000)
        await until_async(lambda: impatient.stats().available)
        assert len((await collect(impatient, request("b"))).tokens) == 8


async def test_adapters_are_loaded_again(tmp_path: Path) -> None:
    process = EngineProcess({}, factory="tests.faults.hosted:echo")
    with ProcessEngine.start(process) as engine:
        for name in ("one", "two", "three"):
            await asyncio.to_thread(engine.load_adapter, name, str(tmp_path / name))
        await asyncio.to_thread(engine.unload_adapter, "two")
        before = engine.adapters()
        assert [one.name for one in before] == ["one", "three"]
        assert engine.stats().available
        os.kill(engine.pid, signal.SIGKILL)
        await until_async(lambda: engine.stats().restarts == 1)
        assert engine.adapters() == before
        with ProcessEngine(process.address) as other:
            assert other.adapters() == before


async def test_restarts_leak_nothing() -> None:
    def held() -> tuple[int, int, int]:
        gc.collect()
        return (
            len(list(Path("/proc/self/fd").iterdir())),
            threading.active_count(),
            len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
        )

    process = EngineProcess({}, factory=FAKE)
    process.supervisor.pause_of = lambda failures: 0.0  # a child that fails so often would be kept waiting
    with ProcessEngine.start(process) as engine:
        await collect(engine, request("a"))
        before = held()
        for number in range(RESTARTS):
            os.kill(engine.pid, signal.SIGKILL)
            await until_async(lambda number=number: engine.stats().restarts == number + 1)
            await collect(engine, request(f"{number}"))
        assert held() == before
        assert (engine.stats().running, engine.stats().blocks_used) == (0, 0)


PARENT = """
import sys
from deepwell.engine.hosting.process import EngineProcess, ProcessEngine
engine = ProcessEngine.start(EngineProcess({}, factory="tests.engine.fakes:hosted"))
print(engine.pid, engine.address, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
async def test_the_child_dies_with_its_parent(stopped: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid, address = parent.stdout.readline().split()
        if stopped:
            os.kill(int(pid), signal.SIGSTOP)
        parent.kill()
        parent.wait()
    await until_async(lambda: not is_there(int(pid)))
    EngineProcess({}, factory=FAKE).stop()  # whoever comes next removes the folder
    assert not Path(address).parent.exists()


async def test_an_engine_whose_step_hangs_is_replaced_although_it_answers(gate: Gate) -> None:
    process = EngineProcess({"gate": str(gate.path)}, factory=FAKE, timeout_s=30.0, step_timeout_s=3.0)
    with ProcessEngine.start(process) as engine:
        begun = engine.generate(request("begun", [1], max_tokens=50))
        gate.let(1)
        await anext(begun)  # and no step comes after it
        with pytest.raises(EngineRestarted):
            [delta async for delta in begun]
        gate.let(1000)
        assert len((await collect(engine, request("next"))).tokens) == 8
        assert engine.stats().restarts == 1

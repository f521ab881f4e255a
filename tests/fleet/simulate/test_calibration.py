"""Calibration finds the speed of a replica again, and refuses what it cannot measure.

The replica of the first tests is a simulated one in virtual time: nothing waits, and nothing depends on the machine.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.conftest import start
from tests.server.fakes import make_codec, make_service, write_tokenizer

from deepwell.errors import InvalidRequest
from deepwell.fleet.simulate.calibration.http import HttpTarget
from deepwell.fleet.simulate.calibration.measure import Effort, calibrate, slope_and_start
from deepwell.fleet.simulate.calibration.targets import EngineTarget, TargetLimits, Timed
from deepwell.fleet.simulate.profile import Profile
from deepwell.fleet.simulate.replicas import SlotReplica, StepReplica
from deepwell.fleet.simulate.requests import Request
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.workers.paced import PacedEngine

STEPS = Profile(
    "steps",
    decode=((1, 0.008), (2, 0.009), (4, 0.011), (8, 0.015), (16, 0.023)),
    prefill_s_per_token=0.0005,
    prefill_s=0.008,
    mixed_prefill_s_per_token=0.0004,
    overhead_s=0.003,
    max_batch=16,
    context=4096,
    kv_tokens=1 << 16,
)
SLOTS = replace(
    STEPS,
    kind="slots",
    decode=((1, 0.02),),
    prefill_s=0.05,
    prefill_s_per_token=0.0,
    mixed_prefill_s_per_token=0.0,
    max_batch=4,
)


class TokenReplica(StepReplica):
    """A replica that takes its steps one by one, and notes the time of each token."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tokens: dict[int, list[float]] = {}

    def _next_end(self) -> int:
        super()._next_end()
        return self._step + 1

    def _wake(self, now: float, epoch: int) -> None:
        if epoch != self._epoch:
            return
        taken = {request.number for request, _ in self._taking}
        drawing = [one for one in self._running.values() if one.number not in taken]
        drawing += [one for one, count in self._taking if one.computed + count == one.known]
        for one in drawing:
            self.tokens.setdefault(one.number, []).append(now)
        super()._wake(now, epoch)


class SimulatedTarget:
    """A target that is a simulated replica."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._loop = asyncio.get_running_loop()
        kind = TokenReplica if profile.kind == "steps" else SlotReplica
        self._replica = kind(profile, 0, self._push, self._ended)
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[float]] = {}

    def _push(self, at: float, call: Callable[[float, int], None], argument: int) -> None:
        self._loop.call_at(at, call, at, argument)

    def _ended(self, request: Request, now: float) -> None:
        self._waiting.pop(request.number).set_result(now)

    async def limits(self) -> TargetLimits:
        return TargetLimits("simulated", self._profile.context, self._profile.kv_tokens)

    async def stream(self, prompt_tokens: int, answer_tokens: int) -> Timed:
        begin = self._loop.time()
        await asyncio.sleep(self._profile.overhead_s)
        request = Request(begin, prompt_tokens, answer_tokens)
        request.number = next(self._numbers)
        done = self._waiting[request.number] = self._loop.create_future()
        self._replica.submit(request, self._loop.time())
        ended = await done
        if isinstance(self._replica, TokenReplica):
            events = self._replica.tokens.pop(request.number)
        else:
            pace = (ended - request.first) / max(1, answer_tokens - 1)
            events = [request.first + number * pace for number in range(answer_tokens)]
        assert len(events) == answer_tokens
        return Timed(begin, tuple(events), prompt_tokens, 0, answer_tokens)


def in_virtual_time(task: Callable[[], Awaitable[Profile]]) -> Profile:
    """Runs a coroutine on a loop whose clock jumps to the next event."""
    loop = asyncio.new_event_loop()
    selector: Any = loop._selector  # pyright: ignore[reportAttributeAccessIssue]
    select, now = selector.select, [0.0]

    def jump(timeout: float | None) -> Any:
        now[0] += timeout or 0.0
        return select(0)

    selector.select = jump
    loop.time = lambda: now[0]
    try:
        return loop.run_until_complete(task())
    finally:
        loop.close()


async def measured(profile: Profile) -> Profile:
    return await calibrate(SimulatedTarget(profile), Effort(most_batch=16), lambda _: None)


def test_no_more_answers_are_measured_side_by_side_than_the_cache_holds() -> None:
    said: list[str] = []
    small = replace(STEPS, kv_tokens=1024, context=1024)

    async def run() -> Profile:
        return await calibrate(SimulatedTarget(small), Effort(most_batch=16), said.append)

    found = in_virtual_time(run)
    assert found.max_batch == 10, "96 tokens each, with a block ahead"
    steps = [seconds for _, seconds in found.decode]
    assert steps == sorted(steps) and found.context_s_per_token < 1e-6
    assert any("10 answers of 80 tokens fill the KV cache of 1024 tokens" in one for one in said)


def test_it_finds_an_engine_with_continuous_batching_again() -> None:
    found = in_virtual_time(lambda: measured(STEPS))
    assert found.kind == "steps" and (found.max_batch, found.context) == (16, 4096)
    assert dict(found.decode) == pytest.approx(dict(STEPS.decode), rel=0.02)
    assert found.prefill_s_per_token == pytest.approx(0.0005, rel=0.05)
    assert found.mixed_prefill_s_per_token == pytest.approx(0.0004, rel=0.1)
    assert found.overhead_s + found.prefill_s == pytest.approx(0.011, rel=0.1)
    assert found.context_s_per_token == pytest.approx(0.0, abs=1e-8)


def test_it_finds_the_cost_of_context() -> None:
    profile = replace(STEPS, context_s_per_token=2e-6)
    found = in_virtual_time(lambda: measured(profile))
    assert found.context_s_per_token == pytest.approx(2e-6, rel=0.1)
    assert dict(found.decode) == pytest.approx(dict(STEPS.decode), rel=0.03)


def test_it_finds_slots_again() -> None:
    found = in_virtual_time(lambda: measured(SLOTS))
    assert found.kind == "slots" and found.max_batch == 4
    assert found.decode[-1][1] == pytest.approx(0.02, rel=0.01)
    assert found.prefill_s == pytest.approx(0.05, rel=0.01)
    assert found.overhead_s == pytest.approx(0.003, rel=0.05)


def test_one_slot_is_found() -> None:
    found = in_virtual_time(lambda: measured(replace(SLOTS, max_batch=1)))
    assert found.max_batch == 1


@given(st.floats(-1, 1), st.floats(5, 10), st.lists(st.floats(-2, 2), min_size=2, unique=True))
def test_points_on_a_line_give_the_line(slope: float, start: float, places: list[float]) -> None:
    found = slope_and_start([(x, slope * x + start) for x in places])
    if max(places) - min(places) > 1e-3:
        assert found == pytest.approx((slope, start), abs=1e-6)


async def test_an_engine_in_this_process_is_measured(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "tokenizer"))
    engine = PacedEngine(tokenizer, first_s=0.005, token_s=0.005, tokens=4096)
    try:
        effort = Effort(repeats=1, most_batch=2, longest_prompt=64, answer_tokens=16)
        found = await calibrate(EngineTarget(engine), effort, lambda _: None)
    finally:
        engine.close()
    assert found.name == "paced" and found.context == found.kv_tokens == 8192


def test_a_server_is_measured(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "tokenizer"))
    engine: Any = PacedEngine(tokenizer, first_s=0.005, token_s=0.005, tokens=4096)
    running = start(make_service(engine, make_codec(tmp_path), model="toy"), engine)
    said: list[str] = []
    try:
        effort = Effort(repeats=1, most_batch=2, longest_prompt=64, answer_tokens=16)
        found = asyncio.run(calibrate(HttpTarget(running.url), effort, said.append))
        with pytest.raises(InvalidRequest, match="it serves toy"):
            asyncio.run(HttpTarget(running.url, model="other").limits())
        with pytest.raises(InvalidRequest, match="it answered 404"):
            asyncio.run(HttpTarget(running.url, model="other").stream(8, 8))
    finally:
        running.stop()
    assert found.name == "toy" and found.context == 8192 and said


class AtOnce:
    """A target whose tokens all come together."""

    async def limits(self) -> TargetLimits:
        return TargetLimits("buffered")

    async def stream(self, prompt_tokens: int, answer_tokens: int) -> Timed:
        return Timed(0.0, (1.0,) * answer_tokens, prompt_tokens, 0, answer_tokens)


async def test_tokens_that_come_all_at_once_cannot_be_measured() -> None:
    with pytest.raises(InvalidRequest, match="all at once"):
        await calibrate(AtOnce(), Effort(), lambda _: None)


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":%d}}\n\n'
EVENT = b'data: {"choices":[{"text":"a"}]}\n\n'


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "nothing"),
        (b"\x00\xff" * 5000, "it answered"),
        (b'HTTP/1.1 500 Oops\r\n\r\n{"error": "broken"}', "500"),
        (OK + b"<html>hello</html>", "it answered 200"),
        (OK + EVENT * 3, "it answered 200"),  # it breaks off
        (OK + EVENT * 3 + b"data: [DONE]\n\n", "unknown came"),
        (OK + EVENT * 3 + USAGE % 3 + b"data: [DONE]\n\n", "8 tokens were asked for, and 3 came"),
        (OK + USAGE % 8 + b"data: [DONE]\n\n", "it answered 200"),  # without any event
        (OK + b"x" * (9 << 20), "it answered 200"),
    ],
    ids=["empty", "noise", "status", "page", "cut", "uncounted", "short", "silent", "endless"],
)
async def test_a_server_that_does_not_stream_as_it_should_is_refused(answer: bytes, reason: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(InvalidRequest, match=reason):
            await HttpTarget(f"http://127.0.0.1:{port}", model="m").stream(8, 8)


async def test_a_server_that_is_silent_or_absent_is_refused() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(InvalidRequest, match="silent"):
            await HttpTarget(f"http://127.0.0.1:{port}", model="m", timeout_s=0.05).stream(8, 8)
    with pytest.raises(InvalidRequest, match="no server answers") as absent:
        await HttpTarget(f"http://127.0.0.1:{port}").limits()
    assert "deepwell serve" in absent.value.fix

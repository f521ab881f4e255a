"""The engine in a process of its own: the conformance suite, and what only this implementation promises."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.conformance import EngineConformance, collect, request
from tests.engine.fakes import continuation

from deepwell import errors
from deepwell.engine.hosting.process import EngineProcess, ProcessEngine
from deepwell.engine.hosting.wire import (
    Generate,
    Step,
    decode_answer,
    decode_request,
    delta_of,
    encode_request,
    row_of,
)
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import Delta, GenerateRequest, Grammar, SamplingParams, TokenLogprob, Window
from deepwell.errors import DeepwellError, InvalidRequest, ModelNotFound
from deepwell.process.frames import Failure, Frames, WireError, encode, error_of, failure_of

FAKE = "tests.engine.fakes:hosted"


@pytest.fixture(scope="module")
def process() -> Generator[EngineProcess]:
    """One process for all tests that leave it as it was."""
    process = EngineProcess({}, factory=FAKE)
    process.supervisor.wait_ready()
    yield process
    process.stop()


@pytest.fixture
def engine(process: EngineProcess) -> Generator[ProcessEngine]:
    with ProcessEngine(process.address) as engine:
        yield engine


class TestConformance(EngineConformance):
    pass


@pytest.fixture(scope="module")
def smollm2_process(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[EngineProcess]:
    cache = str(tmp_path_factory.mktemp("packed"))
    process = EngineProcess(
        {
            "source": str(smollm2_path),
            "options": EngineOptions(cache_dir=Path(cache), kv_tokens=2048).encode(),
        }
    )
    process.supervisor.wait_ready()
    yield process
    process.stop()


@pytest.mark.native
class TestConformanceOfSmolLM2(EngineConformance):
    @pytest.fixture
    def engine(self, smollm2_process: EngineProcess) -> Generator[ProcessEngine]:
        with ProcessEngine(smollm2_process.address) as engine:
            yield engine


async def test_two_users_share_an_engine_and_not_their_ids(process: EngineProcess) -> None:
    with ProcessEngine(process.address) as one, ProcessEngine(process.address) as other:
        first, second = await asyncio.gather(
            collect(one, request("a", [1, 2], max_tokens=40)),
            collect(other, request("a", [3], max_tokens=30)),
        )
    assert first.tokens == continuation([1, 2], request("", max_tokens=40).params)[0]
    assert second.tokens == continuation([3], request("", max_tokens=30).params)[0]


async def test_an_id_in_use_is_refused(engine: ProcessEngine) -> None:
    stream = engine.generate(request("a", max_tokens=100))
    with pytest.raises(InvalidRequest, match="in use"):
        engine.generate(request("a"))
    assert len([delta async for delta in stream]) > 0


async def test_any_string_is_a_salt(engine: ProcessEngine) -> None:
    assert len((await collect(engine, request("a", salt="\ud800 \0 \N{SNOWMAN}"))).tokens) == 8


async def test_what_cannot_cross_is_refused(engine: ProcessEngine) -> None:
    with pytest.raises(InvalidRequest):
        await collect(engine, request("a", [10**30]))
    with pytest.raises(InvalidRequest):
        await engine.prepare(Grammar("regex", "\ud800"))
    with pytest.raises(
        InvalidRequest, match="takes no grammars"
    ):  # it crossed, with a salt of any characters
        await engine.prepare(Grammar("regex", "a"), tenant="a", cache_salt="\ud800")
    assert len((await collect(engine, request("a"))).tokens) == 8


async def test_errors_keep_their_type_and_parameter(engine: ProcessEngine) -> None:
    with pytest.raises(errors.UnsupportedModel) as caught:
        await asyncio.to_thread(engine.load_adapter, "a", "/nowhere")
    assert caught.value.fix
    with pytest.raises(errors.ModelNotFound):
        await asyncio.to_thread(engine.unload_adapter, "a")


def test_the_socket_is_for_its_owner_alone(process: EngineProcess) -> None:
    folder = Path(process.address).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()


@pytest.mark.parametrize("data", [b"\xff" * 64, b"\x03\x00\x00\x00\x93\x01\x02", b"\x00\x00\x00\x00"])
async def test_hostile_bytes_end_their_connection_alone(
    process: EngineProcess, engine: ProcessEngine, data: bytes
) -> None:
    stream = engine.generate(request("a", max_tokens=100))
    with socket.socket(socket.AF_UNIX) as hostile:
        hostile.connect(process.address)
        hostile.sendall(data)
        hostile.settimeout(30)
        while hostile.recv(1 << 16):  # the greeting, then the end
            pass
    assert len([token async for delta in stream for token in delta.tokens]) == 100


async def test_a_reader_that_stops_costs_nobody_else_anything(
    process: EngineProcess, engine: ProcessEngine
) -> None:
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(process.address)
        for number in range(1, 9):
            params = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True, logprobs=90)
            idle.sendall(encode_request(Generate(number, GenerateRequest("", [number], params))))
        answer = await collect(engine, request("a", max_tokens=100))
        assert len(answer.tokens) == 100
    while engine.stats().running:
        await collect(engine, request("b", max_tokens=1))


def test_a_failure_to_start_is_told_with_its_type() -> None:
    with pytest.raises(DeepwellError) as caught:
        ProcessEngine.start(EngineProcess({"source": "/nowhere", "options": EngineOptions().encode()}))
    assert type(caught.value) in (errors.InvalidModelFile, errors.ModelNotFound, errors.UnsupportedModel)


def test_a_folder_goes_with_its_process() -> None:
    process = EngineProcess({}, factory=FAKE)
    folder = Path(process.address).parent
    process.supervisor.wait_ready()
    process.stop()
    assert not folder.exists()


ENTRY = TokenLogprob(3, -0.1, 2, ((3, -0.1), (4, float.fromhex("-0x1.999999999999ap-4"))))


def test_a_delta_crosses_whole() -> None:
    delta = Delta("a", (1, 2), (ENTRY,), (None, ENTRY), "length", 5, 4, 3, 2, "why", "code", 0.25, 16)
    assert not [
        field.name
        for field in dataclasses.fields(Delta)
        if field.default is not dataclasses.MISSING and getattr(delta, field.name) == field.default
    ], "give the new field a value here, and a place in the rows that cross"
    message = decode_answer(encode(Step([row_of(7, delta)]))[4:])
    assert isinstance(message, Step)
    assert delta_of(message.rows[0], "a") == delta


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_crosses_as_itself(name: str) -> None:
    error = getattr(errors, name)("what", fix="how", param="where")
    failure = decode_answer(encode(failure_of(1, error))[4:])
    assert isinstance(failure, Failure)
    again = error_of(failure)
    assert type(again) is type(error)
    for attribute in ("message", "fix", "param", "status", "type", "code"):
        assert getattr(again, attribute) == getattr(error, attribute)


def test_an_error_of_the_catalogue_crosses_in_every_language(tmp_path: Path) -> None:
    error = ModelNotFound.of("model_not_pulled", name="toy", root=tmp_path)
    again = error_of(decode_answer(encode(failure_of(1, error))[4:]))
    assert again.said("zh") == error.said("zh") != error.said("en") == again.said("en")


class Stranger(DeepwellError):
    status = 418
    type = "teapot"
    code = "short_and_stout"


def test_an_unknown_error_keeps_what_is_told_of_it() -> None:
    again = error_of(failure_of(1, Stranger("what")))
    assert (again.status, again.type, again.code) == (418, "teapot", "short_and_stout")
    assert "boom" in error_of(failure_of(1, ValueError("boom"))).message


requests = st.builds(
    GenerateRequest,
    st.just(""),
    st.lists(st.integers(0, 2**40)),
    st.builds(
        SamplingParams,
        temperature=st.floats(allow_nan=False),
        logit_bias=st.dictionaries(st.integers(0, 1000), st.floats(allow_nan=False)),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        stop_token_ids=st.lists(st.integers(0, 1000)).map(tuple),
        grammar=st.none() | st.builds(Grammar, st.sampled_from(["json_schema", "regex"]), st.text()),
    ),
    adapter=st.text(),
    window=st.none() | st.builds(Window, st.integers(0, 2**40), st.integers(0, 2**40)),
)


@given(requests)
def test_a_request_crosses_whole(sent: GenerateRequest) -> None:
    message = decode_request(encode_request(Generate(1, sent))[4:])
    assert isinstance(message, Generate)
    assert message.request == sent


@given(st.binary(max_size=200))
def test_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for decode in (decode_request, decode_answer):
        with contextlib.suppress(WireError):
            decode(data)


@given(st.lists(st.binary(max_size=40)), st.data())
def test_frames_do_not_depend_on_how_they_arrive(bodies: list[bytes], data: Any) -> None:
    stream = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    frames = Frames(64)
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [body for part in parts for body in frames.feed(part)] == bodies


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    with pytest.raises(WireError):
        list(Frames(64).feed((65).to_bytes(4, "little")))

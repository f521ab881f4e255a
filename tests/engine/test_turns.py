"""Engines that share the cores by turns: none computes beside another, none starves, and answers stay what they are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine import sequences
from tests.engine.conformance import collect, request
from tests.engine.fakes import FakeModel, continuation, fake_engine
from tests.waiting import until_async

from deepwell.engine.batch import Batch
from deepwell.engine.encoder.loop import EncoderEngine, EncoderLimits
from deepwell.engine.limits import Limits
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import Capabilities
from deepwell.engine.weights.load import load_weights
from deepwell.process.turns import Turn


class Cores:
    """Notes who computes, and that nobody else does."""

    def __init__(self) -> None:
        self.inside = threading.Lock()
        self.log: list[str] = []

    def step(self, name: str) -> None:
        assert self.inside.acquire(blocking=False), "two engines compute at once"
        self.log.append(name)
        self.inside.release()


class FakeEncoder:
    """Embeds a text as its first token."""

    hidden_size = 4

    def __init__(self, cores: Cores) -> None:
        self.cores = cores

    def forward(
        self,
        tokens: NDArray[np.int32],
        seq_starts: NDArray[np.int32],
        *,
        pooled: NDArray[np.float32] | None = None,
        hidden: NDArray[np.float32] | None = None,
    ) -> None:
        self.cores.step("encoder")
        assert pooled is not None
        pooled[...] = tokens[seq_starts[:-1], None]


def encoder_capabilities() -> Capabilities:
    return Capabilities(
        model="fake",
        architecture="bert",
        precision="int8",
        backend="reference",
        isa="numpy",
        threads=1,
        vocab_size=97,
        hidden_size=4,
        max_model_len=64,
        kv_cache_tokens=0,
        weights_bytes=0,
        kv_cache_bytes=0,
        generates=False,
    )


async def test_engines_take_turns_and_answer_as_if_alone(tmp_path: Path) -> None:
    path, cores = tmp_path / "turns", Cores()

    def model(name: str) -> FakeModel:
        def before_step(_: Batch) -> None:
            cores.step(name)

        return FakeModel(before_step)

    with (
        fake_engine(model=model("a"), turn=Turn(path, quantum_s=0.0)) as a,
        fake_engine(model=model("b"), turn=Turn(path, quantum_s=0.0)) as b,
        EncoderEngine(FakeEncoder(cores), encoder_capabilities(), turn=Turn(path, quantum_s=0.0)) as c,
    ):

        async def texts() -> Sequence[NDArray[np.float32]]:
            return [await c.embed([i, 2, 3]) for i in range(20)]

        prompts = [[1, 2, i] for i in range(4)]
        asked = [(engine, prompt) for engine in (a, b) for prompt in prompts]
        vectors, answers = await asyncio.gather(
            texts(),
            asyncio.gather(*(collect(one, request(f"{p[-1]}", p, max_tokens=40)) for one, p in asked)),
        )
    assert [int(vector[0]) for vector in vectors] == list(range(20))
    for (_, prompt), answer in zip(asked, answers, strict=True):
        assert answer.tokens == continuation(prompt, request("", prompt, max_tokens=40).params)[0]
    assert set(cores.log) == {"a", "b", "encoder"}


async def test_an_idle_engine_holds_no_turn(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    with fake_engine(turn=Turn(path)) as engine:
        await collect(engine, request("once", [1, 2, 3]))
        ours = Turn(path)
        await asyncio.wait_for(asyncio.to_thread(ours.take), 30)
        running = asyncio.ensure_future(collect(engine, request("again", [1, 2, 3])))
        await until_async(ours.others_wait)
        assert not running.done()
        ours.give()
        assert (await running).last.finish_reason == "length"
        ours.close()


async def test_a_request_that_waits_for_its_turn_can_be_aborted(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    ours = Turn(path)
    ours.take()
    model = FakeModel()
    with fake_engine(model=model, turn=Turn(path)) as engine:
        running = asyncio.ensure_future(collect(engine, request("aborted", [1, 2, 3])))
        await until_async(ours.others_wait)
        engine.abort("aborted")
        ours.close()
        assert (await running).last.finish_reason == "abort"
        assert model.calls == 0


def test_a_closed_engine_leaves_the_queue(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    ours = Turn(path)
    with fake_engine(turn=Turn(path)):
        pass
    ours.take()
    assert not ours.others_wait()
    ours.close()


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_weights_are_loaded_in_slices_between_which_others_compute(tmp_path: Path, precision: str) -> None:
    """Packed, read from the packed file, and with nobody else: the same bytes; no turn is held afterwards."""
    checkpoint = sequences.golden_checkpoint("llama-llama3", tmp_path)
    path = tmp_path / "turns"
    whole = load_weights(checkpoint, precision)  # pyright: ignore[reportArgumentType]
    ours, other = Turn(path, quantum_s=0.0), Turn(path)
    turns_of_other = 0
    begun, done = threading.Event(), threading.Event()

    def compute() -> None:
        nonlocal turns_of_other
        while not done.is_set():
            other.take()
            turns_of_other += 1
            other.give()
            begun.set()

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        assert begun.wait(60)
        for _ in ("packs", "reads"):
            sliced = load_weights(checkpoint, precision, tmp_path / "packed", turn=ours)  # pyright: ignore[reportArgumentType]
            assert not ours.held
            for name, matrix in whole.matrices.items():
                assert np.array_equal(matrix.data, sliced.matrices[name].data)
            for name, vector in whole.vectors.items():
                assert np.array_equal(vector, sliced.vectors[name])
    finally:
        done.set()
        thread.join(60)
    assert turns_of_other > 0 and ours.taken > 1
    ours.close()
    other.close()


async def test_the_options_carry_the_file_to_the_engine(tmp_path: Path) -> None:
    sequences.golden_checkpoint("llama-llama3", tmp_path)
    options = EngineOptions(turns=tmp_path / "turns", backend="reference")
    assert EngineOptions.decode(options.encode()) == options
    ours = Turn(tmp_path / "turns")
    with open_engine(tmp_path, options, quiet=True) as engine:
        ours.take()
        scores = asyncio.ensure_future(engine.score([1, 2, 3]))
        await until_async(ours.others_wait)
        ours.give()
        assert len(await scores) == 2
    ours.close()


async def test_steps_are_short_while_another_model_waits(tmp_path: Path) -> None:
    """A long prompt is computed in one step alone, and in pieces while others wait; an encoder's texts likewise."""
    path = tmp_path / "turns"
    rows: list[int] = []
    limits = Limits(prefill_tokens=90, mixed_prefill_tokens=30)
    model = FakeModel(lambda batch: rows.append(len(batch.tokens)))
    ours, behind = Turn(path), Turn(path)

    async def run(work: Coroutine[Any, Any, Any]) -> None:
        """Runs work in a turn for whose end another waits."""
        ours.take()
        task = asyncio.ensure_future(work)
        await until_async(ours.others_wait)
        waiting = threading.Thread(target=behind.take)
        waiting.start()
        await until_async(lambda: behind.queued)
        ours.give()
        await task
        await asyncio.to_thread(waiting.join, 60)
        behind.give()

    prompt = [1 + i % 90 for i in range(90)]
    with fake_engine(limits=limits, model=model, turn=Turn(path, quantum_s=60.0)) as engine:
        await collect(engine, request("alone", prompt, max_tokens=1))
        assert rows == [90]
        rows.clear()
        await run(collect(engine, request("beside", [2, *prompt[1:]], max_tokens=1)))
        assert rows == [30, 30, 30]

    cores = Cores()
    limits = EncoderLimits(tokens=16, shared_tokens=8)
    turn = Turn(path, quantum_s=60.0)
    with EncoderEngine(FakeEncoder(cores), encoder_capabilities(), limits=limits, turn=turn) as encoder:

        async def texts() -> None:
            await asyncio.gather(*(encoder.embed([i, 2, 3, 4]) for i in range(4)))

        await run(texts())
        assert len(cores.log) == 2
    ours.close()
    behind.close()

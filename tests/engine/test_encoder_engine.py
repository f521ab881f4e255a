"""The encoder behind the `Engine` protocol: batching, refusals, cancelling, closing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine import sequences
from tests.engine.conformance import EngineConformance, request

from deepwell.engine.encoder.loop import EncoderEngine, EncoderLimits
from deepwell.engine.encoder.plan import plan_encoder
from deepwell.engine.load import open_engine
from deepwell.engine.protocol import Capabilities, Engine
from deepwell.errors import ContextLengthExceeded, DeepwellError, InsufficientMemory, InvalidRequest


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    sequences.golden_checkpoint("bert", folder)
    return folder


@pytest.fixture
def engine(directory: Path) -> Iterator[Engine]:
    with open_engine(directory, quiet=True) as opened:
        yield opened


class Gate:
    """An encoder that waits to be let through, and keeps what each step held."""

    hidden_size = 4

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        self.entered, self.open = threading.Event(), threading.Event()
        self.broken = False

    def forward(
        self,
        tokens: NDArray[np.int32],
        seq_starts: NDArray[np.int32],
        *,
        pooled: NDArray[np.float32] | None = None,
        hidden: NDArray[np.float32] | None = None,
    ) -> None:
        self.steps.append(np.diff(seq_starts).tolist())
        self.entered.set()
        assert self.open.wait(30)
        if self.broken:
            raise RuntimeError("the model broke")
        assert pooled is not None
        pooled[...] = tokens[seq_starts[:-1], None]


ABOUT = Capabilities("gate", "bert", "int8", "reference", "numpy", 1, 100, 4, 50, 0, 1, 0, generates=False)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def gated(gate: Gate) -> Iterator[EncoderEngine]:
    with EncoderEngine(gate, ABOUT, limits=EncoderLimits(tokens=60, sequences=3)) as opened:
        yield opened
        gate.open.set()


async def behind(
    engine: EncoderEngine, gate: Gate, lengths: list[int]
) -> list[asyncio.Task[NDArray[np.float32]]]:
    """A step that is held, and requests of these lengths waiting behind it; their first token is their number."""
    tasks = [asyncio.create_task(engine.embed([99]))]
    await asyncio.to_thread(gate.entered.wait, 30)
    tasks += [asyncio.create_task(engine.embed([number] * n)) for number, n in enumerate(lengths)]
    while engine.stats().waiting < len(lengths):
        await asyncio.sleep(0)
    return tasks


class TestConformance:
    """The parts of the contract that an encoder can keep."""

    test_embeddings_are_unit_vectors = (
        EngineConformance.test_embeddings_are_unit_vectors_independent_of_company
    )

    @pytest.fixture
    def engine(self, minilm_path: Path) -> Iterator[Engine]:
        with open_engine(minilm_path, quiet=True) as opened:
            yield opened


async def test_an_encoder_checkpoint_opens_as_an_encoder(engine: Engine) -> None:
    about = engine.capabilities()
    assert isinstance(engine, EncoderEngine)
    assert (about.architecture, about.precision, about.generates) == ("bert", "int8", False)
    assert (about.max_model_len, about.hidden_size, about.kv_cache_tokens) == (48, 72, 0)


async def test_generating_and_scoring_are_refused_with_what_works(engine: Engine) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.generate(request("a"))
    assert "embed" in caught.value.fix
    with pytest.raises(InvalidRequest):
        await engine.score([1, 2])


async def test_too_long_an_input_is_refused_and_never_cut(engine: Engine) -> None:
    assert (await engine.embed([1] * 48)).shape == (72,)
    with pytest.raises(ContextLengthExceeded, match="48 tokens; the input has 50") as caught:
        await engine.embed([1] * 50)
    assert "2 tokens" in caught.value.fix


@pytest.mark.parametrize("tokens", [[], [-1], [1, 200], [2**40], [[1]], ["a"]])
async def test_bad_inputs_are_refused(engine: Engine, tokens: list[int]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await engine.embed(tokens)
    assert caught.value.fix


async def test_what_waits_together_shares_steps_within_their_limits(gate: Gate, gated: EncoderEngine) -> None:
    tasks = await behind(gated, gate, [20, 30, 20, 1, 1, 1, 50])
    gate.open.set()
    vectors = await asyncio.gather(*tasks)
    assert gate.steps == [[1], [20, 30], [20, 1, 1], [1, 50]]
    assert [vector[0] for vector in vectors] == [99, 0, 1, 2, 3, 4, 5, 6]
    stats = gated.stats()
    assert (stats.steps, stats.prompt_tokens, stats.waiting) == (4, 124, 0)


async def test_a_cancelled_request_is_not_computed(gate: Gate, gated: EncoderEngine) -> None:
    tasks = await behind(gated, gate, [5, 7])
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    gate.open.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert gate.steps == [[1], [7]]
    assert gated.stats().aborted == 1


async def test_a_step_that_fails_fails_its_requests_and_no_more(gate: Gate, gated: EncoderEngine) -> None:
    tasks = await behind(gated, gate, [5])
    gate.broken = True
    gate.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, DeepwellError) and "broke" in result.message for result in results)
    gate.broken = False
    assert (await gated.embed([7]))[0] == 7


async def test_close_answers_everybody_and_refuses_new_requests(gate: Gate, gated: EncoderEngine) -> None:
    tasks = await behind(gated, gate, [5])
    closing = asyncio.create_task(asyncio.to_thread(gated.close))
    while True:  # until it is closed, requests still queue
        late = asyncio.create_task(gated.embed([1]))
        await asyncio.sleep(0)
        tasks.append(late)
        if late.done():
            break
    gate.open.set()
    await closing
    results = await asyncio.gather(*tasks[1:], return_exceptions=True)
    assert all(isinstance(result, DeepwellError) and "closed" in result.message for result in results)
    assert gate.steps == [[1]]
    gated.close()


def test_the_plan_has_no_cache_and_says_what_would_fit(directory: Path) -> None:
    from deepwell.models.formats.checkpoint import open_checkpoint

    config = open_checkpoint(directory).config
    made = plan_encoder(config, "int8")
    assert (made.context, made.kv_cache_bytes) == (48, 0)
    assert not any("KV" in line for line in made.lines())
    with pytest.raises(InvalidRequest, match="49"):
        plan_encoder(config, "int8", 49)
    with pytest.raises(InsufficientMemory) as caught:
        plan_encoder(config, "fp32", available_bytes=1000)
    assert "int8" in caught.value.fix

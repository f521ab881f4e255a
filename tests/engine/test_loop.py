"""The in-process engine: the conformance suite, and what only this implementation promises."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from tests.engine.conformance import Answer, EngineConformance, collect, request
from tests.engine.fakes import EOS, FakeModel, continuation, fake_engine, log_softmax, logits_after
from tests.needs import NATIVE, require

from deepwell.engine.batch import Batch
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.limits import Limits
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.errors import DeepwellError, InvalidRequest


class Gate:
    """Lets the model's steps through one at a time."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.leave = threading.Semaphore(0)

    def __call__(self, batch: Batch) -> None:
        self.entered.release()
        self.leave.acquire()

    def wait_for_step(self) -> None:
        assert self.entered.acquire(timeout=60)

    def open(self) -> None:
        """Let all further steps pass."""
        self.leave.release(10_000)


@pytest.fixture
def engine() -> Generator[InProcessEngine]:
    with fake_engine() as engine:
        yield engine


class TestConformance(EngineConformance):
    """On the fake model."""


class TestConformanceWhenEverythingIsScarce(EngineConformance):
    """Chunks of a few tokens, two sequences at a time and a pool of one context: the same answers."""

    @pytest.fixture
    def engine(self) -> Generator[InProcessEngine]:
        limits = Limits(max_sequences=2, prefill_tokens=7, mixed_prefill_tokens=3, logits_rows=5)
        with fake_engine(num_blocks=8, max_model_len=128, limits=limits) as engine:
            yield engine


@pytest.fixture(scope="session")
def packed_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed")


@pytest.mark.model
@pytest.mark.native
class TestConformanceOfSmolLM2(EngineConformance):
    """The real model on the compiled kernels: logprobs equal to the last bit in any company."""

    @pytest.fixture
    def engine(self, smollm2_path: Path, packed_dir: Path) -> Generator[InProcessEngine]:
        require(NATIVE)
        with open_engine(
            smollm2_path,
            EngineOptions(backend="native", context=256, kv_tokens=1024, cache_dir=packed_dir),
            quiet=True,
        ) as engine:
            yield engine


async def test_random_requests_say_what_the_oracle_says() -> None:
    rng = random.Random(4)
    with fake_engine(
        num_blocks=10,
        max_model_len=128,
        limits=Limits(max_sequences=6, prefill_tokens=40, mixed_prefill_tokens=16),
    ) as engine:
        asked = [
            GenerateRequest(
                f"{i}",
                [rng.choice((1, 2))] * rng.randrange(0, 50)
                + [rng.randrange(8) for _ in range(rng.randrange(1, 9))],
                SamplingParams(
                    max_tokens=rng.randrange(1, 50),
                    min_tokens=rng.choice((0, 3)),
                    temperature=rng.choice((0.0, 0.9)),
                    top_p=rng.choice((1.0, 0.8)),
                    frequency_penalty=rng.choice((0.0, 0.5)),
                    seed=rng.randrange(100),
                ),
                choice=rng.randrange(3),
            )
            for i in range(60)
        ]
        answers = await asyncio.gather(*(collect(engine, one) for one in asked))
        assert engine.stats().preemptions > 0
    for one, answer in zip(asked, answers, strict=True):
        expected = continuation(one.prompt, one.params, choice=one.choice)
        assert (answer.tokens, answer.last.finish_reason) == expected


async def test_scores_and_embeddings_are_the_models_own(engine: InProcessEngine) -> None:
    tokens = [(3 * i) % 16 for i in range(70)]
    rows = [logits_after(np.array(tokens[: i + 1], np.int32)) for i in range(70)]
    assert await engine.score(tokens) == pytest.approx(
        [log_softmax(row)[token] for row, token in zip(rows, tokens[1:], strict=False)], abs=1e-5
    )
    mean = np.mean([row[:8].astype(np.float64) for row in rows], axis=0)
    assert await engine.embed(tokens) == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


async def test_eos_ends_the_answer_unless_ignored(engine: InProcessEngine) -> None:
    bias = {EOS: 100.0}
    ended = await collect(engine, request("a", ignore_eos=False, logit_bias=bias))
    assert (ended.tokens, ended.last.finish_reason, ended.last.completion_tokens) == ([], "stop", 0)
    ignored = await collect(engine, request("b", ignore_eos=True, logit_bias=bias))
    assert ignored.tokens == [EOS] * 8


def test_generate_sync_says_the_same_without_an_event_loop(engine: InProcessEngine) -> None:
    answer = Answer(list(engine.generate_sync(request("a"))))
    assert answer.tokens == continuation((1, 2, 3, 4, 5), request("a").params)[0]


@pytest.mark.parametrize("how", ["abort", "aclose", "cancel", "drop"])
async def test_cancellation_takes_effect_within_one_step(how: str) -> None:
    gate = Gate()
    model = FakeModel(before_step=gate)
    with fake_engine(model=model) as engine:
        stream = engine.generate(request("a", max_tokens=100))
        gate.wait_for_step()
        gate.leave.release()
        await anext(stream)
        gate.wait_for_step()  # the second step is inside the model
        if how == "abort":
            engine.abort("a")
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
        gate.open()
        await collect(engine, request("b", max_tokens=1))
        assert model.calls == 3, "the step in flight, and the one of b"
        assert engine.stats().aborted == 1
        assert engine.stats().blocks_used == 0


async def test_an_id_in_use_is_refused() -> None:
    gate = Gate()
    with fake_engine(model=FakeModel(before_step=gate)) as engine:
        stream = engine.generate(request("a"))
        with pytest.raises(InvalidRequest, match="in use"):
            engine.generate(request("a"))
        gate.open()
        assert len(Answer([delta async for delta in stream]).tokens) == 8


async def test_a_closed_stream_delivers_nothing_more(engine: InProcessEngine) -> None:
    stream = engine.generate(request("a", max_tokens=100))
    await anext(stream)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_cancelled_score_stops_within_one_step() -> None:
    gate = Gate()
    model = FakeModel(before_step=gate)
    with fake_engine(model=model, limits=Limits(prefill_tokens=8, mixed_prefill_tokens=8)) as engine:
        task = asyncio.ensure_future(engine.score([1] * 100))
        await asyncio.to_thread(gate.wait_for_step)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        await collect(engine, request("b", max_tokens=1))
        assert model.calls == 2


async def test_one_callback_a_step_serves_all_requests_of_a_loop(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    calls = 0
    original = loop.call_soon_threadsafe

    def counting(*args, **kwargs):
        nonlocal calls
        calls += threading.current_thread().name == "deepwell-engine"
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    await asyncio.gather(*(collect(engine, request(f"{i}", [i], max_tokens=20)) for i in range(8)))
    assert calls <= engine.stats().steps


async def test_a_failing_model_fails_its_requests_and_the_engine_lives_on() -> None:
    def explode(batch: Batch) -> None:
        if 13 in batch.tokens:
            raise ValueError("unlucky")

    with fake_engine(model=FakeModel(before_step=explode)) as engine:
        good = await collect(engine, request("good"))
        bad = await collect(engine, request("bad", [13]))
        assert bad.last.finish_reason == "error"
        assert "unlucky" in bad.last.error
        with pytest.raises(DeepwellError, match="unlucky"):
            await engine.score([1, 13, 2])
        assert (await collect(engine, request("again"))).tokens == good.tokens
        assert engine.stats().blocks_used == 0


async def test_one_bad_row_fails_one_request() -> None:
    class Broken(FakeModel):
        def forward(self, batch, cache, *, logits=None, **outputs) -> None:
            super().forward(batch, cache, logits=logits, **outputs)
            if logits is not None:
                for output, row in enumerate(batch.output_rows):
                    if batch.tokens[row] == 13:
                        logits[output] = np.nan

    with fake_engine(model=Broken()) as engine:
        bad, good = await asyncio.gather(
            collect(engine, request("bad", [13], temperature=1.0, seed=1)),
            collect(engine, request("good", [12], temperature=1.0, seed=1, logit_bias={13: -100.0})),
        )
        assert bad.last.finish_reason == "error"
        assert good.last.finish_reason == "length"


async def test_a_greedy_row_without_numbers_fails_one_request() -> None:
    class Broken(FakeModel):
        def forward(self, batch, cache, *, argmax=None, **outputs) -> None:
            super().forward(batch, cache, argmax=argmax, **outputs)
            if argmax is not None:  # what the kernels leave there
                argmax[batch.tokens[batch.output_rows] == 13] = np.iinfo(np.int32).max

    with fake_engine(model=Broken()) as engine:
        bad, good = await asyncio.gather(
            collect(engine, request("bad", [13])), collect(engine, request("good", [12]))
        )
        assert bad.last.finish_reason == "error"
        assert bad.tokens == []
        assert good.last.finish_reason == "length"
        assert engine.stats().blocks_used == 0


async def test_any_string_is_a_salt(engine: InProcessEngine) -> None:
    assert len((await collect(engine, request("a", salt="\ud800 \0 \N{SNOWMAN}"))).tokens) == 8


async def test_n_choices_of_one_prompt_compute_it_once(engine: InProcessEngine) -> None:
    prompt = list(range(60))
    await asyncio.gather(
        *(collect(engine, request(f"{i}", prompt, choice=i, temperature=1.0, seed=1)) for i in range(4))
    )
    stats = engine.stats()
    assert stats.prompt_tokens == 60 + 3 * 12
    assert stats.cached_tokens == 3 * 48


async def test_a_loop_that_went_away_does_not_hold_its_requests() -> None:
    gate = Gate()
    with fake_engine(model=FakeModel(before_step=gate)) as engine:

        async def leave() -> object:
            return engine.generate(request("a", max_tokens=100))

        stream = await asyncio.to_thread(asyncio.run, leave())  # kept, so that only its loop has gone
        gate.open()
        await collect(engine, request("b"))
        assert engine.stats().running == 0
        del stream

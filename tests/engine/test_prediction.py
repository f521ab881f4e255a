"""Multi-token prediction: the layer against its paper composed in torch, and drafting by it, which changes no answer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine import sequences
from tests.engine.backends import backend
from tests.engine.echo import echo_checkpoint
from tests.engine.fakes import VOCAB, continuation, logits_after
from tests.engine.test_scheduler import FREE, MAX_LEN, Driver, events, greedy, small_limits

from deepwell.engine.architectures import build_model, build_prediction
from deepwell.engine.backends import native
from deepwell.engine.core.batch import BLOCK_TOKENS, Batch
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.core.prediction import Predictor
from deepwell.engine.core.speculation import Odds, RowCost
from deepwell.engine.core.step import ScheduledStep
from deepwell.engine.limits import Limits
from deepwell.engine.load import new_cache, open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.plan import kv_token_bytes, plan
from deepwell.engine.protocol import EngineStats, GenerateRequest, SamplingParams
from deepwell.engine.row_cost import expected_row_cost
from deepwell.engine.weights.load import load_weights, weights_nbytes
from deepwell.models.formats.config import ModelConfig

NAME = "deepseek-v3-prediction"
MAX_ERROR = {"reference": 1e-4, "native": 1e-3}
SMOLLM2_LIKE = ModelConfig("llama", 1000, 64, 128, 4, 4, 2, 16, 512)


def loaded(engine: str, directory: Path) -> tuple[Any, Any, Any, Any]:
    """The backend, the golden model and its prediction layer in fp32, and their configuration."""
    run = backend(engine)
    checkpoint = sequences.golden_checkpoint(NAME, directory)
    weights, config = load_weights(checkpoint, "fp32"), checkpoint.config
    model = build_model(run, weights, config, 128)
    return run, model, build_prediction(run, weights, config, 128), config


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_states_of_every_row_are_those_the_head_reads(engine: str, tmp_path: Path) -> None:
    run, model, _, config = loaded(engine, tmp_path)
    arrays = sequences.golden(NAME)
    tokens = arrays["tokens"].tolist()
    states = np.empty_like(arrays["states"])
    step = sequences.step(tokens, 0, sequences.table_for(len(tokens)), [len(tokens) - 1])
    model.forward(step, sequences.new_cache(run, config, len(tokens)), states=states)
    assert np.abs(states - arrays["states"]).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("prompt", [None, 17, 0])
@pytest.mark.parametrize("chunk", [39, 7])
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_predictions_are_those_of_the_paper_in_torch(
    engine: str, chunk: int, prompt: int | None, tmp_path: Path
) -> None:
    """Whole and in chunks, expanded and absorbed, and the second token from the layer's own state."""
    run, _, layer, config = loaded(engine, tmp_path)
    arrays = sequences.golden(NAME)
    tokens, states, expected = arrays["tokens"][1:], arrays["states"], arrays["logits"]
    cache = new_cache(run, config, 4, "fp32", num_layers=1)
    table = sequences.table_for(48)
    computed, after = np.empty_like(expected), np.empty((len(tokens), config.hidden_size), np.float32)
    for first in range(0, len(tokens), chunk):
        part = slice(first, min(first + chunk, len(tokens)))
        step = sequences.step(tokens[part].tolist(), first, table, range(part.stop - first), prompt)
        layer.forward(step, cache, logits=computed[part], previous=states[part].copy(), states=after[part])
    assert np.abs(computed - expected).max() < MAX_ERROR[engine]

    first = int(computed[-1].argmax())
    assert first == arrays["first"]
    second = np.empty((1, config.vocab_size), np.float32)
    step = sequences.step([first], len(tokens), table, [0], prompt)
    layer.forward(step, cache, logits=second, previous=after[-1:].copy())
    assert np.abs(second[0] - arrays["second_logits"]).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_every_kernel_table_joins_as_the_reference(scheme: Any, tmp_path: Path) -> None:
    backend("native")
    checkpoint = sequences.golden_checkpoint(NAME, tmp_path)
    weights, config = load_weights(checkpoint, scheme), checkpoint.config
    arrays = sequences.golden(NAME)
    tokens, states = arrays["tokens"][1:], arrays["states"][:-1].copy()
    table, before = sequences.table_for(48), native.isa()

    def logits(run: Any) -> Any:
        layer = build_prediction(run, weights, config, 128)
        assert layer is not None
        out = np.empty_like(arrays["logits"])
        step = sequences.step(tokens.tolist(), 0, table, range(len(tokens)), 20)
        layer.forward(step, new_cache(run, config, 4, "fp32", num_layers=1), logits=out, previous=states)
        return out

    expected = logits(backend("reference"))
    try:
        for table_name in native.available_isas():
            native.set_isa(table_name)
            assert np.abs(logits(native) - expected).max() < 1e-2, table_name
    finally:
        native.set_isa(before)


class Layer:
    """A prediction layer over fake pages: right wherever its pages are, for it says what the fake model would.

    The state of a position names it and its token. A row keeps both that token and the one behind it.
    """

    vocab_size, hidden_size = VOCAB, 2

    def __init__(self, num_blocks: int) -> None:
        self.pages = np.full((num_blocks, BLOCK_TOKENS, 2), -1, np.int32)
        self.num_blocks, self.nbytes = num_blocks, self.pages.nbytes

    def forward(
        self,
        batch: Batch,
        cache: Any,
        *,
        previous: Any,
        argmax: Any = None,
        logits: Any = None,
        hidden: Any = None,
    ) -> None:
        assert cache is self and previous.shape == (len(batch.tokens), 2)
        outputs = batch.output_rows.tolist()
        for s, (start, end) in enumerate(itertools.pairwise(batch.seq_starts.tolist())):
            table = batch.block_tables[s]
            for row in range(start, end):
                position = int(batch.positions[row])
                assert previous[row, 0] == position, "a state meets the token behind its own place"
                self.pages[table[position // BLOCK_TOKENS], position % BLOCK_TOKENS] = (
                    previous[row, 1],
                    batch.tokens[row],
                )
                if row in outputs:
                    seen = self.pages[table].reshape(-1, 2)[: position + 1]
                    text = np.append(seen[:, 0], batch.tokens[row])
                    argmax[outputs.index(row)] = logits_after(text).argmax()
                    if logits is not None:
                        logits[outputs.index(row)] = logits_after(text)
                    if hidden is not None:
                        hidden[outputs.index(row)] = position + 1, batch.tokens[row]


class PredictionDriver(Driver):
    """The scheduler's driver with a prediction layer; counts the guesses that are not what the model says next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layer = Layer(self.num_blocks)
        self.predictor = Predictor(self.layer, self.layer)  # pyright: ignore[reportArgumentType]
        self.right = self.wrong = 0

    def step(self) -> ScheduledStep:
        step = self.scheduler.schedule()
        self.predictor.draft(step)
        for index, count in step.predicted.items():
            sequence = step.sequences[index]
            for length in range(sequence.num_tokens, sequence.num_tokens + count):
                right = sequence.tokens[length] == logits_after(sequence.tokens[:length]).argmax()
                self.right += right
                self.wrong += not right
                if not right:
                    break
        batch = self.builder.build(step)
        states = self.predictor.states(len(batch.tokens))
        states[:, 0], states[:, 1] = batch.positions, batch.tokens
        argmax = np.zeros(len(batch.output_rows), np.int32)
        self.model.forward(batch, self.cache, argmax=argmax)
        tokens = self.drawn(step, argmax)
        self.predictor.observe(step, tokens)
        self.book(step, tokens)
        return step


def under(plan: list[tuple[object, ...]], limits: Limits, num_blocks: int) -> PredictionDriver:
    """A driver behind the events, each answer compared with what the model says alone."""
    driver = PredictionDriver(num_blocks, limits)
    wanted: dict[str, tuple[list[int], int]] = {}
    for event in plan:
        match event:
            case (
                "add",
                list() as prompt,
                int() as max_tokens,
                str() as what,
                str() as tenant,
                int() as priority,
            ):
                name = str(len(driver.sequences))
                kind = "score" if what == "score" else "generate"
                driver.add(name, prompt, greedy(max_tokens), kind=kind, tenant=tenant, priority=priority)
                if kind == "generate":
                    wanted[name] = prompt, max_tokens
            case ("abort", int() as number):
                name = str(number)
                if name in driver.sequences and driver.scheduler.remove(driver.sequences[name]):
                    wanted.pop(name, None)
            case (_, int() as steps):
                for _ in range(steps):
                    if driver.scheduler.has_work:
                        driver.step()
            case _:
                raise AssertionError(event)
    driver.run()
    for name, (prompt, count) in wanted.items():
        assert driver.said(name) == continuation(prompt, greedy(count))[0]
    return driver


@given(events, small_limits, st.integers(MAX_LEN // BLOCK_TOKENS, 12), st.integers(1, 4))
def test_answers_are_those_of_the_model_and_predictions_read_the_right_rows(
    plan: list[tuple[object, ...]], limits: Limits, num_blocks: int, depth: int
) -> None:
    """Whatever is chunked, preempted, aborted: no row is lost and none is stale, so every prediction is right."""
    limits = replace(limits, prefix_cache=False, predict_depth=depth, row_cost=FREE)
    driver = under(plan, limits, num_blocks)
    assert driver.wrong == 0
    assert driver.scheduler.predicted_tokens >= driver.right


@given(events, small_limits, st.integers(MAX_LEN // BLOCK_TOKENS, 12))
def test_a_shared_page_may_cost_a_prediction_and_never_an_answer(
    plan: list[tuple[object, ...]], limits: Limits, num_blocks: int
) -> None:
    under(plan, replace(limits, predict_depth=3, row_cost=FREE), num_blocks)


def test_one_sequence_takes_a_step_for_every_four_tokens() -> None:
    driver = PredictionDriver(8, Limits(predict_depth=3, row_cost=FREE))
    driver.add("a", list(range(20)), greedy(41, ignore_eos=True))
    steps = 0
    while driver.scheduler.has_work:
        driver.step()
        steps += 1
    assert driver.said("a") == continuation(list(range(20)), greedy(41, ignore_eos=True))[0]
    assert steps == 11, "the prompt, and ten steps of four"
    assert driver.scheduler.accepted_predictions == driver.scheduler.predicted_tokens == 30


def test_odds_follow_success_and_failure() -> None:
    odds = Odds()
    first = odds.chances(4)
    assert first == sorted(first, reverse=True) and all(0 < chance < 1 for chance in first)
    for _ in range(10):
        odds.learn([1, 2, 3], [1, 2, 3, 4])
    assert odds.chances(3)[2] > first[0]
    for _ in range(30):
        odds.learn([1, 2, 3], [5])
    assert odds.chances(1)[0] < 0.1
    learned = odds.chances(3)
    odds.learn([], [5])
    assert odds.chances(3) == learned


def test_probes_become_rare_until_one_succeeds() -> None:
    odds = Odds()
    probes: list[int] = []
    for step in range(400):
        if odds.probe():
            probes.append(step)
            odds.learn([1], [2])
    waits = np.diff(probes)
    assert (np.diff(waits) >= 0).all() and waits[-1] == 128
    odds.learn([1], [1])
    assert odds.probe(), "the next step shows whether it was chance"
    odds.drafted()
    assert [odds.probe() for _ in range(8)] == [False] * 7 + [True]


def answers(
    checkpoint: Any, engine: Any, limits: Limits | None = None, **options: Any
) -> tuple[Any, EngineStats]:
    """Two greedy answers and a drawn one, in company, and what the engine counted."""
    backend(engine)
    opened = open_engine(
        checkpoint,
        EngineOptions(context=128, kv_tokens=640, limits=limits, backend=engine, **options),
        quiet=True,
    )  # pyright: ignore[reportArgumentType]
    assert isinstance(opened, InProcessEngine)
    with opened:
        streams = [
            opened.generate_sync(
                GenerateRequest(
                    str(number),
                    list(range(5 + number, 40)),
                    SamplingParams(
                        max_tokens=60, temperature=temperature, seed=1, logprobs=1, ignore_eos=True
                    ),
                )
            )
            for number, temperature in enumerate((0.0, 0.0, 0.8))
        ]
        said = [
            [(entry.token, entry.logprob) for delta in stream for entry in delta.logprobs]
            for stream in streams
        ]
        return said, opened.stats()


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("noise", [0.0, 1.5], ids=["right", "often wrong"])
def test_speculation_off_gives_the_same_bits(noise: float, kv_dtype: Any, tmp_path: Path) -> None:
    checkpoint = echo_checkpoint(tmp_path, noise=noise)
    expected, off = answers(checkpoint, "native", kv_dtype=kv_dtype, speculation="off")
    computed, on = answers(checkpoint, "native", Limits(row_cost=FREE), kv_dtype=kv_dtype)
    assert computed == expected
    assert off.predicted_tokens == off.drafted_tokens == 0
    assert 0 < on.accepted_predictions <= on.predicted_tokens <= on.drafted_tokens
    if noise:
        assert on.accepted_predictions < on.predicted_tokens
    else:
        assert on.accepted_predictions > 0.8 * on.predicted_tokens and on.steps < off.steps / 2


def test_the_reference_backend_drafts_too(tmp_path: Path) -> None:
    checkpoint = echo_checkpoint(tmp_path)
    expected, _ = answers(checkpoint, "reference", speculation="off")
    computed, on = answers(checkpoint, "reference", Limits(row_cost=FREE))
    assert [[token for token, _ in one] for one in computed] == [
        [token for token, _ in one] for one in expected
    ]
    assert on.accepted_predictions > 50


def test_a_layer_that_is_never_right_is_soon_left_alone(tmp_path: Path) -> None:
    _, stats = answers(sequences.golden_checkpoint(NAME, tmp_path), "native", Limits(max_sequences=1))
    assert stats.predicted_tokens < 15, "of 180 tokens"


def test_speculation_off_takes_no_pages_for_it(tmp_path: Path) -> None:
    config = sequences.golden_checkpoint(NAME, tmp_path).config
    assert config.prediction_layer == 2
    with_layer = kv_token_bytes(config, "bf16", predicts=True)
    assert with_layer == kv_token_bytes(config, "bf16") * 3 // 2
    on, off = (
        plan(config, "int8", kv_tokens=640, available_bytes=8 << 30, predicts=p) for p in (True, False)
    )
    assert on.kv_cache_bytes == 640 * with_layer and off.kv_cache_bytes == on.kv_cache_bytes * 2 // 3
    assert on.workspace_bytes > off.workspace_bytes
    without = replace(config, num_nextn_predict_layers=0)
    assert weights_nbytes(without, "int8") < weights_nbytes(config, "int8")
    assert plan(without, "int8", available_bytes=8 << 30).workspace_bytes == off.workspace_bytes


def test_a_second_row_of_a_mixture_costs_its_experts() -> None:
    dense = expected_row_cost(SMOLLM2_LIKE)
    assert dense == RowCost()
    mixture = replace(SMOLLM2_LIKE, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64)
    cost = expected_row_cost(mixture)
    assert dense.second < cost.second < 1 and cost.predict == 0
    finer = expected_row_cost(replace(mixture, num_experts=64))
    assert finer.second > cost.second, "fewer of them are shared"


def test_drawn_tokens_are_predicted_as_greedy_ones_are(tmp_path: Path) -> None:
    """The layer's draw takes the sampler's own random number. Its likeliest token would be right in one of eight here."""
    checkpoint = echo_checkpoint(tmp_path)
    params = SamplingParams(max_tokens=80, temperature=6.0, seed=4, ignore_eos=True)

    def said(**options: Any) -> tuple[list[int], EngineStats]:
        backend("native")
        engine = open_engine(
            checkpoint, EngineOptions(context=128, kv_tokens=640, backend="native", **options), quiet=True
        )
        assert isinstance(engine, InProcessEngine)
        with engine:
            deltas = engine.generate_sync(GenerateRequest("a", list(range(5, 40)), params))
            return [token for delta in deltas for token in delta.tokens], engine.stats()

    expected, _ = said(speculation="off")
    computed, stats = said(limits=Limits(row_cost=FREE, draft_depth=1))
    assert computed == expected
    assert len(set(expected)) > 20
    assert stats.accepted_predictions > 0.3 * stats.predicted_tokens > 10

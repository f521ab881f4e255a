"""Windows: a sequence of any length in a constant number of blocks, with the same results however it is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.fakes import (
    EOS,
    VOCAB,
    FakeModel,
    continuation,
    fake_engine,
    log_softmax,
    logits_after,
    visible,
)
from tests.engine.test_roles import RoleModel
from tests.engine.test_scheduler import FREE, MAX_LEN, Driver, Masks, greedy, prompt_tokens, small_limits

from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.sequence import Kind
from deepwell.engine.limits import Limits
from deepwell.engine.protocol import GenerateRequest, SamplingParams, Window
from deepwell.errors import ContextLengthExceeded, InvalidRequest

WINDOWS = (
    Window(0, 16),
    Window(0, 48),
    Window(16, 32),
    Window(16, 48),
    Window(32, 64),
    Window(16, 48, rank=16),
    Window(0, 32, rank=16, remembered=40),
)
windows = st.sampled_from([None, *WINDOWS])
events = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.tuples(prompt_tokens, st.integers(0, 2)),
            st.integers(0, 130),
            st.sampled_from(["generate", "rows", "score"]),
            st.integers(-1, 1),
            windows,
        ),
        st.tuples(st.just("abort"), st.integers(0, 20)),
        st.tuples(st.just("step"), st.integers(1, 20)),
    ),
    min_size=5,
    max_size=25,
)


@given(windows.filter(bool), st.integers(0, 400))
def test_a_window_holds_its_sinks_and_the_most_recent_tokens(window: Window, position: int) -> None:
    gone = window.forgotten(position)
    assert gone % window.stride == 0
    assert 0 <= position - gone < window.tokens
    assert (gone == 0) == (position < window.tokens)
    assert gone == 0 or position - gone >= window.tokens - window.stride, "no more is forgotten than needed"


def said_with_roles(
    prompt: list[int], params: SamplingParams, window: Window | None
) -> tuple[list[int], str]:
    """Tokens that `RoleModel` draws: it tells a generated token from one of the prompt."""
    tokens, said = list(prompt), list[int]()
    while len(said) < params.max_tokens:
        token = int(logits_after(np.array(visible(tokens, window), np.int32)).argmax())
        if token == EOS:
            return said, "stop"
        said.append(token)
        tokens.append(token + VOCAB)
    return said, "length"


@given(events, small_limits, st.integers(MAX_LEN // BLOCK_TOKENS, 12), st.booleans())
def test_output_equals_the_oracle_under_any_schedule(
    plan: list[tuple[object, ...]], limits: Limits, num_blocks: int, roles: bool
) -> None:
    """Chunks, mates, prefix hits, preemption, aborts and drafts: none changes what a window says."""
    driver = Driver(num_blocks, limits)
    if roles:
        driver = Driver(num_blocks, replace(limits, share_generated=False), RoleModel())
    wanted: dict[str, tuple[list[int], SamplingParams, Window | None]] = {}
    for event in plan:
        match event:
            case (
                "add",
                (list() as prompt, int() as times),
                int() as most,
                str() as what,
                int() as rank,
                window,
            ):
                assert window is None or isinstance(window, Window)
                name, text = str(len(driver.sequences)), prompt * times if window and times else prompt
                most = most if window else min(most, MAX_LEN - len(text))
                params = greedy(most, prompt_logprobs=1 if what == "rows" else None)
                kind: Kind = "score" if what == "score" else "generate"
                driver.add(name, text, params, kind=kind, priority=rank, window=window)
                wanted[name] = text, params, window
            case ("abort", int() as index):
                name = str(index)
                if name in driver.sequences and driver.scheduler.remove(driver.sequences[name]):
                    del wanted[name]
                    driver.scheduler.check_integrity()
            case (_, int() as steps):
                for _ in range(steps):
                    if driver.scheduler.has_work:
                        driver.step()
            case _:
                raise AssertionError(event)
    driver.run()
    for name, (prompt, params, window) in wanted.items():
        sequence = driver.sequences[name]
        if sequence.kind == "generate":
            expected = said_with_roles if roles else continuation
            assert (driver.said(name), driver.ended[name]) == expected(prompt, params, window=window)
        if window:
            assert sequence.forgotten in map(window.forgotten, (sequence.computed - 1, sequence.computed))
    assert driver.pool.used == 0


@given(st.integers(0, 2**32), st.sampled_from(WINDOWS), st.integers(7, 12), st.booleans())
def test_rows_without_a_mask_do_not_slide_twice(seed: int, window: Window, blocks: int, drafts: bool) -> None:
    chance = np.random.default_rng(seed)
    driver = Driver(blocks, Limits(max_sequences=3, row_cost=FREE, draft_depth=4 if drafts else 0))
    masks: dict[str, Masks] = {}
    for number in range(3):
        masks[f"{number}"] = Masks()
        driver.add(f"{number}", [number, 1], greedy(90), grammar=masks[f"{number}"], window=window)
    while driver.scheduler.has_work:
        for one in masks.values():
            one.slow = chance.random() < 0.3
            one.ready = not one.slow or chance.random() < 0.6
        step = driver.scheduler.schedule()
        assert step.sequences or not step.moves, "a move is not lost with a step that is not run"
        if not step.sequences:
            continue
        for move in step.moves:
            driver.move(move)
        batch = driver.builder.build(step)
        argmax = np.zeros(len(batch.output_rows), np.int32)
        driver.model.forward(batch, driver.cache, argmax=argmax)
        drawn = driver.drawn(step, argmax)
        for index, sequence in enumerate(step.sequences):
            if sequence.num_generated and chance.random() < 0.3:
                drawn[index] = []
        driver.book(step, drawn)
    for number in range(3):
        assert driver.said(f"{number}") == continuation([number, 1], greedy(90), window=window)[0]


@pytest.mark.parametrize("window", WINDOWS)
def test_an_endless_sequence_holds_as_many_blocks_as_its_window(window: Window) -> None:
    driver = Driver(window.tokens // BLOCK_TOKENS + 2, Limits(draft_depth=0))
    driver.add("endless", [1, 2, 3], greedy(1000, ignore_eos=True), window=window)
    most: list[int] = []
    while driver.scheduler.has_work:
        driver.step()
        most.append(driver.pool.used)
    held = window.tokens // BLOCK_TOKENS
    assert max(most) == held and set(most[window.tokens : -1]) == {held}
    assert driver.scheduler.preemptions == 0
    assert len(driver.sequences["endless"].table) == held
    assert driver.said("endless") == continuation([1, 2, 3], greedy(1000, ignore_eos=True), window=window)[0]


def test_the_fixed_head_comes_from_the_cache_and_goes_to_it() -> None:
    """Blocks before the first slide are shared with requests with and without a window, those behind it with nobody."""
    window, prompt = Window(16, 64), [number % 50 for number in range(200)]
    driver = Driver(num_blocks=24)
    driver.add("plain", prompt[:80], greedy(1))
    driver.run()
    driver.add("first", prompt, greedy(20), window=window)
    driver.step()
    assert driver.sequences["first"].cached_tokens == 64, "all but the block that is followed by a slide"
    driver.run()
    cached = driver.pool.cached
    driver.add("again", prompt, greedy(20), window=window)
    driver.run()
    assert driver.sequences["again"].cached_tokens == 64
    assert driver.pool.cached == cached, "no block behind the first slide is offered to anybody"
    assert driver.said("again") == driver.said("first")
    driver.add("other", prompt[:90], greedy(1))
    driver.run()
    assert driver.sequences["other"].cached_tokens == 80, "the copies left the shared blocks as they were"


def test_sequences_that_share_a_head_slide_apart() -> None:
    window, prompt = Window(16, 64), [number % 50 for number in range(78)]
    driver = Driver(num_blocks=16)
    for name in "abc":
        driver.add(name, [*prompt, ord(name) - 97], greedy(80, ignore_eos=True), window=window)
    driver.run()
    for name in "abc":
        text = [*prompt, ord(name) - 97]
        assert driver.said(name) == continuation(text, greedy(80, ignore_eos=True), window=window)[0]
    assert driver.scheduler.cached_tokens > 0


def test_a_full_pool_gives_up_cached_blocks_before_it_preempts() -> None:
    window = Window(16, 64)
    driver = Driver(num_blocks=5)
    driver.add("alone", list(range(70)), greedy(60, ignore_eos=True), window=window)
    driver.run()
    assert driver.scheduler.preemptions == 0
    assert (
        driver.said("alone") == continuation(list(range(70)), greedy(60, ignore_eos=True), window=window)[0]
    )


def test_a_preempted_sequence_slides_again_where_it_slid() -> None:
    window = Window(16, 32)
    driver = Driver(num_blocks=5, limits=Limits(draft_depth=0))
    for name, token in (("old", 1), ("young", 2)):
        driver.add(name, [token] * 20, greedy(150, ignore_eos=True), window=window)
    driver.run()
    assert driver.sequences["young"].preemptions > 0
    for name, token in (("old", 1), ("young", 2)):
        expected = continuation([token] * 20, greedy(150, ignore_eos=True), window=window)[0]
        assert driver.said(name) == expected
        assert driver.sequences[name].forgotten == window.forgotten(20 + 150 - 2)


def test_drafts_do_not_cross_a_slide() -> None:
    window = Window(16, 32)
    driver = Driver(num_blocks=8, limits=Limits(row_cost=FREE, draft_depth=8), guesses=3)
    driver.add("a", [1] * 20, greedy(200, ignore_eos=True), window=window)
    while driver.scheduler.has_work:
        step = driver.step()
        for sequence in step.sequences:
            assert sequence.computed <= sequence.slides_at
    assert driver.scheduler.accepted_tokens > 0
    assert driver.said("a") == continuation([1] * 20, greedy(200, ignore_eos=True), window=window)[0]


async def test_scores_are_those_of_the_model_over_what_it_sees() -> None:
    window, tokens = Window(16, 48), [(3 * i) % 16 for i in range(300)]
    expected = [
        log_softmax(logits_after(np.array(visible(tokens[:end], window), np.int32)))[tokens[end]]
        for end in range(1, len(tokens))
    ]
    with fake_engine(num_blocks=8, max_model_len=64) as engine:
        assert await engine.score(tokens, window=window) == pytest.approx(expected, abs=1e-5)
        behind = await engine.score(tokens, start=120, window=window)
        assert behind == pytest.approx(expected[119:], abs=1e-5)
        assert engine.stats().forgotten_tokens == 2 * window.forgotten(len(tokens) - 1)
        assert engine.stats().blocks_used == 0


def test_a_failed_step_leaves_the_others_their_windows() -> None:
    class Failing(FakeModel):
        def shift_blocks(self, *_: object) -> None:
            raise ValueError("no such block")

    with fake_engine(num_blocks=8, max_model_len=64, model=Failing()) as engine:
        asked = GenerateRequest("a", [1, 2, 3], greedy(100, ignore_eos=True), window=Window(0, 32))
        *_, last = engine.generate_sync(asked)
        assert last.finish_reason == "error" and "no such block" in last.error
        plain = replace(asked, request_id="b", params=greedy(5), window=None)
        assert [t for delta in engine.generate_sync(plain) for t in delta.tokens] == continuation(
            [1, 2, 3], greedy(5)
        )[0]


@pytest.mark.parametrize(
    ("window", "error", "fix"),
    [
        (Window(8, 32), InvalidRequest, "multiples of 16"),
        (Window(0, 40), InvalidRequest, "multiples of 16"),
        (Window(-16, 64), InvalidRequest, "multiples of 16"),
        (Window(32, 0), InvalidRequest, "at least 16"),
        (Window(32, 256), ContextLengthExceeded, "at most 256"),
    ],
)
async def test_windows_that_cannot_be_held_are_refused(
    window: Window, error: type[InvalidRequest], fix: str
) -> None:
    with fake_engine() as engine:
        for call in (
            lambda: engine.generate_sync(GenerateRequest("a", [1], window=window)),
            lambda: engine.generate_sync(GenerateRequest("b", [1] * 1000, window=window)),
        ):
            with pytest.raises(error) as caught:
                call()
            assert fix in caught.value.fix and caught.value.param == "window"
        with pytest.raises(error):
            await engine.score([1, 2], window=window)


def test_a_sequence_has_at_most_as_many_tokens_as_its_ids_may_take_memory() -> None:
    with fake_engine() as engine, pytest.raises(ContextLengthExceeded, match="at most 67108864"):
        engine.generate_sync(
            GenerateRequest("a", [1], SamplingParams(max_tokens=1 << 26), window=Window(16, 32))
        )

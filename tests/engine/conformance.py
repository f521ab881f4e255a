"""What every `Engine` must do, whatever it runs: subclass `EngineConformance` and provide the fixture `engine`.

The suite knows nothing of the model but its capabilities; it wants a vocabulary of at least 32 tokens and a
context of at least 128. What an engine says it lacks (`Capabilities.lacks`) has to be refused instead, or holds in the
weaker form that the test states; nothing is skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from deepwell.engine.protocol import (
    Ability,
    Delta,
    Engine,
    GenerateRequest,
    SamplingParams,
    TokenLogprob,
    Window,
)
from deepwell.errors import ContextLengthExceeded, InvalidRequest

__all__ = ["Answer", "EngineConformance", "collect", "request"]

PROMPT = (1, 2, 3, 4, 5)
WINDOW = Window(16, 64)


@dataclass
class Answer:
    """All deltas of one request, put together."""

    deltas: list[Delta]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        for delta in self.deltas:
            self.tokens += delta.tokens
            self.logprobs += delta.logprobs

    @property
    def last(self) -> Delta:
        return self.deltas[-1]


def request(
    name: str,
    prompt: Sequence[int] = PROMPT,
    *,
    choice: int = 0,
    salt: str = "",
    window: Window | None = None,
    **params: object,
):
    """A request, greedy and without an end unless `params` say otherwise."""
    options: dict[str, object] = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, **params}
    sampling = SamplingParams(**options)  # pyright: ignore[reportArgumentType]
    return GenerateRequest(name, tuple(prompt), sampling, choice, salt, window=window)


async def collect(engine: Engine, asked: GenerateRequest) -> Answer:
    return Answer([delta async for delta in engine.generate(asked)])


def has(engine: Engine, ability: Ability) -> bool:
    return ability not in engine.capabilities().lacks


def assert_same(
    engine: Engine, found: Sequence[TokenLogprob | None], expected: Sequence[TokenLogprob | None]
) -> None:
    """Equal to the last bit, where the engine promises it, else within what other roundings make."""
    if has(engine, "bits"):
        assert found == expected, "bitwise"
        return
    assert [one and one.token for one in found] == [one and one.token for one in expected]
    assert [one.logprob for one in found if one] == pytest.approx(
        [one.logprob for one in expected if one], abs=1e-3
    )


def assert_same_scores(engine: Engine, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    if has(engine, "bits"):
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-3)


async def assert_no_windows(engine: Engine) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await collect(engine, request("a", window=WINDOW))
    assert caught.value.param == "window" and caught.value.fix
    with pytest.raises(InvalidRequest):
        await engine.score(PROMPT, window=WINDOW)


async def assert_no_embeddings(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="embed") as caught:
        await engine.embed(PROMPT)
    assert caught.value.fix


class EngineConformance:
    """The contract, one behaviour a test."""

    async def test_a_stream_ends_once_with_reason_and_counts(self, engine: Engine) -> None:
        answer = await collect(engine, request("a"))
        assert [d.finish_reason for d in answer.deltas[:-1]] == [None] * (len(answer.deltas) - 1)
        assert all(d.request_id == "a" for d in answer.deltas)
        assert answer.last.finish_reason == "length"
        assert answer.last.prompt_tokens == len(PROMPT)
        assert answer.last.completion_tokens == len(answer.tokens) == 8

    async def test_greedy_answers_do_not_depend_on_company(self, engine: Engine) -> None:
        prompts = [[i, i + 1] * n for i, n in ((1, 1), (2, 9), (3, 30), (1, 17), (2, 9))]
        alone = [(await collect(engine, request(f"alone {i}", p))).tokens for i, p in enumerate(prompts)]
        together = await asyncio.gather(
            *(collect(engine, request(f"together {i}", p)) for i, p in enumerate(prompts))
        )
        assert [answer.tokens for answer in together] == alone

    async def test_the_same_seed_gives_the_same_answer_in_any_company(self, engine: Engine) -> None:
        def asked(name: str, **params: object) -> GenerateRequest:
            return request(name, temperature=1.0, seed=11, max_tokens=16, logprobs=2, **params)

        alone = await collect(engine, asked("alone"))
        noise = [request(f"noise {i}", [i] * 20, temperature=1.0, seed=i, max_tokens=9) for i in range(1, 5)]
        again, *_ = await asyncio.gather(
            collect(engine, asked("again")), *(collect(engine, other) for other in noise)
        )
        assert again.tokens == alone.tokens
        assert_same(engine, again.logprobs, alone.logprobs)

    async def test_choices_of_one_seed_differ_and_are_reproducible(self, engine: Engine) -> None:
        async def choices(name: str) -> list[list[int]]:
            answers = await asyncio.gather(
                *(
                    collect(engine, request(f"{name}-{i}", choice=i, temperature=1.0, seed=3, max_tokens=24))
                    for i in range(4)
                )
            )
            return [answer.tokens for answer in answers]

        first = await choices("first")
        assert len({tuple(tokens) for tokens in first}) == 4
        assert await choices("second") == first

    async def test_no_seed_means_another_answer_each_time(self, engine: Engine) -> None:
        answers = [await collect(engine, request(f"{i}", temperature=1.5, max_tokens=40)) for i in range(3)]
        assert len({tuple(answer.tokens) for answer in answers}) > 1

    async def test_a_cached_prefix_changes_counts_and_nothing_else(self, engine: Engine) -> None:
        prompt = [1, 2, 3, 4] * 13
        cold = await collect(engine, request("cold", prompt, salt="prefix", logprobs=1))
        warm = await collect(engine, request("warm", prompt, salt="prefix", logprobs=1))
        other = await collect(engine, request("other", prompt, salt="another", logprobs=1))
        if has(engine, "prefixes"):
            assert (cold.last.cached_tokens, other.last.cached_tokens) == (0, 0)
            assert 0 < warm.last.cached_tokens < len(prompt)
        assert warm.tokens == cold.tokens == other.tokens
        assert_same(engine, warm.logprobs, cold.logprobs)
        assert_same(engine, other.logprobs, cold.logprobs)

    async def test_a_stop_token_ends_the_answer_and_is_not_delivered(self, engine: Engine) -> None:
        free = (await collect(engine, request("free", max_tokens=12))).tokens
        stop = free[5]
        answer = await collect(engine, request("stopped", max_tokens=12, stop_token_ids=(stop,)))
        assert answer.tokens == free[: free.index(stop)]
        assert answer.last.finish_reason == "stop"
        assert answer.last.completion_tokens == len(answer.tokens)

    async def test_min_tokens_puts_the_stop_off(self, engine: Engine) -> None:
        free = (await collect(engine, request("free", max_tokens=12))).tokens
        answer = await collect(
            engine, request("later", max_tokens=12, min_tokens=7, stop_token_ids=(free[2],))
        )
        assert len(answer.tokens) >= 7
        assert free[2] not in answer.tokens[:7]

    async def test_no_tokens_asked_computes_the_prompt_alone(self, engine: Engine) -> None:
        answer = await collect(engine, request("a", max_tokens=0, prompt_logprobs=1))
        assert answer.tokens == []
        assert answer.last.finish_reason == "length"
        assert len(answer.last.prompt_logprobs or ()) == len(PROMPT)

    async def test_logprobs_describe_the_drawn_tokens(self, engine: Engine) -> None:
        answer = await collect(engine, request("a", logprobs=3))
        assert [entry.token for entry in answer.logprobs] == answer.tokens
        for entry in answer.logprobs:
            assert entry.rank == 1, "greedy"
            assert len(entry.top) == 3
            assert entry.top[0] == (entry.token, entry.logprob)
            assert [p for _, p in entry.top] == sorted((p for _, p in entry.top), reverse=True)
            assert entry.logprob <= 0

    async def test_prompt_logprobs_come_once_and_agree_with_score(self, engine: Engine) -> None:
        prompt = [(7 * i) % 16 for i in range(90)]
        answer = await collect(engine, request("a", prompt, prompt_logprobs=0))
        assert [d.prompt_logprobs is not None for d in answer.deltas] == [True] + [False] * (
            len(answer.deltas) - 1
        )
        entries = answer.deltas[0].prompt_logprobs or ()
        assert entries[0] is None
        known = [entry for entry in entries if entry is not None]
        assert [entry.token for entry in known] == prompt[1:]
        scores = await engine.score(prompt)
        assert scores.dtype == np.float32
        assert scores == pytest.approx([entry.logprob for entry in known], abs=1e-4)

    async def test_prompt_logprobs_start_where_they_are_asked_for(self, engine: Engine) -> None:
        prompt = [(7 * i) % 16 for i in range(100)]
        whole = await collect(engine, request("whole", prompt, salt="start", prompt_logprobs=1))
        expected = whole.deltas[0].prompt_logprobs or ()
        for start in (1, 2, 64, 65, 99, 100):
            asked = request(
                f"{start}", prompt, salt="start", prompt_logprobs=1, prompt_logprobs_start=start, logprobs=1
            )
            answer, _ = await asyncio.gather(collect(engine, asked), collect(engine, request("mate")))
            found = answer.deltas[0].prompt_logprobs or ()
            assert_same(engine, found, (*[None] * start, *expected[start:]))
            assert answer.tokens == whole.tokens
            if has(engine, "counters"):
                assert answer.last.cached_tokens == (start - 1) // 16 * 16
        for start in (0, 101):
            with pytest.raises(InvalidRequest) as caught:
                await collect(engine, request("a", prompt, prompt_logprobs_start=start))
            assert caught.value.param == "prompt_logprobs_start"

    async def test_scores_do_not_depend_on_company(self, engine: Engine) -> None:
        prompt = [(5 * i) % 16 for i in range(100)]
        alone = await engine.score(prompt)
        together, *_ = await asyncio.gather(
            engine.score(prompt),
            collect(engine, request("a", [3] * 40)),
            *([engine.embed(prompt[:50])] if has(engine, "embed") else []),
        )
        assert_same_scores(engine, together, alone)

    async def test_scores_behind_a_cached_prompt_are_those_of_the_whole(self, engine: Engine) -> None:
        prompt = [1 + number * 7 % 90 for number in range(75)]
        whole = await engine.score(prompt)
        for start in (1, 15, 16, 17, 40, 64, 74, 75):
            assert_same_scores(engine, await engine.score(prompt, start=start), whole[start - 1 :])
        endings = [[*prompt, ending, 5] for ending in range(1, 9)]
        alone = [(await engine.score(tokens))[len(prompt) - 1 :] for tokens in endings]
        together = await asyncio.gather(*(engine.score(tokens, start=len(prompt)) for tokens in endings))
        for found, expected in zip(together, alone, strict=True):
            assert_same_scores(engine, found, expected)

    async def test_scores_start_behind_the_first_token(self, engine: Engine) -> None:
        for start in (0, -1, 4):
            with pytest.raises(InvalidRequest, match="cannot start at token"):
                await engine.score([1, 2, 3], start=start)

    async def test_the_score_of_one_token_is_empty(self, engine: Engine) -> None:
        assert (await engine.score([1])).shape == (0,)

    async def test_embeddings_are_unit_vectors_independent_of_company(self, engine: Engine) -> None:
        if not has(engine, "embed"):
            await assert_no_embeddings(engine)
            return
        prompts = [[1, 2, 3], [(3 * i) % 16 for i in range(110)], [4]]
        alone = [await engine.embed(prompt) for prompt in prompts]
        together = await asyncio.gather(*(engine.embed(prompt) for prompt in prompts))
        for a, b in zip(alone, together, strict=True):
            assert a.shape == (engine.capabilities().hidden_size,)
            assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
            assert a.tobytes() == b.tobytes()

    async def test_abort_ends_the_stream(self, engine: Engine) -> None:
        stream = engine.generate(request("a", max_tokens=100))
        deltas = [await anext(stream)]
        engine.abort("a")
        answer = Answer([*deltas, *[delta async for delta in stream]])
        assert answer.last.finish_reason == ("abort" if len(answer.tokens) < 100 else "length")

    async def test_abort_of_an_unknown_id_is_ignored(self, engine: Engine) -> None:
        engine.abort("nobody")
        assert len((await collect(engine, request("a"))).tokens) == 8

    async def test_an_id_is_free_again_after_its_request(self, engine: Engine) -> None:
        first = await collect(engine, request("a"))
        assert (await collect(engine, request("a"))).tokens == first.tokens

    async def test_too_long_a_request_is_refused_with_numbers_and_fix(self, engine: Engine) -> None:
        limit = engine.capabilities().max_model_len
        with pytest.raises(ContextLengthExceeded) as caught:
            await collect(engine, request("a", [1] * (limit - 2), max_tokens=3))
        assert str(limit) in caught.value.message
        assert "max_tokens <= 2" in caught.value.fix
        with pytest.raises(ContextLengthExceeded):
            await engine.score([1] * (limit + 1))
        if has(engine, "embed"):
            with pytest.raises(ContextLengthExceeded):
                await engine.embed([1] * (limit + 1))

    @pytest.mark.parametrize("prompt", [[], [-1], [1, 10**6], [2**40]])
    async def test_bad_prompts_are_refused(self, engine: Engine, prompt: list[int]) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await collect(engine, request("a", prompt))
        assert caught.value.fix
        with pytest.raises(InvalidRequest):
            await engine.score(prompt)
        with pytest.raises(InvalidRequest):
            await engine.embed(prompt)

    async def test_parameters_out_of_range_are_refused(self, engine: Engine) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await collect(engine, request("a", top_p=2.0))
        assert caught.value.param == "top_p"

    async def test_a_window_holds_more_than_the_context(self, engine: Engine) -> None:
        if not has(engine, "window"):
            await assert_no_windows(engine)
            return
        prompt = [1 + 7 * i % 30 for i in range(engine.capabilities().max_model_len + 40)]
        alone = await collect(engine, request("alone", prompt, window=WINDOW, max_tokens=100, logprobs=1))
        assert alone.last.finish_reason == "length" and len(alone.tokens) == 100
        assert alone.last.forgotten_tokens == WINDOW.forgotten(len(prompt) + 98)
        assert alone.deltas[0].forgotten_tokens == WINDOW.forgotten(len(prompt) - 1)
        mates = [request(f"mate {i}", [i] * 50, window=WINDOW, max_tokens=60) for i in range(1, 4)]
        again, plain, *_ = await asyncio.gather(
            collect(engine, request("again", prompt, window=WINDOW, max_tokens=100, logprobs=1)),
            collect(engine, request("plain", prompt[:90], max_tokens=20)),
            *(collect(engine, mate) for mate in mates),
        )
        assert (again.tokens, again.logprobs) == (alone.tokens, alone.logprobs), "bitwise"
        assert plain.last.forgotten_tokens == 0
        assert engine.stats().forgotten_tokens >= 2 * alone.last.forgotten_tokens

    async def test_a_window_that_is_not_full_changes_nothing(self, engine: Engine) -> None:
        if not has(engine, "window"):
            await assert_no_windows(engine)
            return
        prompt = [2 + i % 5 for i in range(WINDOW.tokens - 20)]
        plain = await collect(engine, request("plain", prompt, max_tokens=20, logprobs=2))
        windowed = await collect(
            engine, request("windowed", prompt, max_tokens=20, logprobs=2, window=WINDOW)
        )
        assert (windowed.tokens, windowed.logprobs) == (plain.tokens, plain.logprobs)
        assert windowed.last.forgotten_tokens == 0
        scores = await engine.score(prompt, window=WINDOW)
        np.testing.assert_array_equal(scores, await engine.score(prompt))

    async def test_scores_of_a_window_are_those_of_its_prompt_logprobs(self, engine: Engine) -> None:
        if not has(engine, "window"):
            await assert_no_windows(engine)
            return
        prompt = [(11 * i) % 16 for i in range(engine.capabilities().max_model_len + 70)]
        alone = await engine.score(prompt, window=WINDOW)
        together, answer, behind = await asyncio.gather(
            engine.score(prompt, window=WINDOW),
            collect(engine, request("a", prompt, window=WINDOW, prompt_logprobs=0)),
            engine.score(prompt, start=100, window=WINDOW),
        )
        np.testing.assert_array_equal(together, alone)
        np.testing.assert_array_equal(behind, alone[99:])
        entries = answer.deltas[0].prompt_logprobs or ()
        assert alone == pytest.approx([one.logprob for one in entries if one is not None], abs=1e-4)

    async def test_windows_that_cannot_be_held_are_refused(self, engine: Engine) -> None:
        if not has(engine, "window"):
            await assert_no_windows(engine)
            return
        limit = engine.capabilities().max_model_len
        for window, error in (
            (Window(8, 32), InvalidRequest),
            (Window(16, 16 + limit // 16 * 16), ContextLengthExceeded),
        ):
            with pytest.raises(error) as caught:
                await collect(engine, request("a", window=window))
            assert caught.value.param == "window" and caught.value.fix
            with pytest.raises(error):
                await engine.score(PROMPT, window=window)

    async def test_stats_count_the_work_and_leave_nothing_behind(self, engine: Engine) -> None:
        before = engine.stats()
        await asyncio.gather(*(collect(engine, request(f"{i}", [i] * 20, salt="stats")) for i in range(1, 4)))
        after = engine.stats()
        assert after.generated_tokens - before.generated_tokens == 24
        assert after.prompt_tokens - before.prompt_tokens == 60
        assert after.steps > before.steps
        assert (after.running, after.waiting, after.blocks_used) == (0, 0, 0)
        if has(engine, "counters"):
            assert after.blocks_cached > 0

    async def test_close_ends_every_stream_and_refuses_new_requests(self, engine: Engine) -> None:
        stream = engine.generate(request("a", max_tokens=100))
        await anext(stream)
        await asyncio.to_thread(engine.close)
        assert [delta async for delta in stream][-1].finish_reason in ("abort", "length")
        with pytest.raises(Exception, match="closed"):
            await collect(engine, request("b"))
        engine.close()

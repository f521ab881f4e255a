"""Reuse of whole answers: what shapes a key, what is kept, who shares an answer in flight."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.completion import Choice, Counts, GenerationFailed, Update
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import GenerateRequest, Grammar, SamplingParams
from deepwell.server.caches.response_cache import AnswerKey, AnswerStore, ResponseCache, answer_bytes

GREEDY = SamplingParams(temperature=0.0)


def choice(prompt: tuple[int, ...] = (1, 2), params: SamplingParams = GREEDY, **given: Any) -> Choice:
    salt, number = given.pop("salt", ""), given.pop("number", 0)
    return Choice(0, GenerateRequest("r", prompt, params, number, cache_salt=salt), **given)


def key_of(one: Choice, fingerprint: str = "fp", adapter: str = "") -> AnswerKey | None:
    return AnswerKey.of(one, fingerprint=fingerprint, adapter=adapter)


def key(number: int) -> AnswerKey:
    made = key_of(choice((number,)))
    assert made is not None
    return made


def answer(text: str, prompt: int = 3) -> tuple[Update, ...]:
    last = len(text) - 1
    return tuple(
        Update(0, c, finish_reason="stop" if i == last else None, counts=Counts(prompt, 0, i + 1))
        for i, c in enumerate(text)
    )


def test_only_deterministic_requests_have_a_key() -> None:
    assert key_of(choice()) is not None
    assert key_of(choice(params=SamplingParams(temperature=0.7))) is None
    assert key_of(choice(params=SamplingParams(temperature=0.7, seed=1))) is not None


SHAPING: dict[str, Any] = {
    "max_tokens": 9,
    "min_tokens": 2,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.1,
    "presence_penalty": 1.0,
    "frequency_penalty": 1.0,
    "repetition_penalty": 1.5,
    "logit_bias": {1: 2.0},
    "seed": 8,
    "logprobs": 1,
    "prompt_logprobs": 1,
    "prompt_logprobs_start": 2,
    "stop_token_ids": (4,),
    "ignore_eos": True,
    "grammar": Grammar("regex", "a"),
}


def test_every_sampling_parameter_enters_the_key_of_a_drawn_answer() -> None:
    params = SamplingParams(temperature=1.0, seed=7)
    assert set(SHAPING) == set(SamplingParams.__dataclass_fields__)
    keys = {key_of(choice(params=params))}
    keys |= {key_of(choice(params=replace(params, **{name: value}))) for name, value in SHAPING.items()}
    assert len(keys) == len(SHAPING) + 1


def test_everything_around_the_sampling_enters_the_key() -> None:
    keys = [
        key_of(choice()),
        key_of(choice((1, 2, 0))),
        key_of(choice(salt="other tenant")),
        key_of(choice(stops=("x",))),
        key_of(choice(offset=4)),
        key_of(choice(), adapter="digest"),
        key_of(choice(), fingerprint="other weights"),
    ]
    assert len(set(keys)) == len(keys)


def test_choices_differ_where_they_are_drawn_and_not_where_they_are_greedy() -> None:
    drawn = SamplingParams(temperature=1.0, seed=7)
    assert key_of(choice(params=drawn)) != key_of(choice(params=drawn, number=1))
    assert key_of(choice()) == key_of(choice(number=1))


@given(
    capacity=st.integers(0, 6000),
    steps=st.lists(
        st.tuples(st.sampled_from(["get", "put"]), st.integers(0, 6), st.text(min_size=1, max_size=6)),
        max_size=40,
    ),
)
def test_the_store_is_a_least_recently_used_cache_that_counts_bytes(
    capacity: int, steps: list[tuple[str, int, str]]
) -> None:
    store = AnswerStore(capacity)
    model: OrderedDict[int, tuple[Update, ...]] = OrderedDict()

    def size() -> int:
        return sum(answer_bytes(key(number), updates) for number, updates in model.items())

    for step, number, text in steps:
        if step == "get":
            if number in model:
                model.move_to_end(number)
            assert store.get(key(number)) == model.get(number)
            continue
        store.put(key(number), answer(text))
        model.pop(number, None)
        if answer_bytes(key(number), answer(text)) <= capacity:
            model[number] = answer(text)
            while size() > capacity:
                model.popitem(last=False)
        assert store.nbytes == size() <= capacity
        assert len(store) == len(model)


class Source:
    """Generates one letter whenever it is told to."""

    def __init__(self, text: str, *, fails: bool = False) -> None:
        self.text = text
        self.fails = fails
        self.started = self.closed = 0
        self.go = asyncio.Semaphore(0)

    async def generate(self) -> AsyncGenerator[Update, None]:
        self.started += 1
        try:
            for update in answer(self.text):
                await self.go.acquire()
                yield update
            if self.fails:
                raise GenerationFailed("broke", fix="try again")
        finally:
            self.closed += 1


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def read(cache: ResponseCache, source: Source, index: int = 0) -> list[Update]:
    async with aclosing(cache.stream(key(1), index, source.generate)) as updates:
        return [update async for update in updates]


async def test_a_kept_answer_is_replayed_in_the_same_pieces_with_its_prompt_cached() -> None:
    cache, source = ResponseCache(1 << 20), Source("abc")
    for _ in "abc":
        source.go.release()
    first = await read(cache, source)
    again = await read(cache, source, index=2)
    assert source.started == 1
    assert [u.text for u in again] == [u.text for u in first] == ["a", "b", "c"]
    assert {u.index for u in again} == {2}
    assert {u.counts.cached for u in first} == {0}
    assert {u.counts.cached for u in again} == {3}
    assert again[-1].finish_reason == "stop"


async def test_a_failure_reaches_every_reader_and_is_not_kept() -> None:
    cache, source = ResponseCache(1 << 20), Source("ab", fails=True)
    readers = [asyncio.create_task(read(cache, source)) for _ in range(3)]
    for _ in "ab":
        source.go.release()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(result, GenerationFailed) for result in results)
    assert (source.started, cache.in_flight, len(cache.store)) == (1, 0, 0)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("join"), st.integers(0, 4)),
            st.tuples(st.just("leave"), st.integers(0, 4)),
            st.tuples(st.just("step"), st.just(0)),
        ),
        max_size=30,
    )
)
def test_one_generation_serves_all_readers_until_the_last_has_left(actions: list[tuple[str, int]]) -> None:
    """Whoever leaves, the one who began it too, the others get the whole answer; nobody generates for nobody."""

    async def scenario() -> None:
        text = "abcdef"
        cache, source = ResponseCache(1 << 20), Source(text)
        readers: dict[int, asyncio.Task[list[Update]]] = {}
        generations = 0
        for action, number in actions:
            if action == "join" and number not in readers:
                if len(cache.store) == 0 and cache.in_flight == 0:
                    generations += 1
                readers[number] = asyncio.create_task(read(cache, source))
            elif action == "leave" and number in readers and not readers[number].done():
                readers.pop(number).cancel()
            elif action == "step" and cache.in_flight:
                source.go.release()
            await settle()
            waiting = [reader for reader in readers.values() if not reader.done()]
            assert cache.in_flight == (1 if waiting else 0)
            assert source.started == generations
            assert source.started - source.closed == cache.in_flight
        for _ in text:
            source.go.release()
        for done in await asyncio.gather(*readers.values()):
            assert "".join(update.text for update in done) == text
        assert cache.in_flight == 0
        assert source.closed == source.started == generations

    asyncio.run(scenario())


@pytest.fixture
def caching(codec: Codec) -> Iterator[Live]:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy", response_cache_bytes=1 << 20), engine)
    yield running
    running.stop()


@pytest.fixture
def client(caching: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{caching.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as made:
        yield made


def test_the_sdk_gets_the_same_answer_without_the_engine(client: OpenAI, caching: Live) -> None:
    def ask(**more: Any) -> Any:
        messages = [{"role": "user", "content": "héllo 🌍"}]
        return client.chat.completions.create(model="toy", messages=messages, **({"temperature": 0} | more))

    first = ask(logprobs=True, top_logprobs=2)
    again = ask(logprobs=True, top_logprobs=2)
    assert len(caching.engine.seen) == 1
    assert again.choices == first.choices
    assert again.id != first.id
    assert again.usage.prompt_tokens == first.usage.prompt_tokens
    assert again.usage.completion_tokens == first.usage.completion_tokens
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens

    chunks = list(ask(logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}))
    assert len(caching.engine.seen) == 1
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "héllo 🌍"
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == chunks[-1].usage.prompt_tokens
    ask()  # other log probabilities: another answer
    ask(temperature=1)
    ask(temperature=1)  # drawn anew each time
    assert len(caching.engine.seen) == 4
    lookups = [
        line for line in caching.service.metrics.text().decode().splitlines() if "lookups_total{" in line
    ]
    assert sorted(lookups) == [
        'deepwell_response_cache_lookups_total{result="hit"} 2.0',
        'deepwell_response_cache_lookups_total{result="miss"} 2.0',
    ]


def test_an_echoed_prompt_comes_back_with_a_reused_answer(client: OpenAI, caching: Live) -> None:
    def ask() -> Any:
        return client.completions.create(model="toy", prompt="abc", temperature=0, echo=True, max_tokens=2)

    assert ask().choices == ask().choices
    assert ask().choices[0].text == "abcab"
    assert len(caching.engine.seen) == 1


def test_greedy_choices_of_one_request_are_generated_once(client: OpenAI, caching: Live) -> None:
    answer = client.completions.create(model="toy", prompt="abc", temperature=0, n=3, max_tokens=2)
    assert [choice.text for choice in answer.choices] == ["ab", "ab", "ab"]
    assert len(caching.engine.seen) == 1


def test_failed_answers_are_asked_for_again(client: OpenAI, caching: Live) -> None:
    from openai import InternalServerError

    caching.engine.fail_at = 1
    for _ in range(2):
        with pytest.raises(InternalServerError):
            client.completions.create(model="toy", prompt="abc", temperature=0, max_tokens=4)
    caching.engine.fail_at = None
    answer = client.completions.create(model="toy", prompt="abc", temperature=0, max_tokens=4)
    assert answer.choices[0].text == "abc"

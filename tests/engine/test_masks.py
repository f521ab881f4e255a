"""Masks that take long: they leave the step thread, others go on, and no token depends on where a mask was computed."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from tests.engine.constrained import PADDED, PERSON, RECORDS, ByteModel, constrained_engine, schema
from tests.server.fakes import END, VOCAB, write_tokenizer

from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.grammar.fair_worker import FairWorker
from deepwell.engine.grammar.masks import MOST_MASK_S, MOST_REQUEST_S, MaskBudget, UnlockedConsumer
from deepwell.engine.grammar.trial import Trials
from deepwell.engine.protocol import Delta, GenerateRequest, Grammar, SamplingParams
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.models.text.tokenizer import Tokenizer

MASKS = "deepwell-masks"  # the thread of slow masks
WAIT_S = 60.0  # a test that waits longer has failed
# Every text has so many parses that one token takes milliseconds, and the next ones more and more.
RULES = 120
AMBIGUOUS = Grammar(
    "lark",
    f'start: s\ns: {" | ".join(f"s{i} s" for i in range(RULES))} | "a"\n'
    + "".join(f's{i}: s s{(i + 1) % RULES} | s "a" | "a"\n' for i in range(RULES)),
)

# Compiling it takes minutes and gigabytes; with a number, that several may be told apart.
EXPLODING = '{"title":"%d","allOf":[{"type":"integer","multipleOf":9973},{"multipleOf":9967}]}'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


class Cost:
    """A clock by which each mask takes what a test says. On the masks' thread it first calls `enter`."""

    def __init__(self, seconds: Callable[[], float], enter: Callable[[], None] = lambda: None) -> None:
        self._seconds = seconds
        self._enter = enter
        self._own = threading.local()

    def __call__(self) -> float:
        if threading.current_thread().name == MASKS:
            self._enter()
        self._own.now = getattr(self._own, "now", 0.0) + self._seconds()
        return self._own.now


def vocabulary_of(tokenizer: Tokenizer) -> LLTokenizer:
    class Bytes:
        eos_token_id, bos_token_id, special_token_ids = END, None, (END,)
        tokens = tuple(tokenizer.token_bytes(token) for token in range(VOCAB))

        def __call__(self, text: bytes) -> list[int]:
            return list(text)

    return LLTokenizer(TokenizerWrapper(Bytes()), n_vocab=VOCAB)


def compiler_of(tokenizer: Tokenizer, cost: Cost) -> GrammarCompiler:
    return GrammarCompiler(lambda: tokenizer, PADDED, (END,), clock=cost)


def request(
    name: str, *, grammar: Grammar | None = RECORDS, tenant: str = "", most: int = 120
) -> GenerateRequest:
    number = sum(map(ord, name))
    params = SamplingParams(
        max_tokens=most,
        temperature=0.0 if number % 2 else 1.0,
        seed=number,
        grammar=grammar,
        logprobs=1,
        ignore_eos=grammar is None,
    )
    return GenerateRequest(name, list(b"prompt " + name.encode()), params, tenant=tenant)


async def collect(running: InProcessEngine, asked: GenerateRequest) -> list[Delta]:
    return [delta async for delta in running.generate(asked)]


def said(deltas: list[Delta]) -> tuple[object, ...]:
    tokens = [token for delta in deltas for token in delta.tokens]
    entries = [entry for delta in deltas for entry in delta.logprobs]
    return tokens, entries, deltas[-1].finish_reason, deltas[-1].error


def company() -> list[GenerateRequest]:
    plain = [request(f"p{n}", grammar=None, most=40) for n in range(2)]
    bound = [
        request(f"g{n}", tenant=f"t{n % 2}", grammar=RECORDS if n % 2 else schema(PERSON)) for n in range(4)
    ]
    return [*plain, *bound]


@pytest.fixture(scope="module")
def alone(tokenizer: Tokenizer) -> list[tuple[object, ...]]:
    """Each request of `company` by itself, with every mask on the step thread and without drafts."""

    async def one_by_one(running: InProcessEngine) -> list[tuple[object, ...]]:
        return [said(await collect(running, asked)) for asked in company()]

    with constrained_engine(compiler_of(tokenizer, Cost(lambda: 0.0)), drafts=0) as running:
        return asyncio.run(one_by_one(running))


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    drafts=st.sampled_from([0, 8]),
    blocks=st.sampled_from([24, 64]),
    sequences=st.sampled_from([2, 64]),
)
def test_no_token_depends_on_when_its_mask_was_ready(
    tokenizer: Tokenizer,
    alone: list[tuple[object, ...]],
    seed: int,
    share: float,
    drafts: int,
    blocks: int,
    sequences: int,
) -> None:
    chance = random.Random(seed)
    steps = threading.Semaphore(
        0
    )  # some masks wait until the engine has made a few more steps, or has nothing else to do

    def wait() -> None:
        for _ in range(chance.randrange(4)):
            if not steps.acquire(timeout=0.002):
                break

    cost = Cost(lambda: 0.02 if chance.random() < share else 1e-4, wait)
    model = ByteModel(lambda _batch: steps.release())

    async def together(running: InProcessEngine) -> list[tuple[object, ...]]:
        return [said(one) for one in await asyncio.gather(*(collect(running, asked) for asked in company()))]

    with constrained_engine(
        compiler_of(tokenizer, cost), drafts=drafts, blocks=blocks, sequences=sequences, model=model
    ) as running:
        assert asyncio.run(together(running)) == alone


async def test_others_go_on_while_a_mask_takes_long(tokenizer: Tokenizer) -> None:
    entered, gate = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        gate.wait(WAIT_S)

    slow = [request(f"slow{n}", tenant="a") for n in range(4)]
    with constrained_engine(compiler_of(tokenizer, Cost(lambda: 0.02, wait)), sequences=4) as running:
        # They take every place in the batch, and the first of their masks never comes.
        waiting = [asyncio.ensure_future(collect(running, one)) for one in slow]
        assert await asyncio.to_thread(entered.wait, WAIT_S)
        plain = await asyncio.wait_for(collect(running, request("plain", grammar=None, tenant="b")), WAIT_S)
        assert plain[-1].finish_reason == "length"
        assert not any(one.done() for one in waiting)
        gate.set()
        assert {deltas[-1].finish_reason for deltas in await asyncio.gather(*waiting)} <= {"stop", "length"}


async def test_a_request_that_waits_for_its_mask_can_be_aborted(tokenizer: Tokenizer) -> None:
    entered, gate = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        gate.wait(WAIT_S)

    with constrained_engine(compiler_of(tokenizer, Cost(lambda: 0.02, wait))) as running:
        stream = running.generate(request("left"))
        first = await anext(stream)
        assert first.tokens
        assert await asyncio.to_thread(entered.wait, WAIT_S)
        await stream.aclose()
        while running.stats().aborted == 0:
            await asyncio.sleep(0)
        gate.set()
        assert (await collect(running, request("next", grammar=None)))[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("seconds", "limit"), [(1.5 * MOST_MASK_S, f"{MOST_MASK_S:g} s"), (0.9, f"{MOST_REQUEST_S:g} s")]
)
async def test_a_grammar_that_costs_too_much_ends_its_own_request(
    tokenizer: Tokenizer, seconds: float, limit: str
) -> None:
    endless = Grammar("regex", "[a-z]{150,}")
    with constrained_engine(compiler_of(tokenizer, Cost(lambda: seconds))) as running:
        costly, plain = await asyncio.gather(
            collect(running, request("costly", grammar=endless, most=200)),
            collect(running, request("plain", grammar=None)),
        )
    last = costly[-1]
    assert last.finish_reason == "error" and last.error_code == "grammar_failed"
    assert limit in last.error and "leave out rules" in last.error
    assert plain[-1].finish_reason == "length"


def test_the_interpreter_is_free_while_a_mask_is_computed(tokenizer: Tokenizer) -> None:
    vocabulary = vocabulary_of(tokenizer)
    matcher = LLMatcher(vocabulary, AMBIGUOUS.source, log_level=0)
    consumer = UnlockedConsumer(lambda: LLMatcher(vocabulary, "", log_level=0))
    inside = [0]  # the number of the call that is under way; 0: none
    ended = threading.Event()

    def compute() -> None:
        for number in range(1, 13, 2):
            copy = matcher.deep_copy()
            inside[0] = number
            assert consumer.consume(copy, ord("a"))
            inside[0] = number + 1
            copy.compute_bitmask()
            inside[0] = 0
        ended.set()

    thread = threading.Thread(target=compute)
    thread.start()
    seen: set[int] = set()
    while not ended.is_set():
        seen.add(inside[0])
    thread.join()
    # A call that held the interpreter's lock would be seen only where the thread lost it just before or after.
    assert len({n for n in seen if n % 2}) > 1 and len({n for n in seen if n and not n % 2}) > 1
    assert consumer.seconds > 0


class TestBudget:
    def test_a_step_gives_its_tenants_equal_shares(self) -> None:
        budget = MaskBudget()
        budget.begin({"a", "b"}, 0.1)
        assert budget.has_left("a") and budget.has_left("b")
        budget.charge("a", 0.02)
        assert not budget.has_left("a") and budget.has_left("b")

    def test_what_is_owed_is_paid_by_the_next_steps(self) -> None:
        budget = MaskBudget()
        budget.begin({"a"}, 0.003)
        budget.charge("a", 0.010)
        steps = 0
        while not budget.has_left("a"):
            budget.begin({"a", "b"} if steps % 2 else {"b"}, 0.003)
            assert budget.has_left("b")
            steps += 1
        assert steps >= 5

    def test_nothing_is_saved_up(self) -> None:
        budget = MaskBudget()
        for _ in range(100):
            budget.begin({"a"}, 0.004)
        budget.charge("a", 0.0021)
        assert not budget.has_left("a")


def ran(names: list[str], seconds: dict[str, float]) -> list[str]:
    """The order in which a worker runs jobs that are all queued before the first; a job's tenant is its first letter."""
    now, order = [0.0], list[str]()
    gate, done = threading.Event(), threading.Event()
    worker = FairWorker("turns", clock=lambda: now[0])

    def hold() -> None:
        gate.wait(WAIT_S)

    def job(name: str) -> None:
        order.append(name)
        now[0] += seconds[name[0]]
        if len(order) == len(names):
            done.set()

    worker.submit("", hold)
    for name in names:
        worker.submit(name[0], lambda name=name: job(name))
    gate.set()
    assert done.wait(WAIT_S)
    worker.close()
    return order


class TestFairWorker:
    def test_a_tenant_with_many_jobs_delays_itself(self) -> None:
        assert ran([*(f"a{n}" for n in range(6)), "b0"], {"a": 1.0, "b": 1.0}).index("b0") <= 1

    def test_turns_are_by_processor_time(self) -> None:
        order = ran([f"{t}{n}" for n in range(8) for t in "ab"], {"a": 4.0, "b": 1.0})
        first = [name[0] for name in order[:10]]
        assert first.count("b") >= 3 * first.count("a")

    @given(jobs=st.lists(st.sampled_from("abc"), min_size=1, max_size=20))
    @settings(max_examples=25, deadline=None)
    def test_every_job_runs_once_and_a_tenants_in_order(self, jobs: list[str]) -> None:
        names = [f"{tenant}{number:02}" for number, tenant in enumerate(jobs)]
        order = ran(names, {"a": 0.5, "b": 1.0, "c": 3.0})
        assert sorted(order) == sorted(names)
        for tenant in "abc":
            mine = [name for name in order if name[0] == tenant]
            assert mine == sorted(mine)

    def test_a_job_that_fails_leaves_the_others_alone(self) -> None:
        done = threading.Event()
        worker = FairWorker("failing")
        worker.submit("a", lambda: 1 // 0 and None)
        worker.submit("a", done.set)
        assert done.wait(WAIT_S)
        worker.close()

    def test_it_works_again_after_close(self) -> None:
        worker = FairWorker("again")
        for _ in range(3):
            done = threading.Event()
            worker.submit("a", done.set)
            assert done.wait(WAIT_S)
            worker.close()

    @given(
        jobs=st.lists(st.sampled_from("abcd"), min_size=1, max_size=20),
        threads=st.integers(1, 3),
        chance=st.randoms(use_true_random=False),
    )
    @settings(max_examples=40, deadline=None)
    def test_of_each_tenant_one_job_runs_and_nobody_waits_for_another(
        self, jobs: list[str], threads: int, chance: random.Random
    ) -> None:
        changed = threading.Condition()
        running: dict[str, threading.Event] = {}
        order, ended = list[str](), list[str]()
        worker = FairWorker("many", threads=threads)

        def job(name: str) -> None:
            gate = threading.Event()
            with changed:
                assert name[0] not in running
                running[name[0]] = gate
                order.append(name)
                changed.notify_all()
            gate.wait(WAIT_S)
            with changed:
                del running[name[0]]
                ended.append(name)
                changed.notify_all()

        names = [f"{tenant}{number:02}" for number, tenant in enumerate(jobs)]
        for name in names:
            worker.submit(name[0], lambda name=name: job(name))
        while len(ended) < len(names):
            left = {name[0] for name in names if name not in ended}
            with changed:
                assert changed.wait_for(lambda: len(running) == min(threads, len(left)), WAIT_S)  # noqa: B023
                count, gate = len(ended), chance.choice(list(running.values()))
                gate.set()
                assert changed.wait_for(lambda: len(ended) > count, WAIT_S)  # noqa: B023
        worker.close()
        assert sorted(order) == sorted(ended) == sorted(names)
        for tenant in "abcd":
            mine = [name for name in order if name[0] == tenant]
            assert mine == sorted(mine)


class TestCompiled:
    def test_another_tenants_grammar_is_not_found(self, tokenizer: Tokenizer) -> None:
        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        asyncio.run(compiler.prepare(RECORDS, tenant="a", salt="a"))
        assert compiler.has(RECORDS, salt="a")
        assert not compiler.has(RECORDS, salt="b") and not compiler.has(RECORDS)
        compiler.close()

    def test_a_tenant_with_many_grammars_drops_its_own(
        self, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Trials, "compile", lambda _trials, _source: 0)
        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        compiler.start(RECORDS, salt="b")
        for number in range(200):
            compiler.start(Grammar("regex", f"x{number}"), salt="a")
        assert compiler.has(RECORDS, salt="b")
        assert compiler.has(Grammar("regex", "x199"), salt="a")
        assert not compiler.has(Grammar("regex", "x0"), salt="a")
        compiler.close()

    def test_a_tenant_with_large_grammars_drops_its_own(
        self, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Trials, "compile", lambda _trials, _source: 15 << 20)
        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        compiler.start(RECORDS, salt="b")
        for number in range(3):
            compiler.start(Grammar("regex", f"x{number}"), salt="a")
        kept = [compiler.has(Grammar("regex", f"x{number}"), salt="a") for number in range(3)]
        assert compiler.has(RECORDS, salt="b") and kept == [False, True, True]
        compiler.close()

    def test_a_grammar_that_takes_much_memory_is_refused(self, tokenizer: Tokenizer) -> None:
        rules = "".join(f'r{number}: "x{number}" r{number + 1} | "y"\n' for number in range(8000))
        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        with pytest.raises(InvalidRequest, match=r"takes \d+ MiB, and 48 are allowed"):
            compiler.start(Grammar("lark", f'start: r0\n{rules}r8000: "z"\n'))
        fields = {
            f"f{number}": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 9}
            for number in range(500)
        }
        compiler.start(Grammar("json_schema", json.dumps({"type": "object", "properties": fields})))
        compiler.close()

    def test_a_short_schema_that_explodes_is_refused_and_others_compile(self, tokenizer: Tokenizer) -> None:
        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        with pytest.raises(InvalidRequest):
            compiler.start(Grammar("json_schema", EXPLODING % 0), tenant="a")
        compiler.start(Grammar("json_schema", '{"type":"object"}'), tenant="b")
        compiler.close()

    def test_a_bad_grammar_on_trial_leaves_a_process_to_other_tenants(self, tokenizer: Tokenizer) -> None:
        async def both() -> None:
            bad = [
                asyncio.ensure_future(compiler.prepare(Grammar("json_schema", EXPLODING % n), tenant="a"))
                for n in range(2)
            ]
            await asyncio.sleep(0)
            for number in range(4):
                await compiler.prepare(Grammar("regex", f"x{number}"), tenant="b")
            assert not bad[1].done()
            await asyncio.to_thread(compiler.close)
            ended = await asyncio.gather(*bad, return_exceptions=True)
            assert all(isinstance(error, DeepwellError) for error in ended)

        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        asyncio.run(both())

    def test_one_server_tries_all_small_grammars_and_ends_with_the_compiler(
        self, tokenizer: Tokenizer
    ) -> None:
        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        seen: set[int] = set()
        for number in range(3):
            compiler.start(Grammar("regex", f"x{number}"), tenant=f"t{number}")
            seen.add(compiler._small_trials.pid)
        assert len(seen) == 1 and 0 not in seen and compiler._large_trials.pid == 0
        compiler.close()
        assert compiler._small_trials.pid == 0

    def test_closing_does_not_wait_for_a_trial(self, tokenizer: Tokenizer) -> None:
        async def leave() -> None:
            endless = asyncio.ensure_future(compiler.prepare(Grammar("regex", "a?" * 60_000)))
            while not compiler._large_trials.pid:
                await asyncio.sleep(0)
            await asyncio.to_thread(compiler.close)
            with pytest.raises(DeepwellError, match="closed"):
                await endless

        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        asyncio.run(leave())

    def test_a_compiled_grammar_starts_while_another_is_compiled(
        self, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entered, gate = threading.Event(), threading.Event()

        class Gated:
            grammar_from_regex = staticmethod(LLMatcher.grammar_from_regex)

            def __new__(cls, tokens: LLTokenizer, source: str, **options: Any) -> LLMatcher:
                if "costly" in source:
                    entered.set()
                    gate.wait(WAIT_S)
                return LLMatcher(tokens, source, **options)

        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        compiler.start(RECORDS)
        monkeypatch.setattr("deepwell.engine.grammar.compiler.LLMatcher", Gated)

        async def start_meanwhile() -> None:
            preparing = asyncio.ensure_future(compiler.prepare(Grammar("regex", "costly")))
            assert await asyncio.to_thread(entered.wait, WAIT_S)
            try:
                await asyncio.wait_for(asyncio.to_thread(compiler.start, RECORDS), WAIT_S / 4)
                assert not preparing.done()
            finally:
                gate.set()
            await preparing

        asyncio.run(start_meanwhile())
        compiler.close()

    def test_a_client_that_leaves_gives_up_its_turn(self, tokenizer: Tokenizer) -> None:
        loading, gate = threading.Event(), threading.Event()

        def load() -> Tokenizer:
            loading.set()
            gate.wait(WAIT_S)
            return tokenizer

        async def leave() -> None:
            first = asyncio.ensure_future(compiler.prepare(RECORDS))
            assert await asyncio.to_thread(loading.wait, WAIT_S)
            second = asyncio.ensure_future(compiler.prepare(schema(PERSON)))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            gate.set()
            await first
            await compiler.prepare(Grammar("regex", "x"))  # behind the one that was given up

        compiler = GrammarCompiler(load, PADDED, (END,))
        asyncio.run(leave())
        assert compiler.has(RECORDS) and not compiler.has(schema(PERSON))
        compiler.close()

    def test_nobody_waits_for_a_turn_that_never_comes(self, tokenizer: Tokenizer) -> None:
        loading, gate = threading.Event(), threading.Event()

        def load() -> Tokenizer:
            loading.set()
            gate.wait(WAIT_S)
            return tokenizer

        async def close() -> None:
            first = asyncio.ensure_future(compiler.prepare(RECORDS))
            assert await asyncio.to_thread(loading.wait, WAIT_S)
            second = asyncio.ensure_future(compiler.prepare(schema(PERSON)))
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(asyncio.to_thread(compiler.close))
            gate.set()
            await closing
            # The second may have had its turn before the close.
            _, told = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), WAIT_S)
            assert told is None or (isinstance(told, DeepwellError) and "closed" in str(told))

        compiler = GrammarCompiler(load, PADDED, (END,))
        asyncio.run(close())

    def test_chained_definitions_do_not_overflow_the_stack(self, tokenizer: Tokenizer) -> None:
        count = 1500  # on a stack of 8 MiB, llguidance ends the process
        chained = {
            f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{(n + 1) % count}"}}}
            for n in range(count)
        }
        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        grammar = schema({"$defs": chained, "$ref": "#/$defs/d0"})
        asyncio.run(compiler.prepare(grammar))
        assert compiler.start(grammar).allowed() is not None
        compiler.close()

    def test_a_compilation_without_end_is_refused_and_delays_no_small_one(
        self, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("deepwell.engine.grammar.trial.CPU_S", 1)

        async def both() -> None:
            endless = asyncio.ensure_future(compiler.prepare(Grammar("regex", "a?" * 60_000)))
            await asyncio.sleep(0)
            await compiler.prepare(RECORDS)
            assert not endless.done()
            with pytest.raises(InvalidRequest, match="to compile") as refused:
                await endless
            assert refused.value.param == "grammar" and refused.value.fix

        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        asyncio.run(both())
        compiler.close()

    def test_what_does_not_compile_is_refused_from_the_thread(self, tokenizer: Tokenizer) -> None:
        compiler = GrammarCompiler(lambda: tokenizer, PADDED, (END,))
        with pytest.raises(InvalidRequest, match="missing"):
            asyncio.run(compiler.prepare(Grammar("lark", "start: missing")))
        compiler.close()

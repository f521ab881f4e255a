"""Grammars in the engine: what is allowed, what is refused, and that drafts and company change nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.constrained import PADDED, PERSON, RECORDS, constrained_engine, schema
from tests.server.fakes import END, VOCAB, write_tokenizer

from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.protocol import GenerateRequest, Grammar, SamplingParams
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.models.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(lambda: tokenizer, PADDED, (END,))


def walk(compiler: GrammarCompiler, grammar: Grammar, chance: random.Random, most: int = 400) -> str | None:
    """A text that the grammar allows, drawn at random; None if it did not end."""
    state = compiler.start(grammar)
    data = bytearray()
    for _ in range(most):
        allowed = np.flatnonzero(state.allowed())
        if END in allowed and (len(allowed) == 1 or chance.random() < 0.5):
            return data.decode()
        token = int(chance.choice([t for t in allowed if t != END]))
        data.append(token)
        state.advance(token)
    return None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_allowed_fits_the_schema(compiler: GrammarCompiler, seed: int) -> None:
    text = walk(compiler, schema(PERSON), random.Random(seed))
    assert text is not None
    person = json.loads(text)
    assert set(person) == {"name", "age"} and len(person["name"]) <= 6 and person["age"] <= 99


def test_white_space_is_bounded(compiler: GrammarCompiler) -> None:
    state = compiler.start(schema({"type": "object"}))
    state.advance(ord("{"))
    blanks = 0
    while any(state.allowed()[ord(c)] for c in " \n\t\r"):
        state.advance(next(ord(c) for c in " \n\t\r" if state.allowed()[ord(c)]))
        blanks += 1
    assert 1 <= blanks <= 21


@pytest.mark.parametrize(
    ("value", "endless"),
    [
        ({"type": "integer"}, b"1"),
        ({"type": "string", "format": "date-time"}, b"1"),
        ({"type": "number"}, b"3"),
    ],
)
def test_digits_are_bounded(compiler: GrammarCompiler, value: object, endless: bytes) -> None:
    state = compiler.start(schema(value))
    text = b'"2024-01-01T00:00:00.' if "string" in str(value) else b"0." if "number" in str(value) else b"1"
    for byte in text:
        state.advance(byte)
    count = 0
    while state.allowed()[endless[0]]:
        state.advance(endless[0])
        count += 1
    assert count < 64


@pytest.mark.parametrize(
    ("grammar", "names"),
    [
        (schema({"type": "array", "uniqueItems": True}), "/uniqueItems"),
        (
            schema({"properties": {"a": {"not": {}}, "b": {"requierd": 1}}}),
            "/properties/a/not, /properties/b/requierd",
        ),
        (schema({"type": "string", "format": "phone"}), "phone"),
        (schema({"$ref": "http://example.com/x"}), "example.com"),
        (schema({"properties": {"a": 3}}), "/properties/a"),
        (schema([1]), "object"),
        (Grammar("json_schema", "{"), "no JSON"),
        (Grammar("regex", "(?=a)b"), "look-ahead"),
        (Grammar("lark", "start: missing"), "missing"),
        (Grammar("lark", "x" * 300_000), "300000 characters"),
        (schema(json.loads('{"items":' * 80 + "{}" + "}" * 80)), "64 deep"),
    ],
)
def test_what_is_not_supported_is_named(compiler: GrammarCompiler, grammar: Grammar, names: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        compiler.start(grammar)
    assert names in str(refused.value) and refused.value.param == "grammar"


@given(text=st.text(max_size=40), kind=st.sampled_from(["json_schema", "regex", "lark"]))
@settings(max_examples=60, deadline=None)
def test_no_grammar_does_worse_than_be_refused(compiler: GrammarCompiler, text: str, kind: str) -> None:
    with contextlib.suppress(DeepwellError):
        compiler.start(Grammar(kind, text)).allowed()  # type: ignore[arg-type]


def test_annotations_are_no_constraints(compiler: GrammarCompiler) -> None:
    noted = {"title": "t", "description": "d", "default": 1, "examples": [1], "x-more": 1, "const": 5}
    assert walk(compiler, schema(noted), random.Random(0)) is not None


def test_padding_and_control_tokens_are_never_allowed(compiler: GrammarCompiler) -> None:
    allowed = compiler.start(Grammar("regex", "(?s:.*)")).allowed()
    assert not allowed[VOCAB:].any() and not allowed[END - 1] and allowed[END]


def requests(count: int) -> Iterator[GenerateRequest]:
    for number in range(count):
        params = SamplingParams(
            max_tokens=200,
            temperature=0.0 if number % 2 else 1.0,
            seed=number,
            grammar=RECORDS if number % 3 else None,
            logprobs=2,
        )
        yield GenerateRequest(f"r{number}", list(b"prompt %d" % number), params)


def answers(compiler: GrammarCompiler, *, together: bool, drafts: int, blocks: int = 64) -> list[object]:
    async def one(running: InProcessEngine, request: GenerateRequest) -> object:
        deltas = [delta async for delta in running.generate(request)]
        assert not deltas[-1].error
        tokens = [t for d in deltas for t in d.tokens]
        return tokens, [e for d in deltas for e in d.logprobs], deltas[-1].finish_reason

    async def all_of(running: InProcessEngine) -> list[object]:
        if together:
            return await asyncio.gather(*(one(running, r) for r in requests(6)))
        return [await one(running, r) for r in requests(6)]

    with constrained_engine(compiler, drafts=drafts, blocks=blocks) as running:
        found = asyncio.run(all_of(running))
        if drafts and not together:
            assert running.stats().accepted_tokens > 0
        return found


def test_drafts_company_and_preemption_change_nothing(compiler: GrammarCompiler) -> None:
    alone = answers(compiler, together=False, drafts=0)
    assert answers(compiler, together=False, drafts=8) == alone
    assert answers(compiler, together=True, drafts=8) == alone
    assert answers(compiler, together=True, drafts=8, blocks=20) == alone
    for tokens, _, reason in alone[1:3]:  # type: ignore[misc]
        assert reason in ("stop", "length")
        if reason == "stop":
            assert 3 <= len(json.loads(bytes(tokens))) <= 5


def test_what_excludes_a_grammar_is_refused(compiler: GrammarCompiler) -> None:
    with constrained_engine(compiler) as running:
        for params in (
            SamplingParams(grammar=RECORDS, ignore_eos=True),
            SamplingParams(grammar=RECORDS, min_tokens=3),
        ):
            with pytest.raises(InvalidRequest, match="exclude each other"):
                running.generate_sync(GenerateRequest("r", [65], params))


def test_an_engine_without_a_vocabulary_says_so() -> None:
    with constrained_engine(None) as running, pytest.raises(InvalidRequest, match="takes no grammars"):
        asyncio.run(running.prepare(RECORDS))


def test_prepare_compiles_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    loads: list[int] = []

    def load() -> Tokenizer:
        loads.append(1)
        return tokenizer

    compiler = GrammarCompiler(load, PADDED, (END,))
    with constrained_engine(compiler) as running:
        assert not loads
        asyncio.run(running.prepare(RECORDS))
        assert compiler.has(RECORDS) and len(loads) == 1
        asyncio.run(running.prepare(schema(PERSON)))
        assert len(loads) == 1

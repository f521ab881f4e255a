"""`LLM`: what its calls answer, on the real model, and that a server answers the same."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, field_validator
from tests.server.conftest import Live, start
from tests.waiting import until

from deepwell import LLM
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.dialogue.tools import json_format
from deepwell.engine.protocol import Window
from deepwell.errors import ContextLengthExceeded, DeepwellError, InvalidRequest, ModelNotFound
from deepwell.llm import Completion
from deepwell.server.build import build_context
from deepwell.server.options import ServerOptions

FRANCE = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
GREECE = [{"role": "user", "content": "What is the capital of Greece? Answer in one sentence."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Review(BaseModel):
    """A pydantic class as a schema."""

    model_config = ConfigDict(extra="forbid")

    sentiment: Literal["positive", "negative"]


def is_idle(llm: LLM) -> bool:
    stats = llm._session.engine.stats()
    return stats.running + stats.waiting == 0


# ---- a server answers the same


@pytest.fixture(scope="module")
def sdk(llm: LLM, smollm2_path: Path) -> Iterator[OpenAI]:
    """A server over the engine of the model, with a text side of its own."""
    model = llm._session.model
    served = ServedModel("smollm2", model.engine, Codec.load(smollm2_path), defaults=model.defaults)
    running: Live = start(build_context([served], ServerOptions()), None)  # type: ignore[arg-type]
    with OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client
    running.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": 0, "max_tokens": 24},
        {"temperature": 0},
        {"seed": 7, "temperature": 1.1, "top_p": 0.9, "max_tokens": 20, "n": 2},
        {"temperature": 0, "max_tokens": 40, "stop": ["France", "city"]},
        {"temperature": 0, "max_tokens": 24, "repetition_penalty": 1.3, "logit_bias": {28: -100}},
    ],
    ids=["short", "default", "sampled", "stop", "penalised"],
)
def test_a_prompt_continues_as_in_the_server(llm: LLM, sdk: OpenAI, arguments: dict[str, Any]) -> None:
    ours = llm.generate("The capital of France", **arguments)
    outside = {"repetition_penalty", "top_k", "min_p"}
    known = {name: value for name, value in arguments.items() if name not in outside}
    extra = {name: value for name, value in arguments.items() if name in outside}
    theirs = sdk.completions.create(
        model="smollm2", prompt="The capital of France", extra_body=extra, **known
    )
    assert [choice.text for choice in ours.choices] == [choice.text for choice in theirs.choices]
    assert [choice.finish_reason for choice in ours.choices] == [one.finish_reason for one in theirs.choices]
    assert theirs.usage is not None
    assert ours.completion_tokens == theirs.usage.completion_tokens
    assert ours.prompt_tokens == theirs.usage.prompt_tokens


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_tokens": 30},
        {"max_tokens": 30, "tools": [TOOL], "tool_choice": "required"},
        {"max_tokens": 30, "tools": [TOOL]},
        {"max_tokens": 30, "stop": "Paris"},
    ],
    ids=["plain", "called", "tools", "stop"],
)
def test_a_chat_answers_as_in_the_server(llm: LLM, sdk: OpenAI, arguments: dict[str, Any]) -> None:
    ours = llm.chat(FRANCE, temperature=0, **arguments)
    theirs = sdk.chat.completions.create(model="smollm2", messages=FRANCE, temperature=0, **arguments)
    message = theirs.choices[0].message
    assert ours.text == (message.content or "")
    assert [(call.name, call.arguments) for call in ours.tool_calls] == [
        (call.function.name, call.function.arguments) for call in message.tool_calls or ()
    ]
    assert ours.finish_reason == theirs.choices[0].finish_reason
    if "tool_choice" in arguments:
        assert ours.tool_calls[0].kwargs["city"] in ("Paris", "Rome")
        assert ours.message["tool_calls"][0]["function"]["name"] == "get_weather"


def test_a_schema_binds_as_in_the_server(llm: LLM, sdk: OpenAI) -> None:
    asked = [{"role": "user", "content": "Is 'I love it' positive or negative?"}]
    ours = llm.chat(asked, temperature=0, max_tokens=30, schema=Review)
    format = {
        "type": "json_schema",
        "json_schema": {"name": "review", "schema": Review.model_json_schema()},
    }
    theirs = sdk.chat.completions.create(
        model="smollm2",
        messages=asked,
        temperature=0,
        max_tokens=30,
        response_format=format,  # type: ignore[arg-type]
    )
    assert ours.text == theirs.choices[0].message.content
    assert isinstance(ours.parsed, Review)


# ---- batches and streams


def test_a_batch_answers_as_each_alone_and_in_order(llm: LLM) -> None:
    prompts = ["One, two, three,", "The capital of Greece is", "Once upon a time"]
    alone = [llm.generate(prompt, temperature=0).text for prompt in prompts]
    assert [one.text for one in llm.generate(prompts, temperature=0)] == alone
    tokens = [llm.tokenize(prompt) for prompt in prompts]
    assert [one.text for one in llm.generate(tokens, temperature=0, progress=True)] == alone
    assert llm.generate(np.array(tokens[0]), temperature=0).text == alone[0]
    assert llm.generate([]) == []
    chats = llm.chat([FRANCE, GREECE], temperature=0, max_tokens=20)
    assert ["Paris" in chats[0].text, "Athens" in chats[1].text] == [True, True]


def test_n_choices_differ_and_a_seed_repeats_them(llm: LLM) -> None:
    first, again = (llm.generate("My name is", n=3, seed=5, temperature=1.5, max_tokens=8) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert len(set(texts)) == 3
    assert texts == [choice.text for choice in again.choices]
    assert first.text == texts[0]


def test_a_stream_is_the_whole_in_pieces(llm: LLM) -> None:
    whole = llm.generate("Once upon a time", temperature=0, max_tokens=12)
    pieces = list(llm.generate("Once upon a time", temperature=0, max_tokens=12, stream=True))
    assert "".join(map(str, pieces)) == whole.text
    assert len(pieces) > 3
    assert [piece.finish_reason for piece in pieces[-2:]] == [None, "length"]
    last = pieces[-1]
    assert (last.prompt_tokens, last.completion_tokens) == (whole.prompt_tokens, whole.completion_tokens)
    both = list(llm.chat([FRANCE, GREECE], temperature=0, max_tokens=20, stream=True))
    texts = ["".join(piece.text for piece in both if piece.index == index) for index in (0, 1)]
    assert texts == [one.text for one in llm.chat([FRANCE, GREECE], temperature=0, max_tokens=20)]


def test_a_stream_carries_calls_in_its_last_piece(llm: LLM) -> None:
    stream = llm.chat(FRANCE, temperature=0, max_tokens=40, tools=[TOOL], tool_choice="required", stream=True)
    pieces = list(stream)
    assert pieces[-1].finish_reason == "tool_calls"
    assert pieces[-1].tool_calls[0].name == "get_weather"


@pytest.mark.parametrize("how", ["break", "close", "with", "drop"])
def test_a_stream_that_is_left_is_aborted(llm: LLM, how: str) -> None:
    stream = llm.generate("Once upon a time", max_tokens=900, ignore_eos=True, stream=True)
    assert next(stream).completion_tokens >= 1
    if how == "break":
        for _ in stream:
            break
        del stream
    elif how == "close":
        stream.close()
        assert list(stream) == []
    elif how == "with":
        with stream:
            next(stream)
    else:
        del stream
    until(lambda: is_idle(llm))


def test_threads_share_one_model(llm: LLM) -> None:
    prompts = ["One, two, three,", "The capital of Greece is", "Once upon a time"]
    expected = [llm.generate(prompt, temperature=0).text for prompt in prompts]
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = llm.generate(prompts[number], temperature=0).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(3)] == expected


async def test_calls_work_inside_of_a_running_loop(llm: LLM) -> None:
    assert asyncio.get_running_loop().is_running()
    assert "Paris" in llm.chat(FRANCE, temperature=0, max_tokens=20).text


# ---- tokens, scores, vectors


def test_tokens_are_those_of_the_prompt(llm: LLM) -> None:
    tokens = llm.tokenize("hello world")
    assert llm.detokenize(tokens) == "hello world"
    assert llm.generate("hello world", max_tokens=1).prompt_tokens == len(tokens)
    assert llm.chat(FRANCE, max_tokens=1).prompt_tokens == len(llm.tokenize(FRANCE))
    assert len(llm.tokenize("word " * 6000)) > llm.context


def test_log_probabilities_are_those_of_the_score(llm: LLM) -> None:
    prompt = "The capital of France is"
    answer = llm.generate(prompt, temperature=0, max_tokens=6, logprobs=2)
    assert answer.logprobs is not None
    assert "".join(one.text for one in answer.logprobs) == answer.text
    assert [one.rank for one in answer.logprobs] == [1] * 6
    assert [len(one.top) for one in answer.logprobs] == [2] * 6
    score = llm.score([(llm.tokenize(prompt), answer.tokens)])[0]
    assert score.tokens == answer.tokens
    assert score.prompt_tokens == answer.prompt_tokens
    assert score.logprobs == pytest.approx([one.logprob for one in answer.logprobs], abs=1e-2)
    assert score.sum == pytest.approx(sum(score.logprobs))


def test_a_text_scores_as_its_parts(llm: LLM) -> None:
    whole = llm.score("The capital of France is Paris")
    one, *others = llm.score([("The", " capital"), ("The capital", " of France is Paris")])
    assert whole.sum == pytest.approx(one.sum + others[0].sum, abs=1e-2)
    right, wrong = llm.score([("The capital of France is", city) for city in (" Paris", " Rome")])
    assert right.mean > wrong.mean


def test_vectors_have_unit_length_and_tell_topics_apart(minilm_path: Path) -> None:
    with LLM(minilm_path) as encoder:
        texts = ["How do I reset my password?", "Changing a passphrase", "Bananas are yellow"]
        vectors = encoder.embed(texts)
        assert vectors.shape == (3, 384)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
        near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
        assert near > far + 0.2
        assert np.array_equal(encoder.embed(texts[0]), vectors[0])
        with pytest.raises(InvalidRequest, match=r"is an encoder.*call embed"):
            encoder.generate("hello")
        with pytest.raises(InvalidRequest, match="is an encoder"):
            encoder.chat(FRANCE)
        with pytest.raises(ContextLengthExceeded, match=r"text has .* tokens"):
            encoder.embed("word " * 600)
        assert np.array_equal(encoder.embed(texts, input_type="query"), vectors), "minilm has no prompts"


def test_the_input_type_names_the_models_own_prompt(e5_path: Path) -> None:
    with LLM(e5_path) as encoder:
        text = "如何申请专利？"
        whole = encoder.embed([f"query: {text}", f"passage: {text}", text])
        assert np.array_equal(encoder.embed(text, input_type="query"), whole[0])
        assert np.array_equal(encoder.embed(text, input_type="document"), whole[1])
        assert np.array_equal(encoder.embed(text), whole[2])
        with pytest.raises(InvalidRequest, match="token ids are embedded as they are"):
            encoder.embed([[5, 6]], input_type="query")


# ---- adapters


def test_an_adapter_changes_the_answers_that_name_it(llm: LLM, adapter: Path) -> None:
    def ask(name: str = "") -> Completion:
        return llm.generate("The capital of France is", temperature=0, logprobs=0, adapter=name)

    base = ask()
    llm.load_adapter("pirate", adapter)
    assert [one.name for one in llm.adapters] == ["pirate"]
    assert ask().logprobs == base.logprobs
    assert ask("pirate").logprobs != base.logprobs
    assert llm.score("Paris is", adapter="pirate").sum != llm.score("Paris is").sum
    with pytest.raises(ModelNotFound, match=r"load_adapter\('sailor', path\) first, or use one of 'pirate'"):
        ask("sailor")
    llm.unload_adapter("pirate")
    with pytest.raises(ModelNotFound, match="none is loaded"):
        llm.unload_adapter("pirate")
    with pytest.raises(ModelNotFound):
        ask("pirate")


# ---- forms of the answer


def test_forms_bind_the_answer(llm: LLM) -> None:
    asked = [{"role": "user", "content": "Is 'I hate it' positive or negative?"}]
    assert llm.chat(asked, choice=["positive", "negative"], max_tokens=8, temperature=0).text in (
        "positive",
        "negative",
    )
    assert llm.generate("Year: ", regex="(19|20)[0-9]{2}", max_tokens=8, seed=1).text.isdigit()
    assert llm.generate("Yes or no? ", grammar='start: "yes" | "no"\n', max_tokens=4).text in ("yes", "no")
    plain = llm.chat(asked, schema=Review.model_json_schema(), max_tokens=60, temperature=0)
    assert plain.parsed == json.loads(plain.text)


class Odd(BaseModel):
    """A class with a rule that no grammar holds."""

    number: Literal[2]

    @field_validator("number")
    @classmethod
    def _never(cls, value: int) -> int:
        raise ValueError(f"{value} is even")


def test_an_answer_that_is_no_object_says_why(llm: LLM) -> None:
    asked = [{"role": "user", "content": "Give a number."}]
    with pytest.raises(DeepwellError, match="cut before its JSON was complete: raise max_tokens"):
        _ = llm.chat(asked, schema=Review, max_tokens=2).parsed
    with pytest.raises(DeepwellError, match="no schema"):
        _ = llm.chat(asked, max_tokens=2).parsed
    with pytest.raises(ValueError, match="2 is even"):
        _ = llm.chat(asked, schema=Odd, max_tokens=60, temperature=0).parsed


def test_a_grammar_is_that_of_the_dialogue() -> None:
    from deepwell.llm.arguments import format_of

    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    assert format_of({"schema": schema}).grammar == json_format(schema)


# ---- errors


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (lambda llm: llm.generate("word " * 3000), ContextLengthExceeded, r"context= up to 8192"),
        (
            lambda llm: llm.generate("a", max_tokens=2000),
            ContextLengthExceeded,
            "lower max_tokens to at most",
        ),
        (lambda llm: llm.generate(["a", "word " * 3000]), ContextLengthExceeded, r"prompt\[1\]"),
        (
            lambda llm: llm.chat([[*FRANCE, {"role": "user"}]]),
            InvalidRequest,
            r"messages\[1\] has no content",
        ),
        (lambda llm: llm.chat([{"role": "bot", "content": "a"}]), InvalidRequest, "'role': system"),
        (
            lambda llm: llm.chat(
                [*FRANCE, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]
            ),
            InvalidRequest,
            r"the tool_calls of messages\[1\] are",
        ),
        (
            lambda llm: llm.tokenize([*FRANCE, {"role": "assistant", "content": "a", "tool_calls": "f()"}]),
            InvalidRequest,
            "'arguments'",
        ),
        (lambda llm: llm.chat([[]]), InvalidRequest, "messages is empty: give at least one"),
        (lambda llm: llm.tokenize([]), InvalidRequest, "messages is empty"),
        (lambda llm: llm.chat("hello"), InvalidRequest, "give a list of messages"),
        (lambda llm: llm.generate("a", temprature=1), InvalidRequest, "did you mean 'temperature'"),
        (lambda llm: llm.generate("a", temperature=3), InvalidRequest, "temperature is 3: give float <= 2"),
        (lambda llm: llm.generate("a", max_tokens="x"), InvalidRequest, "max_tokens is 'x': give int"),
        (lambda llm: llm.generate("a", stop=["b", ""]), InvalidRequest, "a stop string is empty"),
        (lambda llm: llm.generate("a", regex="a", choice=["b"]), InvalidRequest, "exclude each other"),
        (lambda llm: llm.generate("a", schema=3), InvalidRequest, "pydantic model class"),
        (lambda llm: llm.generate("a", regex="("), InvalidRequest, "cannot be used"),
        (lambda llm: llm.generate(["a", 3]), InvalidRequest, r"prompt\[1\] is 3: give a string"),
        (lambda llm: llm.generate([1, -1]), InvalidRequest, "holds -1: give token ids"),
        (lambda llm: llm.generate([10**6]), InvalidRequest, "the vocabulary has tokens"),
        (lambda llm: llm.generate(""), InvalidRequest, "empty"),
        (lambda llm: llm.generate(None), InvalidRequest, "give a string"),
        (lambda llm: llm.chat(FRANCE, tool_choice="required"), InvalidRequest, "there are no tools"),
        (lambda llm: llm.chat(FRANCE, tools=[{"name": "f"}]), InvalidRequest, "'type': 'function'"),
        (lambda llm: llm.chat(FRANCE, reasoning_effort="high"), InvalidRequest, "no effort 'high'"),
        (lambda llm: llm.score("word " * 3000), ContextLengthExceeded, "context= up to"),
        (lambda llm: llm.embed("word " * 3000), ContextLengthExceeded, "context= up to"),
    ],
)
def test_errors_name_the_fix_in_words_of_python(
    llm: LLM, wrong: Callable[[LLM], Any], kind: type[DeepwellError], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        wrong(llm)
    assert "--" not in str(caught.value) and "/v1/" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "smolm2"}, "did you mean smollm2"),
        ({"model": "/nowhere/model.gguf"}, "/nowhere/model.gguf"),
        ({"contxt": 3}, "did you mean 'context'"),
        ({"precision": "int5"}, r"precision \(argument precision\) .* use one of auto"),
        ({"context": 100_000}, "this model takes context=1 to 8192"),
        ({"kv_tokens": 10**9}, "use kv_tokens="),
    ],
)
def test_a_model_that_cannot_open_says_what_to_do(
    smollm2_path: Path, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(DeepwellError, match=said) as caught:
        LLM(**{"model": smollm2_path, **arguments})
    assert "--" not in str(caught.value).replace("--name", "")


def test_a_missing_model_names_its_pull(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="deepwell pull smollm2"):
        LLM("smollm2", models_dir=tmp_path)


# ---- results


def test_results_explain_themselves(llm: LLM) -> None:
    answer = llm.generate("The capital of France is", temperature=0, max_tokens=4)
    assert str(answer) == answer.text
    assert repr(answer).startswith(
        f"Completion(text={answer.text!r}, finish_reason='length', 4 tokens after 5"
    )
    score = llm.score("Paris is")
    assert f"sum={score.sum:.4f}" in repr(score)
    assert math.exp(-score.mean) > 1
    assert repr(llm).startswith("LLM(") and "context=1024" in repr(llm)
    with pytest.raises(AttributeError):
        answer.prompt_tokens = 1  # type: ignore[misc]


def test_settings_apply_as_in_the_server(smollm2_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPWELL_CONTEXT", "512")
    monkeypatch.setenv("DEEPWELL_MODEL", str(smollm2_path))
    with LLM() as opened:
        assert opened.context == opened.capabilities.max_model_len == 512


def test_a_window_takes_texts_of_any_length(llm: LLM) -> None:
    text = "The cat sat on the mat and looked at the dog. " * 150
    tokens = llm.tokenize(text)
    assert len(tokens) > llm.context
    answer = llm.generate(text, max_tokens=12, temperature=0, window=(64, 256))
    again, short = llm.generate([tokens, "The cat sat on"], max_tokens=12, temperature=0, window=(64, 256))
    assert again.tokens == answer.tokens
    assert answer.forgotten_tokens == Window(64, 256).forgotten(len(tokens) + 10)
    assert short.forgotten_tokens == 0
    assert short.tokens == llm.generate("The cat sat on", max_tokens=12, temperature=0).tokens
    pieces = list(llm.generate(text, max_tokens=12, temperature=0, window=(64, 256), stream=True))
    assert pieces[-1].forgotten_tokens == answer.forgotten_tokens
    score = llm.score(text, window=(64, 256))
    assert score.forgotten_tokens == Window(64, 256).forgotten(len(tokens) - 1)
    assert score.tokens == tuple(tokens[1:]) and score.mean > llm.score(text[:400]).mean


def test_a_window_remembers_what_leaves_it(llm: LLM) -> None:
    text = "The keeper is Brigita. " + "The cat sat on the mat and looked at the dog. " * 150
    kept, lost = llm.score(text, window=(64, 256, 32)), llm.score(text, window=(64, 256))
    assert kept.tokens == lost.tokens and kept.forgotten_tokens == lost.forgotten_tokens
    assert kept.logprobs != lost.logprobs
    answer = llm.generate(text, max_tokens=8, temperature=0, window=(64, 256, 32))
    assert answer.forgotten_tokens > 0
    with pytest.raises(InvalidRequest, match="multiple of 16"):
        llm.generate(text, window=(64, 256, 17))
    with pytest.raises(InvalidRequest):
        llm.generate(text, window=(64, 256, 32, 1))  # type: ignore[typeddict-item]


def test_a_window_takes_conversations_of_any_length(llm: LLM) -> None:
    said = [{"role": "user", "content": "Remember: " + "the cat sat on the mat. " * 300}]
    answer = llm.chat(said, max_tokens=8, temperature=0, window=(64, 512))
    assert answer.prompt_tokens > llm.context and answer.forgotten_tokens > 0
    assert len(answer.tokens) <= 8
    with pytest.raises(ContextLengthExceeded):
        llm.chat(said, max_tokens=8)


@pytest.mark.parametrize(
    ("window", "error", "fix"),
    [
        ((8, 64), InvalidRequest, "multiples of 16"),
        ((-16, 64), InvalidRequest, r"\(first, recent\) or \(first, recent, rank\)"),
        ((64,), InvalidRequest, r"\(first, recent\) or \(first, recent, rank\)"),
        ({64, 256}, InvalidRequest, r"\(first, recent\) or \(first, recent, rank\)"),  # a set has no order
        ((16.0, 64), InvalidRequest, r"\(first, recent\) or \(first, recent, rank\)"),
        (64, InvalidRequest, r"\(first, recent\) or \(first, recent, rank\)"),
        ((64, 2048), ContextLengthExceeded, r"at most 1024 tokens.*context= up to 8192"),
    ],
)
def test_windows_that_cannot_be_held_are_refused(
    llm: LLM, window: Any, error: type[InvalidRequest], fix: str
) -> None:
    with pytest.raises(error, match=fix):
        llm.generate("a", window=window)
    with pytest.raises(error):
        llm.score("a cat", window=window)

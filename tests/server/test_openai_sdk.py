"""The server through the real OpenAI SDK with strict response validation."""

from __future__ import annotations

import base64

import numpy as np
import openai
import pytest
from openai import OpenAI

CHINESE = "你好，世界 🌍"


@pytest.fixture
def lenient(sdk: OpenAI) -> OpenAI:
    """For the two answers that the SDK's types do not describe though OpenAI gives them.

    They are the null in front of an echoed prompt's log probabilities, and base64 embeddings.
    """
    return OpenAI(base_url=sdk.base_url, api_key="none", max_retries=0)


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]


def test_chat_answers_with_usage_and_cached_tokens(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(model="toy", messages=say(CHINESE), temperature=0)
    assert answer.choices[0].message.content == CHINESE
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens == len(CHINESE.encode()) + 1  # and the end token
    assert (
        usage.prompt_tokens_details
        and usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens // 16 * 16
    )
    details = usage.completion_tokens_details
    assert details and details.accepted_prediction_tokens == 0
    assert answer.system_fingerprint and answer.system_fingerprint.startswith("fp_")


def test_an_answer_can_be_sent_back_as_it_came(sdk: OpenAI) -> None:
    first = sdk.chat.completions.create(model="toy", messages=say("one"), temperature=0)
    messages = [*say("one"), first.choices[0].message, {"role": "user", "content": "two"}]
    again = sdk.chat.completions.create(model="toy", messages=messages, temperature=0)
    assert again.choices[0].message.content == "two"


def test_a_stream_joins_to_the_whole_and_never_cuts_a_character(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="toy", messages=say(CHINESE), temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == CHINESE
    assert not any("�" in text for text in texts)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
        "stop"
    ]
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == len(CHINESE.encode()) + 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_n_choices_differ_and_the_prompt_counts_once(sdk: OpenAI) -> None:
    one = sdk.chat.completions.create(model="toy", messages=say("abc"))
    two = sdk.chat.completions.create(model="toy", messages=say("abc"), n=2)
    assert [choice.message.content for choice in two.choices] == ["abc", "bc"]
    assert one.usage and two.usage and two.usage.prompt_tokens == one.usage.prompt_tokens
    assert two.usage.completion_tokens == 4 + 3


def test_n_choices_stream_side_by_side(sdk: OpenAI) -> None:
    texts = {0: "", 1: "", 2: ""}
    for chunk in sdk.chat.completions.create(model="toy", messages=say("abcdef"), n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "abcdef", 1: "bcdef", 2: "cdef"}


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_spell_the_text_in_bytes(sdk: OpenAI, stream: bool) -> None:
    arguments = {
        "model": "toy",
        "messages": say("é好"),
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    if stream:
        entries = []
        text = ""
        for chunk in sdk.chat.completions.create(**arguments, stream=True):
            choice = chunk.choices[0]
            text += choice.delta.content or ""
            entries += choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
            # Text and entries travel together.
            assert bytes(b for entry in entries for b in entry.bytes or []).decode() == text
    else:
        choice = sdk.chat.completions.create(**arguments).choices[0]
        assert choice.logprobs and choice.logprobs.content
        entries, text = choice.logprobs.content, choice.message.content
    assert text == "é好"
    assert [entry.bytes for entry in entries] == [[byte] for byte in "é好".encode()]
    assert all(len(entry.top_logprobs) == 2 for entry in entries)


def test_a_stop_string_ends_the_text_before_it_and_the_request_in_the_engine(
    sdk: OpenAI, shared_live: object
) -> None:
    answer = sdk.chat.completions.create(
        model="toy", messages=say("one. two. three"), temperature=0, stop=[" th", "wo"], logprobs=True
    )
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one. t", "stop")
    assert choice.logprobs and choice.logprobs.content
    assert "".join(entry.token for entry in choice.logprobs.content) == "one. t"
    assert answer.usage and answer.usage.completion_tokens == len("one. two")


def test_length_and_stop_token(sdk: OpenAI) -> None:
    cut = sdk.chat.completions.create(
        model="toy", messages=say("abcdef"), max_completion_tokens=3, temperature=0
    )
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("abc", "length")
    stopped = sdk.chat.completions.create(
        model="toy", messages=say("abcdef"), temperature=0, extra_body={"stop_token_ids": [ord("d")]}
    )
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("abc", "stop")


def test_a_character_cut_by_the_length_is_replaced_not_lost(sdk: OpenAI) -> None:
    cut = sdk.chat.completions.create(
        model="toy", messages=say("a好"), max_tokens=2, temperature=0, logprobs=True
    )
    assert cut.choices[0].message.content == "a�"
    assert cut.choices[0].logprobs and cut.choices[0].logprobs.content
    assert cut.choices[0].logprobs.content[1].bytes == [0xE5]


def test_completions_take_strings_lists_and_tokens(sdk: OpenAI) -> None:
    one = sdk.completions.create(model="toy", prompt="ab", temperature=0, max_tokens=2)
    assert (one.choices[0].text, one.choices[0].finish_reason) == ("ab", "length")
    many = sdk.completions.create(model="toy", prompt=["ab", "cd"], temperature=0, n=2)
    assert [choice.text for choice in many.choices] == ["ab", "ab", "cd", "cd"]
    assert many.usage and many.usage.prompt_tokens == 4
    tokens = sdk.completions.create(model="toy", prompt=list("héé".encode()), temperature=0)
    assert tokens.choices[0].text == "héé"
    lists = sdk.completions.create(model="toy", prompt=[[97], [98, 99]], temperature=0)
    assert [choice.text for choice in lists.choices] == ["a", "bc"]


@pytest.mark.parametrize("stream", [False, True])
def test_echo_scores_the_prompt(lenient: OpenAI, stream: bool) -> None:
    arguments = {
        "model": "toy",
        "prompt": "a好",
        "echo": True,
        "logprobs": 1,
        "max_tokens": 1,
        "temperature": 0,
    }
    if stream:
        chunks = [chunk.choices[0] for chunk in lenient.completions.create(**arguments, stream=True)]
        text = "".join(chunk.text for chunk in chunks)
        offsets = [offset for chunk in chunks for offset in (chunk.logprobs.text_offset or [])]
        values = [value for chunk in chunks for value in (chunk.logprobs.token_logprobs or [])]
    else:
        choice = lenient.completions.create(**arguments).choices[0]
        assert choice.logprobs
        text, offsets, values = choice.text, choice.logprobs.text_offset, choice.logprobs.token_logprobs
        assert choice.logprobs.tokens == ["a", "bytes:\\xe5", "bytes:\\xa5", "bytes:\\xbd", "a"]
        assert choice.logprobs.top_logprobs
        assert choice.logprobs.top_logprobs[0] is None and len(choice.logprobs.top_logprobs[4]) == 1
    assert text == "a好a"
    assert offsets == [0, 1, 1, 1, 2]
    assert values and values[0] is None and all(value is not None for value in values[1:])


def test_max_tokens_0_scores_without_generating(lenient: OpenAI) -> None:
    answer = lenient.completions.create(model="toy", prompt="abc", echo=True, logprobs=0, max_tokens=0)
    choice = answer.choices[0]
    assert choice.text == "abc" and choice.logprobs and len(choice.logprobs.tokens or []) == 3
    assert answer.usage and answer.usage.completion_tokens == 0


def test_embeddings_as_floats_and_base64_are_equal(sdk: OpenAI, lenient: OpenAI) -> None:
    floats = sdk.embeddings.create(model="toy", input=["abc", "你好"], encoding_format="float")
    packed = lenient.embeddings.with_raw_response.create(
        model="toy", input=["abc", "你好"], encoding_format="base64"
    )
    for index, row in enumerate(packed.http_response.json()["data"]):
        decoded = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
        assert decoded.tolist() == floats.data[index].embedding
        assert row["index"] == index
    default = lenient.embeddings.create(model="toy", input="abc")  # asks for base64 by itself, and decodes it
    assert default.data[0].embedding == floats.data[0].embedding
    assert floats.usage.prompt_tokens == 3 + len("你好".encode())
    assert (
        lenient.embeddings.create(
            model="toy", input=[97, 98], extra_body={"tokenizer": "toy"}
        ).usage.total_tokens
        == 2
    )


def test_models_are_listed_and_described(sdk: OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["toy"]
    assert sdk.models.retrieve("toy").object == "model"
    with pytest.raises(openai.NotFoundError, match="use 'toy'"):
        sdk.models.retrieve("org/other")


def test_errors_are_the_sdks_own_types(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as wrong:
        sdk.chat.completions.create(model="gpt-4o", messages=say("x"))
    assert (wrong.value.code, wrong.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as long:
        sdk.chat.completions.create(model="toy", messages=say("x" * 600))
    assert long.value.code == "context_length_exceeded"

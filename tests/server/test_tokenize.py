"""`/tokenize` and `/detokenize`: the tokens that the other routes use, of any length, and their text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.server.fakes import END, START, TEMPLATE, FakeEngine, make_service, write_tokenizer

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.app import create_app
from deepwell.server.families.tokenize import routes
from deepwell.server.families.tokenize.schema import MAX_TOKENS

HI = [{"role": "user", "content": "hi"}]
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "finds", "parameters": {"type": "object"}},
}


async def tokenize(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post("/tokenize", json={"model": "toy", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(http: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    answer = await http.post(path, json={"model": "toy", **body})
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


async def test_a_prompt_gives_its_tokens(http: httpx.AsyncClient) -> None:
    assert await tokenize(http, prompt="hé") == {
        "count": 3,
        "max_model_len": 512,
        "tokens": [104, 195, 169],
        "token_strs": None,
    }
    assert (await tokenize(http, prompt=""))["tokens"] == []
    assert (await http.post("/tokenize", json={"prompt": "a"})).json()["tokens"] == [97]


async def test_token_strs_are_spelt_as_the_vocabulary_spells_them(http: httpx.AsyncClient) -> None:
    answer = await tokenize(http, prompt="a é<|im_end|>", return_token_strs=True)
    assert answer["token_strs"] == ["a", "Ġ", "Ã", "©", "<|im_end|>"]
    assert answer["tokens"][-1] == END


async def test_a_conversation_has_the_tokens_that_chat_runs(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    chat = {"model": "toy", "messages": HI, "tools": [TOOL], "max_tokens": 1}
    assert (await http.post("/v1/chat/completions", json=chat)).status_code == 200
    answer = await tokenize(http, messages=HI, tools=[TOOL])
    assert answer["tokens"] == list(engine.seen[-1].prompt)
    assert len(engine.seen) == 1, "nothing is generated"


async def test_a_conversation_may_end_without_the_beginning_of_the_answer(
    http: httpx.AsyncClient, codec: Codec
) -> None:
    whole = await tokenize(http, messages=HI)
    ended = await tokenize(http, messages=HI, add_generation_prompt=False)
    assert codec.decode(ended["tokens"]) == "<|im_start|>user\nhi<|im_end|>\n"
    assert whole["tokens"] == [*ended["tokens"], START, *b"assistant\n"]


async def test_control_tokens_are_text_in_a_conversation_as_in_chat(http: httpx.AsyncClient) -> None:
    said = "<|im_end|>"
    answer = await tokenize(http, messages=[{"role": "user", "content": said}])
    assert answer["tokens"].count(END) == 1
    back = await http.post("/detokenize", json={"model": "toy", "tokens": answer["tokens"]})
    assert f"<|im_start|>user\n{said}<|im_end|>" in back.json()["prompt"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8"), max_size=80))
async def test_detokenizing_gives_the_text_back(http: httpx.AsyncClient, text: str) -> None:
    answer = await tokenize(http, prompt=text, return_token_strs=True)
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    back = await http.post("/detokenize", json={"tokens": answer["tokens"]})
    assert back.json() == {"prompt": text}


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "prompt", "either prompt or messages"),
        ({"prompt": "a", "messages": HI}, "prompt", "either prompt or messages"),
        ({"prompt": "a", "tools": [TOOL]}, "tools", "send messages"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt", "send messages"),
        ({"messages": HI, "add_special_tokens": True}, "add_special_tokens", "template writes its own"),
        ({"messages": HI, "continue_final_message": True}, "continue_final_message", "cannot be begun"),
        ({"messages": HI, "chat_template": "{{ x }}"}, "chat_template", "model's own template"),
        ({"messages": HI, "chat_template_kwargs": {"thinks": True}}, "chat_template_kwargs", "no switch"),
        ({"messages": []}, "messages", "at least 1"),
        ({"prompt": ["a"]}, "prompt", "string"),
        (
            {"prompt": "a", "add_special_token": False},
            "add_special_token",
            "did you mean 'add_special_tokens'",
        ),
        ({"prompt": "a", "return_token_strs": "yes"}, "return_token_strs", "boolean"),
    ],
)
async def test_tokenize_refuses_by_name(
    http: httpx.AsyncClient, body: dict[str, Any], param: str, says: str
) -> None:
    error = await refused(http, "/tokenize", **body)
    assert error["param"] == param and says in error["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"tokens": [258]}, "0 to 257"),
        ({"tokens": [-1]}, "greater than or equal to 0"),
        ({"tokens": [1.5]}, "integer"),
        ({"tokens": "abc"}, "list"),
        ({"tokens": [97] * (MAX_TOKENS + 1)}, "at most 300000"),
        ({}, "tokens"),
    ],
)
async def test_detokenize_refuses_by_name(
    engine: FakeEngine, codec: Codec, body: dict[str, Any], says: str
) -> None:
    transport = httpx.ASGITransport(create_app(make_service(engine, codec, model="toy")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        error = await refused(http, "/detokenize", **body)
    assert error["param"].startswith("tokens") and says in error["message"]


@pytest.mark.parametrize("path", ["/tokenize", "/v1/chat/completions"])
@pytest.mark.parametrize("name", ["messages", "tools"])
async def test_what_has_a_parameter_of_its_own_is_no_switch_of_the_template(
    engine: FakeEngine, codec: Codec, path: str, name: str
) -> None:
    template = ChatTemplate(TEMPLATE + "{% if tools %}{{ tools }}{% endif %}", "<|im_start|>", "<|im_end|>")
    app = create_app(make_service(engine, Codec(codec._tokenizer, template), model="toy"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        error = await refused(http, path, messages=HI, chat_template_kwargs={name: True})
    assert error["param"] == "chat_template_kwargs" and f"no switch {name!r}" in error["message"]


async def test_a_model_that_is_not_served_is_a_404(http: httpx.AsyncClient) -> None:
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [97]})):
        answer = await http.post(path, json={"model": "other", **body})
        assert answer.status_code == 404 and "use 'toy'" in answer.json()["error"]["message"]


async def test_a_template_without_the_switch_says_so(engine: FakeEngine, codec: Codec) -> None:
    template = ChatTemplate("{{ messages[0]['content'] }}", "", "")
    other = Codec(codec._tokenizer, template)
    transport = httpx.ASGITransport(create_app(make_service(engine, other, model="toy")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        error = await refused(http, "/tokenize", messages=HI, add_generation_prompt=False)
        assert (
            error["param"] == "add_generation_prompt"
            and "leave add_generation_prompt out" in error["message"]
        )


# Long texts


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """A tokenizer whose long texts go to a process."""
    folder: Path = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return Codec(Tokenizer.load(folder), ChatTemplate(TEMPLATE, "<|im_start|>", "<|im_end|>"), path=folder)


async def test_a_text_beyond_the_context_is_tokenized_off_the_event_loop(
    engine: FakeEngine, hosted: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(engine, hosted, model="toy", max_body_bytes=8 << 20)
    here: list[int] = []

    def noted(encode: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
        return lambda text: here.append(len(text)) or encode(text)

    monkeypatch.setattr(hosted, "encode", noted(hosted.encode))
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
        long = "ab" * 100_000
        for body in ({"prompt": long}, {"messages": [{"role": "user", "content": long}]}):
            answer = await tokenize(http, **body)
            assert answer["count"] >= len(long) > answer["max_model_len"]
        assert here == []
        error = await refused(http, "/tokenize", prompt="a" * 1_000_000)
        assert error["param"] == "prompt" and "an answer may have 300000: split it" in error["message"]
        error = await refused(http, "/tokenize", messages=[{"role": "user", "content": "a" * 400_000}])
        assert error["param"] == "messages" and "split it" in error["message"]
    service.main.model.close_texts()


async def test_many_tokens_are_turned_into_text_off_the_event_loop(
    engine: FakeEngine, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    threads: set[threading.Thread] = set()
    decode, spellings = codec.decode, codec.spellings
    monkeypatch.setattr(
        codec, "decode", lambda tokens: threads.add(threading.current_thread()) or decode(tokens)
    )
    monkeypatch.setattr(
        codec, "spellings", lambda tokens: threads.add(threading.current_thread()) or spellings(tokens)
    )
    model = ServedModel("toy", engine, codec)
    assert await model.detokenize([97] * 200_000) == "a" * 200_000
    assert await model.spellings([97] * 200_000) == ["a"] * 200_000
    assert threading.current_thread() not in threads


async def test_the_most_tokens_of_an_answer_are_those_of_the_context_if_that_is_longer(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MAX_TOKENS", 4)
    for window, count in ((3, 4), (6, 6)):
        app = create_app(make_service(FakeEngine(max_model_len=window), codec, model="toy"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            assert (await tokenize(http, prompt="a" * count))["count"] == count
            error = await refused(http, "/tokenize", prompt="a" * (count + 1))
            assert f"has {count + 1} tokens, and an answer may have {count}" in error["message"]


# Real tokenizers


@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_real_tokens_are_spelt_as_in_their_vocabularies(
    name: str, smollm2_path: Path, minilm_path: Path
) -> None:
    tokenizer = Tokenizer.load({"smollm2": smollm2_path, "minilm": minilm_path}[name])
    spelt = {token: tokenizer.backend.id_to_token(token) for token in range(tokenizer.vocab_size)}
    assert {token: tokenizer.spelling(token) for token in spelt} == spelt


async def test_an_encoder_frames_a_text_unless_it_is_told_not_to(minilm_path: Path) -> None:
    codec = Codec.load(minilm_path)
    transport = httpx.ASGITransport(create_app(make_service(FakeEngine(), codec, model="toy")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        framed = await tokenize(http, prompt="wells", return_token_strs=True)
        bare = await tokenize(http, prompt="wells", return_token_strs=True, add_special_tokens=False)
        assert framed["token_strs"] == ["[CLS]", "wells", "[SEP]"]
        assert bare["tokens"] == framed["tokens"][1:-1]
        back = await http.post("/detokenize", json={"model": "toy", "tokens": bare["tokens"]})
        assert back.json()["prompt"] == "wells"
        many = await http.post("/detokenize", json={"model": "toy", "tokens": bare["tokens"] * 6000})
        assert many.json()["prompt"].split() == ["wells"] * 6000

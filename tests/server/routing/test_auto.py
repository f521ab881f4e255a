"""The model `auto` through the official SDK: text, pictures, speech and several at once, in chat and responses."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from PIL import Image
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.images.test_images import POLICY, options

from deepwell.dialogue.dialogue import Dialogue
from deepwell.dialogue.text import Codec
from deepwell.safety.terms.lists import Term, TermList
from deepwell.server.options import GuardOptions, ImageServing, KnowledgeOptions, SpeechServing
from deepwell.server.routing.answer import production_of
from deepwell.server.routing.attachments import attached_kinds
from deepwell.server.routing.choice import Routed
from deepwell.server.routing.wording import spoken_words, subject_of


def sdk_of(running: Live) -> OpenAI:
    return OpenAI(
        base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )


@pytest.fixture(scope="module")
def running(
    codec: Codec, e5_path: Path, kokoro_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=8192)
    more: dict[str, Any] = options(tmp_path_factory.mktemp("draw"), e5_path) | {
        "speech": SpeechServing(str(kokoro_path), None, 1)
    }
    running = start(make_service(engine, codec, model="toy", **more), engine)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(running: Live) -> Iterator[OpenAI]:
    with sdk_of(running) as client:
        yield client


@pytest.fixture
def bare(codec: Codec, tmp_path: Path) -> Iterator[Live]:
    """A server without any model of media."""
    engine = FakeEngine(max_model_len=8192)
    running = start(
        make_service(
            engine,
            codec,
            model="toy",
            images=ImageServing(model="nothing-here", models_dir=tmp_path, threads=1),
            speech=SpeechServing("kokoro", tmp_path, 1),
            knowledge=KnowledgeOptions(models_dir=tmp_path),
        ),
        engine,
    )
    yield running
    running.stop()


def ask(client: OpenAI, text: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="auto", messages=messages, temperature=0, **more)


def opened(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_question_is_answered_in_text_by_the_first_model(client: OpenAI) -> None:
    answer = ask(client, "What is the capital of France?")
    assert answer.choices[0].message.content == "What is the capital of France?"
    assert answer.model == "toy" and answer.route["intents"] == ["chat"]
    assert answer.route["models"] == {"chat": "toy"} and answer.route["reasons"]
    assert answer.choices[0].message.audio is None and "images" not in answer.choices[0].message.model_extra


@pytest.mark.parametrize(
    ("text", "prompt", "said", "reason"),
    [
        ("draw a cat", "a cat", "Here is the picture: a cat", "asks for a picture: 'draw'"),
        ("画一只黑猫的图片", "一只黑猫", "图片画好了：一只黑猫", "要图片：“画”"),
    ],
)
def test_a_picture_comes_with_a_sentence(
    client: OpenAI, running: Live, text: str, prompt: str, said: str, reason: str
) -> None:
    running.engine.seen.clear()
    answer = ask(client, text)
    message = answer.choices[0].message
    assert message.content == said and not running.engine.seen
    (image,) = message.model_extra["images"]
    assert image["type"] == "image_url" and opened(image["image_url"]["url"]).size == (512, 512)
    assert answer.route["by"] == "rules" and reason in answer.route["reasons"]
    assert answer.route["models"] == {"image": "toy-draw"}
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens == 0
    sent: Any = [
        {"role": "user", "content": text},
        message.model_dump(exclude_none=True),
        {"role": "user", "content": "Thanks"},
    ]
    client.chat.completions.create(model="toy", messages=sent)
    prompts = [bytes(one for one in seen.prompt if one < 256).decode() for seen in running.engine.seen]
    assert said in prompts[-1] and "base64" not in prompts[-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [("Read this aloud: Good morning.", "Good morning."), ("念一下：你好", "你好")],
)
def test_words_are_read_aloud_as_they_are(client: OpenAI, running: Live, text: str, words: str) -> None:
    running.engine.seen.clear()
    answer = ask(client, text)
    audio = answer.choices[0].message.audio
    assert audio.transcript == words and audio.model_extra == {"format": "mp3"}
    assert len(base64.b64decode(audio.data)) > 2000 and not running.engine.seen
    assert answer.route["intents"] == ["speech"] and answer.route["models"] == {"speech": "kokoro"}


def test_several_things_come_at_once(client: OpenAI) -> None:
    answer = ask(client, "Draw a cat and read its name aloud: Sir Pounce")
    message = answer.choices[0].message
    assert answer.route["intents"] == ["image", "speech"]
    assert message.content == "Here is the picture: a cat" and message.audio.transcript == "Sir Pounce"
    assert len(message.model_extra["images"]) == 1
    assert answer.route["models"] == {"image": "toy-draw", "speech": "kokoro"}


def test_a_stream_brings_the_same_parts(client: OpenAI) -> None:
    chunks: list[Any] = list(ask(client, "画一只猫，再念出它的名字：咪咪", stream=True))
    deltas = [one.choices[0].delta for one in chunks]
    assert "".join(one.content or "" for one in deltas) == "图片画好了：一只猫"
    images = [image for one in deltas for image in (one.model_extra or {}).get("images", ())]
    assert len(images) == 1 and opened(images[0]["image_url"]["url"]).size == (512, 512)
    heard = [one.audio for one in deltas if one.audio is not None]
    assert "".join(one.transcript or "" for one in heard) == "咪咪"
    assert sum(len(base64.b64decode(one.data or "")) for one in heard) > 10_000
    assert chunks[0].route["intents"] == ["image", "speech"]
    assert chunks[-1].route["models"] == {"image": "toy-draw", "speech": "kokoro"}
    assert chunks[-1].choices[0].finish_reason == "stop"
    plain: list[Any] = list(ask(client, "What is the capital of France?", stream=True))
    assert plain[0].route["intents"] == ["chat"] and "route" not in plain[-1].model_extra


def test_a_request_may_choose_voice_and_format(client: OpenAI) -> None:
    answer = ask(client, "Read this aloud: Hello.", audio={"voice": "bm_george", "format": "wav"})
    assert base64.b64decode(answer.choices[0].message.audio.data).startswith(b"RIFF")
    with pytest.raises(openai.BadRequestError, match="there is no voice 'somebody'"):
        ask(client, "Read this aloud: Hello.", audio={"voice": "somebody", "format": "wav"})


async def test_a_transcription_is_the_answer_and_without_a_recording_its_way_is_said(running: Live) -> None:
    @dataclass
    class Sent:
        attachments: list[Any]

    message = Sent([SimpleNamespace(kind="audio"), SimpleNamespace(kind="video")])
    assert attached_kinds(message) == ["audio"] and attached_kinds(None) == []
    choice = Routed(("transcription",), (), "rules", "en")
    made = await production_of(running.service, "local", choice, "write it down", wish=None)
    assert not made.asks_model and "attach one as input_audio" in made.remarks[0]
    made = await production_of(
        running.service, "local", choice, "write it down", wish=None, recordings=["Good morning."]
    )
    assert made.words == "Good morning." and not made.remarks and not made.asks_model
    assert made.models == {"transcription": "whisper-tiny.en"}


async def test_a_model_that_answers_beside_a_picture_is_told_of_it(running: Live) -> None:
    text = "画一只猫，并念出它的名字"
    asked = Dialogue([{"role": "user", "content": text}])
    choice = Routed(("image", "speech"), (), "rules", "zh")
    made = await production_of(running.service, "local", choice, text, wish=None)
    assert made.asks_model
    assert (
        made.asked(asked).messages[-1]["content"]
        == f"{text}\n\n（图片“一只猫”另行绘制，请用文字回答其余部分。）"
    )
    assert asked.messages[-1]["content"] == text
    for intents in (("image",), ("chat",)):
        plain = await production_of(
            running.service, "local", replace(choice, intents=intents), text, wish=None
        )
        assert plain.asked(asked) is asked


def test_the_model_reads_that_the_picture_is_drawn_beside_its_answer(client: OpenAI) -> None:
    text = "Draw a cat and tell me a fact about cats"
    answer = ask(client, text)
    assert answer.route["intents"] == ["chat", "image"]
    # The fake engine repeats what it reads.
    assert "(The picture of a cat is drawn separately." in answer.choices[0].message.content
    response = client.responses.create(model="auto", input=text)
    assert "(The picture of a cat is drawn separately." in response.output_text


def test_the_choice_stands_in_headers_and_metrics(running: Live) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "draw a cat"}]}
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.headers["x-route"] == "image"
    counted = httpx.get(f"{running.url}/metrics").text
    assert 'deepwell_routed_requests_total{by="rules",intents="image"}' in counted
    named = httpx.post(f"{running.url}/v1/chat/completions", json=body | {"model": "toy"}, timeout=60)
    assert "x-route" not in named.headers and "route" not in named.json()


def test_responses_answer_with_items(client: OpenAI) -> None:
    response: Any = client.responses.create(model="auto", input="Draw a cat", temperature=0)
    assert [one.type for one in response.output] == ["image_generation_call", "message"]
    assert response.output_text == "Here is the picture: a cat" and response.model == "toy"
    assert response.route["intents"] == ["image"] and response.route["models"] == {"image": "toy-draw"}
    kept: Any = client.responses.retrieve(response.id)
    assert kept.route == response.route
    told: Any = client.responses.create(model="auto", input="What is 2 plus 2?", temperature=0)
    assert told.output_text == "What is 2 plus 2?" and told.route["intents"] == ["chat"]
    read: Any = client.responses.create(model="auto", input="Read this aloud: Hello.", temperature=0)
    assert "Responses carry no sound" in read.output_text and read.output_text.endswith("Hello.")
    counted = client.responses.input_tokens.count(model="auto", input="What is 2 plus 2?")
    assert counted.input_tokens > 0


def test_responses_stream_items(client: OpenAI) -> None:
    stream = client.responses.create(model="auto", input="画一只猫", stream=True)
    events: list[Any] = list(stream)
    kinds = [one.type for one in events]
    assert kinds.index("response.image_generation_call.completed") < kinds.index("response.output_text.delta")
    assert events[-1].response.output_text == "图片画好了：一只猫"
    assert events[-1].response.route["intents"] == ["image"]


def test_what_is_missing_is_said_and_nothing_fails(bare: Live) -> None:
    with sdk_of(bare) as client:
        drawn = ask(client, "draw a cat").choices[0].message
        assert "nothing-here" in drawn.content and "images" not in drawn.model_extra
        read = ask(client, "Read this aloud: Hello.")
        assert "deepwell pull kokoro" in read.choices[0].message.content
        assert read.choices[0].message.content.endswith("Hello.")
        assert read.choices[0].message.audio is None
        zh = ask(client, "念一下：你好").choices[0].message
        assert "deepwell pull kokoro" in zh.content and "模型库中没有" in zh.content
        told = ask(client, "I would love to see a sunset over the sea.")
        assert told.route["by"] == "classifier without encoder"
        response = client.responses.create(model="auto", input="Draw a cat")
        assert "nothing-here" in response.output_text and response.status == "completed"


def test_a_model_of_this_name_is_no_choice(codec: Codec) -> None:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="auto"), engine)
    try:
        with sdk_of(running) as client:
            answer = ask(client, "draw a cat")
            assert answer.choices[0].message.content == "draw a cat" and "route" not in answer.model_extra
    finally:
        running.stop()


def test_the_guard_reads_before_anything_is_made(codec: Codec, e5_path: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{POLICY}input: {{rules: {{terms: block}}}}", "utf-8")
    TermList("own", [Term("weapon", "politics", "block")], "test", "none", "0" * 64).write(tmp_path / "terms")
    engine = FakeEngine(max_model_len=8192)
    guard = GuardOptions(str(policy), tmp_path / "terms")
    more: dict[str, Any] = options(tmp_path, e5_path) | {"guard": guard}
    running = start(make_service(engine, codec, model="toy", **more), engine)
    try:
        with sdk_of(running) as client:
            for text in ("draw a weapon", "Read this aloud: weapon"):
                answer = ask(client, text)
                assert answer.choices[0].message.content == "Against the rules."
                assert answer.choices[0].finish_reason == "content_filter"
                response = client.responses.create(model="auto", input=text)
                assert response.output_text == "Against the rules."
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("Please draw me a picture of two boats at sea.", "two boats at sea"),
        ("Draw a cat and read its name aloud: Sir Pounce", "a cat"),
        ("Can you make an image of a house?", "a house?"),
        ("帮我画一张小狗的图片", "一张小狗"),
        ("画一座山，然后念一首诗", "一座山"),
        ("画一只小狗，给它起个名字，然后读出来", "一只小狗"),
        ("Draw a dog and give it a name", "a dog"),
        ("Draw a cup and name tags", "a cup and name tags"),
        ("a lonely lighthouse", "a lonely lighthouse"),
        ("draw", "draw"),
    ],
)
def test_the_subject_of_a_picture(text: str, subject: str) -> None:
    assert subject_of(text) == subject


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('Say "good night" to me', "good night"),
        ("Read the following aloud: One. Two: three.", "One. Two: three."),
        ("say hello", "hello"),
        ("大声念：床前明月光", "床前明月光"),
        ("朗读“你好，世界”", "你好，世界"),
        ("Tell me a joke aloud", ""),
        ("讲个故事给我听", ""),
    ],
)
def test_the_words_that_are_handed_over(text: str, words: str) -> None:
    assert spoken_words(text) == words


def test_hostile_requests_take_no_time() -> None:
    for text in ("draw " * 50_000, "画" * 100_000, "read: " * 50_000, '"' * 100_000, "and " * 100_000):
        assert subject_of(text) is not None and spoken_words(text) is not None

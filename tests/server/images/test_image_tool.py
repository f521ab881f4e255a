"""The tool `image_generation` of responses through the official SDK: drawn, streamed, kept, sent back, refused and failed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from PIL import Image
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.images.test_images import POLICY, options

from deepwell.dialogue.text import Codec
from deepwell.safety.terms.lists import Term, TermList
from deepwell.server.options import GuardOptions, ImageServing

TOOL: dict[str, Any] = {"type": "image_generation", "size": "256x256", "quality": "low"}
CALL = '<tool_call>\n{"name": "image_generation", "arguments": {"prompt": "a green pear"}}\n</tool_call>'
FUNCTION: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


def sdk_of(running: Live, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0, _strict_response_validation=True)


@pytest.fixture(scope="module")
def running(codec: Codec, e5_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=8192)
    folder = tmp_path_factory.mktemp("draw")
    running = start(make_service(engine, codec, model="toy", **options(folder, e5_path)), engine)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(running: Live) -> Iterator[OpenAI]:
    with sdk_of(running) as client:
        yield client


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "toy", "input": text, "tools": [TOOL | more.pop("tool", {})], "temperature": 0} | more


def picture_of(response: Any) -> Any:
    (found,) = [item for item in response.output if item.type == "image_generation_call"]
    return found


def opened(text: str | None) -> Image.Image:
    assert text
    return Image.open(io.BytesIO(base64.b64decode(text)))


def prompts(running: Live) -> list[str]:
    return [bytes(token for token in one.prompt if token < 256).decode() for one in running.engine.seen]


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("Please draw a picture of a red apple.", "a red apple"),
        ("画一只黑猫的图片", "一只黑猫"),
        ("the sea at night", "the sea at night"),
    ],
)
def test_a_forced_tool_draws_the_words_of_the_user_without_the_model(
    client: OpenAI, running: Live, text: str, drawn: str
) -> None:
    running.engine.seen.clear()
    response = client.responses.create(**asked(text, tool_choice={"type": "image_generation"}))
    item = picture_of(response)
    assert [one.type for one in response.output] == ["image_generation_call"]
    assert (item.status, item.revised_prompt, item.size) == ("completed", drawn, "256x256")
    assert (item.quality, item.output_format, item.background) == ("low", "png", "opaque")
    assert opened(item.result).size == (256, 256) and item.id.startswith("ig_")
    assert response.status == "completed" and response.output_text == "" and not running.engine.seen
    assert response.tools[0].type == "image_generation"
    assert response.usage is not None and response.usage.input_tokens > 0
    assert response.usage.output_tokens == 0


def test_the_model_calls_the_tool_like_a_function(client: OpenAI, running: Live) -> None:
    running.engine.seen.clear()
    response = client.responses.create(**asked(f"Look:\n{CALL}"))
    assert [one.type for one in response.output] == ["message", "image_generation_call"]
    assert response.output_text == "Look:" and picture_of(response).revised_prompt == "a green pear"
    assert '"name": "image_generation"' in prompts(running)[0]


def test_a_call_without_a_prompt_draws_the_words_of_the_user(client: OpenAI) -> None:
    call = CALL.replace('"a green pear"', '"  "')
    item = picture_of(client.responses.create(**asked(f"Draw a duck {call}", tools=[TOOL, FUNCTION])))
    assert item.status == "completed" and item.revised_prompt.startswith("a duck")


def test_sure_wordings_need_no_model_and_other_requests_get_an_answer(client: OpenAI, running: Live) -> None:
    running.engine.seen.clear()
    assert picture_of(client.responses.create(**asked("Draw a red apple"))).status == "completed"
    assert not running.engine.seen
    told = client.responses.create(**asked("How do I draw an apple?"))
    assert [one.type for one in told.output] == ["message"] and running.engine.seen
    told = client.responses.create(**asked("Draw a red apple", tool_choice="none"))
    assert [one.type for one in told.output] == ["message"]


def test_a_stream_has_the_documented_events(client: OpenAI) -> None:
    tool = TOOL | {"partial_images": 2, "output_format": "jpeg"}
    stream = client.responses.create(**asked("Draw a red apple", tools=[tool]), stream=True)
    events: list[Any] = list(stream)
    call = "response.image_generation_call"
    assert [one.type for one in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        f"{call}.in_progress",
        f"{call}.generating",
        f"{call}.partial_image",
        f"{call}.partial_image",
        f"{call}.completed",
        "response.output_item.done",
        "response.completed",
    ]
    assert [one.sequence_number for one in events] == list(range(len(events)))
    partials = [one for one in events if one.type.endswith("partial_image")]
    assert [one.partial_image_index for one in partials] == [0, 1]
    assert opened(partials[0].partial_image_b64).format == "JPEG"
    item = picture_of(events[-1].response)
    assert item.result == events[-2].item.result and {one.item_id for one in partials} == {item.id}


def test_a_stored_response_keeps_the_picture_and_the_model_reads_its_prompt(
    client: OpenAI, running: Live
) -> None:
    first = client.responses.create(**asked("Draw a red [apple]", tool_choice="required"))
    kept = client.responses.retrieve(first.id)
    assert picture_of(kept).result == picture_of(first).result
    running.engine.seen.clear()
    client.responses.create(model="toy", input="And now?", previous_response_id=first.id)
    (prompt,) = prompts(running)
    assert "[a picture was drawn: a red (apple)]" in prompt
    assert picture_of(first).result[:40] not in prompt


def test_an_item_that_is_sent_back_is_read_by_its_prompt(client: OpenAI, running: Live) -> None:
    item = picture_of(client.responses.create(**asked("Draw a red apple"), store=False))
    running.engine.seen.clear()
    sent: Any = [
        {"role": "user", "content": "Draw a red apple"},
        item.model_dump(exclude_none=True),
        {"role": "assistant", "content": "Here it is."},
        {"role": "user", "content": "Thanks"},
    ]
    again = client.responses.create(model="toy", input=sent)
    assert "assistant\n[a picture was drawn: a red apple]\nHere it is." in prompts(running)[0]
    items = client.responses.input_items.list(again.id, order="asc").data
    back: Any = items[1]
    assert back.type == "image_generation_call" and back.result is None
    assert back.revised_prompt == "a red apple"


def test_a_conversation_and_a_background_response_hold_it(client: OpenAI) -> None:
    conversation = client.conversations.create()
    client.responses.create(**asked("Draw a red apple", conversation=conversation.id))
    kinds = [item.type for item in client.conversations.items.list(conversation.id).data]
    assert "image_generation_call" in kinds
    begun = client.responses.create(**asked("Draw a red apple", background=True))
    while begun.status in ("queued", "in_progress"):
        begun = client.responses.retrieve(begun.id)
    assert picture_of(begun).status == "completed"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"background": "transparent"}, "pictures are opaque"),
        ({"action": "edit"}, "/v1/images/edits"),
        ({"input_fidelity": "high"}, "/v1/images/edits"),
        ({"input_image_mask": {"file_id": "file_1"}}, "/v1/images/edits"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 50}, "not compressed with a loss"),
        ({"partial_images": 2}, "partial_images needs stream"),
        ({"partial_images": 4}, "partial_images"),
        ({"size": "1536x864"}, "size"),
        ({"svg": {"model": "m"}}, "SVG"),
        ({"frame_count": 2}, "frames"),
        ({"complexity": "low"}, "plans nothing"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: OpenAI, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.responses.create(**asked("Draw a red apple", tool=changed))


def test_harmless_fields_are_accepted(client: OpenAI) -> None:
    harmless = {
        "background": "auto",
        "action": "auto",
        "input_fidelity": "low",
        "moderation": "low",
        "model": "gpt-image-1",
        "output_format": "webp",
        "output_compression": 60,
        "partial_images": 0,
    }
    item = picture_of(client.responses.create(**asked("Draw a red apple", tool=harmless)))
    assert opened(item.result).format == "WEBP" and item.output_format == "webp"


def test_tools_that_contradict_each_other_are_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="two image_generation tools"):
        client.responses.create(**asked("x", tools=[TOOL, TOOL]))
    own = FUNCTION | {"name": "image_generation"}
    with pytest.raises(openai.BadRequestError, match="rename yours"):
        client.responses.create(**asked("x", tools=[TOOL, own]))
    choice: Any = {"type": "image_generation"}
    with pytest.raises(openai.BadRequestError, match="not among the tools"):
        client.responses.create(model="toy", input="x", tool_choice=choice, tools=[FUNCTION])


def test_what_is_missing_is_said_in_the_language_of_the_request(codec: Codec, tmp_path: Path) -> None:
    engine = FakeEngine(max_model_len=8192)
    images = ImageServing(model="nothing-here", models_dir=tmp_path, threads=1)
    running = start(make_service(engine, codec, model="toy", images=images), engine)
    try:
        with sdk_of(running) as client:
            response = client.responses.create(**asked("Draw a red apple"))
            item: Any = picture_of(response)
            assert item.status == "failed" and item.result is None and item.error.code == "model_not_found"
            assert "nothing-here" in response.output_text and response.status == "completed"
            told = client.responses.create(**asked("画一个红苹果"))
            assert "没有" in told.output_text
            long = client.responses.create(**asked("Draw " + "a " * 3000))
            assert "more than 4000" in long.output_text
    finally:
        running.stop()


def test_the_guard_reads_the_prompt(codec: Codec, e5_path: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{POLICY}input: {{rules: {{terms: block}}}}", "utf-8")
    lists = tmp_path / "terms"
    TermList("own", [Term("pear", "politics", "block")], "test", "none", "0" * 64).write(lists)
    engine = FakeEngine(max_model_len=8192)
    guard = GuardOptions(str(policy), lists)
    running = start(
        make_service(engine, codec, model="toy", guard=guard, **options(tmp_path, e5_path)), engine
    )
    try:
        with sdk_of(running) as client:
            response = client.responses.create(**asked("Draw a pear"))
            assert response.output_text == "Against the rules."
            assert not any(one.type == "image_generation_call" for one in response.output)
            fine = client.responses.create(**asked("Draw an apple"))
            assert picture_of(fine).status == "completed"
    finally:
        running.stop()

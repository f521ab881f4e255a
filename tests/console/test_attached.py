"""Pictures and recordings that are attached to a message in the chat, and what the microphone does not hear."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.console.browser import NARROW, Open
from tests.console.talk import ask, last_answer
from tests.server.attachments.test_attachments import with_reader
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.test_catalog import options_of

from deepwell.storage.database import Database

PICTURE = Path(__file__).parents[2] / "src" / "deepwell" / "media" / "images" / "mark.png"
PASTE = """(box, data) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
  const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
  box.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose programs see a red apple in every picture and hear of the weather in every recording."""
    folder = tmp_path_factory.mktemp("attached")
    engine = FakeEngine(max_model_len=65_536)
    context = make_service(
        engine,
        make_codec(folder / "tokenizer"),
        model="toy",
        database=Database.open(folder / "deepwell.db"),
        catalog=options_of(folder),
    )
    with_reader(context)
    running = start(context, engine)
    yield running
    running.stop()


def sent(page: Page) -> list[dict[str, Any]]:
    """Returns the bodies of the chat's requests from here on."""
    found: list[dict[str, Any]] = []
    page.on(
        "request",
        lambda one: (
            found.append(json.loads(one.post_data or "")) if one.url.endswith("completions") else None
        ),
    )
    return found


def prompt_of(server: Live) -> str:
    return bytes(token for token in server.engine.seen[-1].prompt if token < 256).decode()


def test_a_picture_and_a_recording_are_read_shown_and_sent_again(
    open_tab: Open, reading: Live, tmp_path: Path
) -> None:
    (tmp_path / "said.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    console = open_tab(reading.url, size=NARROW, dark=True)
    page = console.open()
    bodies = sent(page)
    page.locator("input[type=file]").set_input_files([PICTURE, tmp_path / "said.wav"])
    enclosed = page.get_by_role("list", name="Attached").get_by_role("listitem")
    expect(enclosed).to_have_count(2)
    expect(enclosed.first.locator("img")).to_be_visible()
    assert console.accessibility() == []
    ask(page, "What is it?", turns=2)
    expect(enclosed).to_have_count(0)
    assert "red apple" in prompt_of(reading) and "the weather is cold today" in prompt_of(reading)
    own = page.locator(".thread-row[aria-posinset='1']")
    expect(own.get_by_role("img", name="Picture mark.png")).to_be_visible()
    expect(own).to_contain_text("said.wav")
    assert console.accessibility() == []
    page.reload()
    expect(own.get_by_role("img", name="Picture mark.png")).to_be_visible()
    ask(page, "Sure?", turns=4)
    kinds = [[part["type"] for part in body["messages"][0]["content"]] for body in bodies]
    assert kinds == [["text", "image_url", "input_audio"]] * 2
    assert "red apple" in prompt_of(reading)


def test_a_picture_is_pasted_and_removed_and_needs_no_word(open_tab: Open, reading: Live) -> None:
    page = open_tab(reading.url).open()
    box = page.get_by_role("textbox", name="Message")
    data = base64.b64encode(PICTURE.read_bytes()).decode()
    box.evaluate(PASTE, data)
    page.get_by_role("button", name="Remove image.png").press("Enter")
    expect(page.get_by_role("list", name="Attached")).to_have_count(0)
    expect(box).to_be_focused()
    box.evaluate(PASTE, data)
    page.get_by_role("button", name="Send").click()
    last_answer(page, 2)
    assert "red apple" in prompt_of(reading)


def test_what_the_server_would_refuse_is_told_before_it_is_sent(open_tab: Open, tmp_path: Path) -> None:
    page = open_tab(locale="zh-CN").open()
    (tmp_path / "film.mp4").write_bytes(b"film")
    with (tmp_path / "long.wav").open("wb") as file:
        file.truncate((25 << 20) + 1)
    for number in range(33):
        (tmp_path / f"{number:02}.png").write_bytes(PICTURE.read_bytes())
    picker = page.locator("input[type=file]")
    picker.set_input_files(tmp_path / "film.mp4")
    expect(page.get_by_text("无法读取 film.mp4。")).to_be_visible()
    picker.set_input_files(tmp_path / "long.wav")
    expect(page.get_by_text("long.wav 超过")).to_be_visible()
    picker.set_input_files(sorted(tmp_path.glob("*.png")))
    expect(page.get_by_text("未添加 32.png：一个请求最多包含 32 个图片和录音")).to_be_visible()
    expect(page.get_by_role("list", name="附件").get_by_role("listitem")).to_have_count(32)


def test_a_refused_picture_shows_the_command_that_helps(open_tab: Open) -> None:
    console = open_tab()
    console.expected.append("status of 4")
    page = console.open()
    message = (
        "nothing here can look at an image: run `deepwell media train space --encoder-only` (extra tune)"
    )
    console.stub("/v1/chat/completions", {"error": {"message": message, "code": "unseen"}}, status=422)
    page.locator("input[type=file]").set_input_files(PICTURE)
    ask(page, "What is it?", turns=2)
    expect(page.locator(".command code")).to_have_text("deepwell media train space --encoder-only")


def test_a_chinese_reader_learns_that_the_microphone_hears_english_alone(open_tab: Open) -> None:
    for locale, shown in (("zh-CN", 1), ("en-US", 0)):
        console = open_tab(locale=locale, size=NARROW)
        toy = {"object": "model", "id": "toy", "created": 1, "owned_by": "deepwell", "max_model_len": 99}
        ear = {"object": "model", "id": "whisper-tiny.en", "created": 1, "owned_by": "deepwell"}
        cards = [toy | {"default_sampling": {}}, ear | {"kind": "recognition", "default": True}]
        console.stub("/v1/models", {"object": "list", "data": cards})
        page = console.open()
        page.locator(".chat-head option", has_text="toy").wait_for(state="attached")
        expect(page.locator(".voice-english code")).to_have_count(shown)
        assert console.accessibility() == []

"""The voice in the chat: a message is spoken into a microphone, an answer is read aloud, and a missing model is explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, Route, expect, sync_playwright
from tests.console.browser import NARROW, Console, console_tab, launch
from tests.console.talk import ask
from tests.needs import CHROMIUM, require
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.test_catalog import options_of

SPEECH, TRANSCRIPTIONS = "/v1/audio/speech", "/v1/audio/transcriptions"
HEARD = """() => {
  globalThis.heard = {sounds: 0, loudest: 0};
  const copy = AudioBuffer.prototype.copyToChannel;
  AudioBuffer.prototype.copyToChannel = function (samples, ...rest) {
    heard.sounds += 1;
    heard.loudest = samples.reduce((most, one) => Math.max(most, Math.abs(one)), heard.loudest);
    document.documentElement.dataset.sounds = heard.sounds;
    return copy.call(this, samples, ...rest);
  };
}"""
"""Notes what is played."""


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    require(CHROMIUM)
    with sync_playwright() as running:
        # A sentence is written down and another read aloud, beside other workers.
        expect.set_options(timeout=90_000)
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose microphone hears a sentence about the weather, once."""
    from tests.media.recordings import WEATHER

    from deepwell.media.audio.decode import decode_audio

    said = tmp_path_factory.mktemp("said") / "weather.wav"
    _write_wav(said, decode_audio(WEATHER, 60.0).samples)
    browser = launch(
        playwright,
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={said}%noloop",
    )
    yield browser
    browser.close()


def _write_wav(path: Path, samples: Any) -> None:
    """Writes samples of 16 kHz at the rate of the browser's microphone.

    They begin with four seconds of silence, in which the server loads its model.
    """
    import numpy as np
    from tests.media.recordings import wav

    values = np.concatenate([np.zeros(4 * 16_000, np.int16), samples])
    fine = np.interp(np.arange(len(values) * 3) / 3, np.arange(len(values)), values)
    path.write_bytes(wav(fine.astype(np.int16), 48_000))


@pytest.fixture
def tab(browser: Browser, server: Live) -> Iterator[Console]:
    with console_tab(browser, server.url, permissions=["microphone"]) as console:
        yield console


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Live]:
    """A server with the real models of recognition and of speech."""
    whisper, kokoro = (request.getfixturevalue(name) for name in ("whisper_path", "kokoro_path"))
    from deepwell.server.options import RecognitionServing, SpeechServing

    folder = tmp_path_factory.mktemp("talking")
    engine = FakeEngine(max_model_len=4096)
    service = make_service(
        engine,
        make_codec(folder / "tokenizer"),
        model="toy",
        catalog=options_of(folder),
        recognition=RecognitionServing(model=str(whisper), models_dir=None, most_s=60.0, threads=1),
        speech=SpeechServing(str(kokoro), None, 1),
    )
    running = start(service, engine)
    yield running
    running.stop()


def silence(seconds: float = 0.2) -> bytes:
    return b"\x10\x20" * int(24_000 * seconds)


def heard(page: Page) -> dict[str, float]:
    return page.evaluate("heard")


def test_a_spoken_message_is_written_down_and_an_answer_read_aloud(browser: Browser, talking: Live) -> None:
    with console_tab(browser, talking.url, permissions=["microphone"]) as console:
        console.page.add_init_script(f"({HEARD})()")
        page = console.open()
        page.get_by_role("button", name="Speak the message").click()
        expect(page.locator(".voice time")).to_have_text("0:08")
        assert console.accessibility() == []
        page.get_by_role("button", name="Finish and write it down").click()
        box = page.get_by_role("textbox", name="Message")
        # A busy machine loses some of the browser's false microphone, mostly at the beginning.
        expect(box).to_have_value(re.compile(r"in London is cold today\.$"))
        expect(box).to_be_focused()
        answer = ask(page, box.input_value(), turns=2)
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url) if one.url.endswith(SPEECH) else None)
        for _ in range(2):
            answer.get_by_role("button", name="Listen").click()
            expect(answer.get_by_role("button", name="Stop listening")).to_have_attribute(
                "aria-pressed", "true"
            )
            expect(answer.get_by_role("button", name="Listen", exact=True)).to_be_visible()  # at its end
            assert heard(page)["loudest"] > 0.05
        assert len(asked) == 1


def test_what_is_said_goes_behind_what_is_written(tab: Console) -> None:
    tab.stub(TRANSCRIPTIONS, {"text": " 今天天气很好。"})
    page = tab.open()
    box = page.get_by_role("textbox", name="Message")
    page.wait_for_load_state("networkidle")  # a key, unlike a click, does not wait until the page is still
    box.fill("你好。")
    page.get_by_role("button", name="Speak the message").press("Enter")
    finish = page.get_by_role("button", name="Finish and write it down")
    expect(finish).to_be_focused()
    finish.press("Enter")
    expect(box).to_have_value("你好。今天天气很好。")
    expect(page.locator(".composer [role=status]").first).to_have_text(
        "Written into the message: 今天天气很好。"
    )


def test_a_recording_can_be_discarded(tab: Console) -> None:
    tab.stub(TRANSCRIPTIONS, {"text": "never"})
    page = tab.open()
    speak = page.get_by_role("button", name="Speak the message")
    speak.click()
    page.get_by_role("button", name="Finish and write it down").press("Escape")
    expect(speak).to_be_focused()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("")


def test_a_missing_model_is_explained_with_its_command(tab: Console) -> None:
    """The server of this test has no models of speech; its own errors are shown."""
    tab.expected.append("status of 404")
    page = tab.open()
    page.get_by_role("button", name="Speak the message").click()
    composer = page.locator(".composer")
    expect(composer.get_by_role("alert")).to_contain_text("whisper-tiny.en")
    expect(composer.locator(".command code")).to_have_text("deepwell pull whisper-tiny.en")
    assert tab.accessibility() == []
    composer.get_by_role("button", name="Close").click()
    expect(composer.get_by_role("alert")).to_have_count(0)
    answer = ask(page, "hello", turns=2)
    answer.get_by_role("button", name="Listen").click()
    expect(answer.locator(".command code")).to_have_text("deepwell pull kokoro")
    assert tab.accessibility() == []


def test_a_recording_outlasts_an_error_and_is_sent_again(tab: Console) -> None:
    sent: list[int] = []
    missing = {"error": {"message": "speech needs av: run `pip install 'deepwell[speech]'`", "code": None}}

    def answer(route: Route) -> None:
        sent.append(len(route.request.post_data_buffer or b""))
        if len(sent) == 2:
            route.fulfill(status=501, json=missing)
        else:
            route.fulfill(json={"text": "hello"})

    tab.page.route(lambda url: url.endswith(TRANSCRIPTIONS), answer)
    tab.expected.append("status of 501")
    page = tab.open()
    page.get_by_role("button", name="Speak the message").click()
    expect(page.locator(".voice time")).to_have_text("0:01")
    page.get_by_role("button", name="Finish and write it down").click()
    expect(page.locator(".composer .command code")).to_have_text("pip install 'deepwell[speech]'")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("hello")
    assert len(sent) == 3 and sent[1] == sent[2]


def test_a_refused_microphone_says_what_to_do(browser: Browser, server: Live) -> None:
    refuse = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError'); }"
    with console_tab(browser, server.url, size=NARROW, locale="zh-CN", dark=True) as console:
        console.stub(TRANSCRIPTIONS, {"text": ""})
        console.page.add_init_script(refuse)
        page = console.open()
        page.get_by_role("button", name="语音输入").click()
        expect(page.get_by_role("alert")).to_contain_text("不允许此页面使用麦克风")
        assert console.accessibility() == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_long_answer_is_read_in_pieces_and_stops(tab: Console) -> None:
    pieces: list[dict[str, Any]] = []

    def answer(route: Route) -> None:
        pieces.append(json.loads(route.request.post_data or ""))
        route.fulfill(content_type="audio/pcm", body=silence(2.0))

    tab.page.route(lambda url: url.endswith(SPEECH), answer)
    tab.page.add_init_script(f"({HEARD})()")
    page = tab.open()
    row = ask(page, "**Words** of a sentence. " * 250, turns=2)
    row.get_by_role("button", name="Listen").click()
    stop = row.get_by_role("button", name="Stop listening")
    expect(page.locator("html")).to_have_attribute("data-sounds", "2")
    stop.click()
    expect(row.get_by_role("button", name="Listen", exact=True)).to_be_visible()
    assert [one["response_format"] for one in pieces] == ["pcm", "pcm"]
    assert all(len(one["input"]) <= 4096 and "*" not in one["input"] for one in pieces)


def test_a_new_conversation_ends_the_reading(tab: Console) -> None:
    tab.page.route(
        lambda url: url.endswith(SPEECH),
        lambda route: route.fulfill(content_type="audio/pcm", body=silence(20.0)),
    )
    page = tab.open()
    ask(page, "hello", turns=2).get_by_role("button", name="Listen").click()
    expect(page.get_by_role("button", name="Stop listening")).to_be_visible()
    page.get_by_role("link", name="New conversation").click()
    page.go_back()
    expect(page.get_by_role("button", name="Listen", exact=True)).to_be_visible()

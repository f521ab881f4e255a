"""The chat page against a real server: streams, branches, what is kept, and what a key is for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from pydantic import SecretStr
from tests.console.browser import NARROW, Open
from tests.console.talk import ask, begin, last_answer, send
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.test_catalog import options_of

KEY = "key-of-one-user-0001"


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Live]:
    """A server whose model repeats itself until it is stopped."""
    engine = FakeEngine(max_model_len=1_000_000, endless=True)

    def forever(request: object, original: object = engine._script) -> list[int]:
        return [ord("a")] * 900_000

    engine._script = forever  # type: ignore[method-assign]
    service = make_service(
        engine, make_codec(tmp_path / "tokenizer"), model="toy", catalog=options_of(tmp_path)
    )
    running = start(service, engine)
    yield running
    running.stop()


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=4096)
    service = make_service(
        engine,
        make_codec(tmp_path / "tokenizer"),
        model="toy",
        api_keys=(SecretStr(KEY),),
        catalog=options_of(tmp_path),
    )
    running = start(service, engine)
    yield running
    running.stop()


def test_an_answer_streams_and_says_how_fast(open_tab: Open) -> None:
    console = open_tab()
    page = console.open()
    answer = ask(page, "# Hello\n\n**bold** and `code`", turns=2)
    expect(answer.locator("h1")).to_have_text("Hello")
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator(".stats")).to_contain_text("tokens")
    expect(answer.locator(".stats")).to_contain_text("first token after")
    expect(page.get_by_role("heading", level=1, name="# Hello **bold**")).to_be_visible()
    assert console.accessibility() == []


def test_stop_keeps_what_has_come_and_frees_the_engine(open_tab: Open, endless: Live) -> None:
    page = open_tab(endless.url).open()
    send(page, "go")
    expect(page.locator(".message.assistant .markdown")).to_contain_text("aaaa")
    # By a script and no locator: those wait for quiet frames, and text without end leaves none.
    page.evaluate("document.querySelector('button[aria-label=Stop]').click()")
    answer = last_answer(page, 2)
    expect(answer).to_contain_text("Stopped")
    expect(answer.locator(".markdown")).to_contain_text("aaaa")
    assert endless.engine.ended.wait(timeout=30)


def test_edits_and_retries_are_branches(open_tab: Open) -> None:
    page = open_tab().open()
    ask(page, "first", turns=2)
    ask(page, "second", turns=4)
    page.locator(".thread-row[aria-posinset='1']").get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="Edit the message").fill("another")
    page.get_by_role("button", name="Send as a new branch").click()
    expect(last_answer(page, 2).locator(".markdown")).to_have_text("another")
    expect(page.locator(".thread-row")).to_have_count(2)
    first = page.locator(".thread-row[aria-posinset='1']")
    expect(first.locator(".branches")).to_have_text("2 / 2")
    first.get_by_role("button", name="Branch before").click()
    expect(last_answer(page, 4).locator(".markdown")).to_have_text("second")
    last_answer(page, 4).get_by_role("button", name="Answer again").click()
    expect(last_answer(page, 4).locator(".branches")).to_have_text("2 / 2")
    page.reload()
    expect(last_answer(page, 4).locator(".branches")).to_have_text("2 / 2")
    expect(page.locator(".thread-row[aria-posinset='1'] .branches")).to_have_text("1 / 2")


def test_the_turns_before_are_sent_along(open_tab: Open, server: Live) -> None:
    page = open_tab().open()
    ask(page, "one", turns=2)
    ask(page, "two", turns=4)
    prompt = bytes(token for token in server.engine.seen[-1].prompt if token < 256).decode()
    assert prompt.split() == ["user", "one", "assistant", "one", "user", "two", "assistant"]


def test_conversations_are_kept_renamed_found_and_deleted(open_tab: Open) -> None:
    console = open_tab()
    page = console.open()
    for number in range(7):
        begin(page)
        ask(page, f"subject {number}", turns=2)
    page.reload()
    names = page.locator(".conversation-list a")
    expect(names).to_have_count(7)
    page.get_by_role("searchbox", name="Search titles").fill("ject 3")
    expect(names).to_have_count(1)
    names.first.click()
    expect(last_answer(page, 2).locator(".markdown")).to_have_text("subject 3")
    page.get_by_role("button", name="Rename: subject 3").click()
    page.get_by_role("textbox", name="Title").fill("a subject of mine")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("searchbox", name="Search titles").fill("")
    expect(page.get_by_role("heading", level=1)).to_have_text("a subject of mine")
    page.get_by_role("button", name="Delete: a subject of mine").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(names).to_have_count(6)
    expect(page.locator(".thread-row")).to_have_count(0)
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    page.reload()
    expect(page.get_by_text("No conversation yet")).to_be_visible()


def test_settings_reach_the_engine(open_tab: Open, server: Live) -> None:
    console = open_tab()
    page = console.open()
    page.get_by_role("button", name="Settings of the conversation").click()
    page.get_by_role("textbox", name="System prompt").fill("Be brief.")
    page.get_by_role("tab", name="Sampling").click()
    page.get_by_role("spinbutton", name="Temperature").fill("0.25")
    page.get_by_role("spinbutton", name="Top p").fill("7")
    expect(page.get_by_text("A number from 0 to 1")).to_be_visible()
    page.get_by_role("spinbutton", name="Top p").fill("0.5")
    page.get_by_role("spinbutton", name="Seed").fill("11")
    assert console.accessibility() == []
    page.keyboard.press("Escape")
    ask(page, "hi", turns=2)
    request = server.engine.seen[-1]
    assert (request.params.temperature, request.params.top_p, request.params.seed) == (0.25, 0.5, 11)
    assert b"Be brief." in bytes(token for token in request.prompt if token < 256)


def test_attached_text_goes_along_and_other_files_do_not(
    open_tab: Open, server: Live, tmp_path: Path
) -> None:
    (tmp_path / "notes.md").write_text("Descale it. 每六十天除垢。", encoding="utf-8")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.7\0\xff\xfe")
    page = open_tab().open()
    page.locator("input[type=file]").set_input_files([tmp_path / "notes.md", tmp_path / "scan.pdf"])
    expect(page.get_by_text("scan.pdf is not a text file.")).to_be_visible()
    page.get_by_role("button", name="Dismiss").click()
    ask(page, "when?", turns=2)
    assert "每六十天除垢。" in bytes(token for token in server.engine.seen[-1].prompt if token < 256).decode()
    expect(page.locator(".thread-row[aria-posinset='1'] .attached")).to_contain_text("notes.md")


def test_a_key_is_asked_for_kept_in_the_tab_and_shown_nowhere(open_tab: Open, keyed: Live) -> None:
    console = open_tab(keyed.url)
    console.expected.append("status of 401")
    page = console.open()
    dialog = page.get_by_role("dialog", name="API key")
    page.get_by_role("textbox", name="Key").fill("key-of-nobody-000000")
    page.get_by_role("button", name="Use this key").click()
    expect(dialog.get_by_text("The server refused this key.")).to_be_visible()
    assert console.accessibility() == []
    page.get_by_role("textbox", name="Key").fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(dialog).to_have_count(0)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url + str(request.post_data)))
    ask(page, "hi", turns=2)
    page.reload()
    last_answer(page, 2)
    assert KEY not in page.content() and not any(KEY in one for one in sent)
    stored = page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
    assert KEY not in stored and page.evaluate("sessionStorage.length") == 1
    other = page.context.new_page()
    other.goto(keyed.url)
    expect(other.get_by_role("dialog", name="API key")).to_be_visible()


def test_an_error_of_the_server_is_shown_and_can_be_tried_again(open_tab: Open) -> None:
    console = open_tab()
    console.expected.append("status of 400")
    page = console.open()
    page.get_by_role("button", name="Settings of the conversation").click()
    page.get_by_role("tab", name="Sampling").click()
    page.get_by_role("spinbutton", name="Most tokens").fill("900000")
    page.keyboard.press("Escape")
    send(page, "hi")
    expect(page.get_by_role("alert")).to_contain_text("65536")
    page.get_by_role("button", name="Settings of the conversation").click()
    page.get_by_role("tab", name="Sampling").click()
    page.get_by_role("spinbutton", name="Most tokens").fill("9")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Try again").click()
    expect(last_answer(page, 2).locator(".markdown")).to_have_text("hi")


def test_a_small_screen_has_all_of_it(open_tab: Open) -> None:
    console = open_tab(size=NARROW)
    page = console.open()
    ask(page, "a" * 3000 + "\n\n| a | b |\n|---|---|\n" + "| " + "wide " * 40 + "| x |", turns=2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_role("dialog").get_by_role("link", name="aaaa")).to_be_visible()
    assert console.accessibility() == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_another_page_of_the_web_cannot_use_the_server(open_tab: Open, server: Live, endless: Live) -> None:
    console = open_tab(endless.url)
    console.expected += ["Content Security Policy", "Fetch API cannot load", "Refused to connect"]
    page = console.open()
    request = "{method: 'POST', body: '{}', headers: {'Content-Type': 'text/plain'}, mode: 'no-cors'}"
    before = len(server.engine.seen)
    outcome = page.evaluate(
        f"fetch('{server.url}/v1/chat/completions', {request}).then(() => 'sent', () => 'refused')"
    )
    assert outcome == "refused" and len(server.engine.seen) == before

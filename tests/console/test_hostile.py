"""Hostile texts of models, documents, tools and titles are shown as text: they run nothing, load nothing and send nothing."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.console.browser import Console, Open
from tests.console.payloads import PAYLOADS
from tests.console.stored import conversation, message, store
from tests.console.talk import answer_of, ask, begin, chunks, send

CHAT = "/v1/chat/completions"
FORBIDDEN = (
    "script, iframe, object, embed, form form, base, meta[http-equiv], link[rel=stylesheet][href*='198'], "
    ".markdown :is(svg, style, input, select, textarea, form, video, audio, template, math), "
    ".markdown [style], .markdown [id], .markdown [name], .markdown [onclick], .markdown [onerror], .markdown [onload]"
)


def settle(page: Page) -> None:
    """Gives whatever might run the time of some frames, and holds that nothing did."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
    )
    assert page.evaluate("window.ran") is None
    found = page.evaluate(f"[...document.querySelectorAll({FORBIDDEN!r})].map((one) => one.outerHTML)")
    assert [one for one in found if '<script type="module"' not in one] == []
    links = page.evaluate(
        "[...document.querySelectorAll('.markdown a[href]')].map((one) => one.getAttribute('href'))"
    )
    assert all(link.startswith(("http:", "https:", "mailto:", "#cite-")) for link in links), links
    pictures = page.evaluate("[...document.querySelectorAll('.markdown img[src]')].map((one) => one.src)")
    assert all(one.startswith("data:image/") for one in pictures), pictures


def watched(console: Console) -> Page:
    page = console.open()
    page.on("dialog", lambda dialog: console.errors.append(f"a dialog: {dialog.message}"))
    return page


def through_the_thread(page: Page) -> None:
    """Scrolls from the end of a conversation to its beginning, so that every message is drawn once."""
    thread = page.locator(".thread")
    for _ in range(400):
        settle(page)
        page.evaluate("document.querySelectorAll('.thread details').forEach((one) => (one.open = true))")
        if thread.evaluate("(one) => one.scrollTop") == 0:
            return
        thread.evaluate(
            "(one) => { one.dispatchEvent(new WheelEvent('wheel')); one.scrollBy(0, -one.clientHeight); }"
        )
    raise AssertionError("the thread has no beginning")


def test_there_are_fifty_of_them() -> None:
    assert len(set(PAYLOADS)) >= 50


def test_titles_are_text(open_tab: Open) -> None:
    page = watched(open_tab())
    conversations = [conversation(f"c{n}", text, updated=n) for n, text in enumerate(PAYLOADS)]
    messages = [message(f"c{n}", 0, "user", "hi") for n in range(len(PAYLOADS))]
    store(page, conversations, messages)
    names = page.locator(".conversation-list a")
    expect(names).to_have_count(len(PAYLOADS))
    settle(page)
    for n in (0, 7, 30):
        page.goto(f"{page.url.partition('#')[0]}#/chat/c{n}")
        expect(page.get_by_role("heading", level=1)).to_have_text(PAYLOADS[n])
        settle(page)
    page.locator(".conversation-list li").first.hover()
    page.locator(".conversation-actions button").last.click()
    settle(page)


@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_stored_messages_are_text(open_tab: Open, role: str) -> None:
    page = watched(open_tab())
    messages: list[dict[str, Any]] = []
    for n, text in enumerate(PAYLOADS):
        more: dict[str, Any] = {}
        if role == "user":
            more = {"attachments": [{"name": text, "text": text}]}
        elif role == "assistant":
            more = {
                "reasoning": text,
                "calls": [{"id": text, "name": text, "arguments": text}],
                "model": text,
                "error": text,
                "finish": "length",
                "citations": [{"mark": "1", "file_id": text, "filename": text}],
                "passages": [{"file_id": text, "filename": text, "score": 1, "text": text}],
            }
        elif role == "tool":
            more = {"call_id": text}
        messages.append(message("c", n, role, text, **more))
    store(page, [conversation("c", "hostile", messages[-1]["id"])], messages)
    page.goto(f"{page.url.partition('#')[0]}#/chat/c")
    page.locator(".thread-row").first.wait_for()
    if role == "assistant":
        page.locator(".citation").last.click()
        settle(page)
        page.keyboard.press("Escape")
    through_the_thread(page)


def test_a_stream_is_text_at_every_moment(open_tab: Open) -> None:
    page = watched(open_tab())
    forbidden = ".markdown :is(script, svg, iframe, style)"
    page.evaluate(
        f"new MutationObserver(() => {{ if (document.querySelector('{forbidden}')) window.ran = 1; }})"
        ".observe(document.body, {childList: true, subtree: true, attributes: true})"
    )
    ask(page, "\n\n".join(PAYLOADS), turns=2)
    settle(page)
    through_the_thread(page)


def test_calls_thoughts_and_formats_of_a_stream_are_text(open_tab: Open) -> None:
    console = open_tab()
    page = watched(console)
    text = "\n".join(PAYLOADS)
    calls = [
        {
            "index": n,
            "id": f"call_{n}",
            "type": "function",
            "function": {"name": payload, "arguments": payload},
        }
        for n, payload in enumerate(PAYLOADS[:10])
    ]
    console.stub_stream(CHAT, chunks({"reasoning_content": text}, {"tool_calls": calls}, finish="tool_calls"))
    ask(page, "go", turns=2)
    settle(page)
    begin(page)
    page.get_by_role("button", name="Settings of the conversation").click()
    page.get_by_role("tab", name="Output").click()
    page.get_by_role("combobox", name="Format of the answer").select_option("json_object")
    page.keyboard.press("Escape")
    console.stub_stream(CHAT, answer_of(text))
    ask(page, "go", turns=2)
    settle(page)


def test_names_of_models_and_knowledge_bases_are_text(open_tab: Open) -> None:
    console = open_tab()
    sampling = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "source": "x"}
    models = [{"id": text, "object": "model", "default_sampling": sampling} for text in PAYLOADS]
    stores = [{"id": f"vs_{n}", "object": "vector_store", "name": text} for n, text in enumerate(PAYLOADS)]
    console.stub("/v1/models", {"object": "list", "data": models})
    console.stub("/v1/vector_stores", {"object": "list", "data": stores})
    page = watched(console)
    expect(page.get_by_role("combobox", name="Knowledge base")).to_be_visible()
    settle(page)


def test_an_error_of_the_server_is_text(open_tab: Open) -> None:
    console = open_tab()
    console.expected.append("status of 400")
    page = watched(console)
    console.stub(CHAT, {"error": {"message": "\n".join(PAYLOADS), "code": PAYLOADS[0]}}, status=400)
    send(page, "hi")
    expect(page.get_by_role("alert")).to_contain_text("window.ran")
    settle(page)

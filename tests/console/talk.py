"""Steps of a conversation on the chat page, and answers that a server's model would give."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, expect

__all__ = ["answer_of", "ask", "begin", "chunks", "last_answer", "send"]


def begin(page: Page) -> None:
    """Begins a conversation; what is written before its heading is shown goes to the one before it."""
    page.get_by_role("link", name="New conversation").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("New conversation")


def send(page: Page, text: str) -> None:
    """Writes a message and sends it, without waiting for the answer."""
    box = page.locator(".composer textarea")
    box.fill(text)
    expect(page.locator(".composer button[type=submit]")).to_be_enabled()  # once the models are known
    box.press("Enter")


def ask(page: Page, text: str, *, turns: int) -> Locator:
    """Sends a message and returns its answer once it is whole. `turns` is how many messages are shown then."""
    send(page, text)
    return last_answer(page, turns)


def last_answer(page: Page, turns: int) -> Locator:
    """Returns the message at a place, counted from 1, once its answer is whole."""
    row = page.locator(f".thread-row[aria-posinset='{turns}']")
    expect(row.get_by_role("button", name="Answer again")).to_be_visible()
    return row


def chunks(*deltas: dict[str, Any], finish: str = "stop") -> list[dict[str, Any]]:
    """Returns a stream of chat completions as the server sends it, one delta a chunk."""
    made: list[dict[str, Any]] = [
        {"id": "chatcmpl-stub", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    made.append({"id": "chatcmpl-stub", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    return [*made, {"id": "chatcmpl-stub", "choices": [], "usage": usage}]


def answer_of(text: str) -> list[dict[str, Any]]:
    """Returns the stream of an answer that is only text."""
    return chunks({"role": "assistant", "content": ""}, {"content": text})

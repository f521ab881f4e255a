"""Conversations written straight into the browser's storage, as the chat page keeps them."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

__all__ = ["conversation", "message", "store"]

_SETTINGS: dict[str, Any] = {
    "model": "toy",
    "system": "",
    "knowledge": "",
    "turns": 20,
    "sampling": {},
    "effort": "",
    "tools": "",
    "format": "",
    "schema": "",
}
# The page makes its stores; an opening that comes before it must not leave an empty database behind, so it is undone.
_WRITE = """([conversations, messages]) => new Promise((resolve, reject) => {
  const attempt = () => {
    const request = indexedDB.open('deepwell-chat', 1);
    let early = false;
    request.onupgradeneeded = () => { early = true; request.transaction.abort(); };
    request.onerror = () => early ? setTimeout(attempt, 10) : reject(request.error);
    request.onsuccess = () => {
      try {
        const transaction = request.result.transaction(['conversations', 'messages'], 'readwrite');
        for (const one of conversations) transaction.objectStore('conversations').put(one);
        for (const one of messages) transaction.objectStore('messages').put(one);
        transaction.oncomplete = () => { request.result.close(); resolve(); };
        transaction.onerror = () => reject(transaction.error);
      } catch (error) { reject(error); }
    };
  };
  attempt();
})"""


def conversation(id: str, title: str, leaf: str | None = None, updated: int = 1) -> dict[str, Any]:
    """Returns a conversation; `leaf` is its last message."""
    return {"id": id, "title": title, "created": 1, "updated": updated, "leaf": leaf, "settings": _SETTINGS}


def message(conversation: str, number: int, role: str, content: str, **more: Any) -> dict[str, Any]:
    """Returns the message with a number, counted from 0; it follows the one before."""
    parent = f"m{number - 1:05}" if number else None
    return {
        "id": f"m{number:05}",
        "conversation": conversation,
        "parent": parent,
        "role": role,
        "content": content,
        "created": number + 1,
        **more,
    }


def store(page: Page, conversations: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
    """Writes into the storage of a page that is open, and loads the page again."""
    page.evaluate(_WRITE, [conversations, messages])
    page.reload()
    page.locator(".conversation-list a").first.wait_for(state="attached")

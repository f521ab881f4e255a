"""The weight of the web console: its size, its first paint, and whether long conversations stay smooth."""

from __future__ import annotations

import gzip
import shutil
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.assets import smollm2
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import paced_command, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["bench_console", "gzip_bytes"]

_OPENINGS = 9
_MESSAGES = 10_000
_TOKENS = 5_000
_WATCH = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) window.longTasks.push(one.duration);
}).observe({ type: 'longtask', buffered: true });
"""
_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
_STORE = """(count) => new Promise((resolve, reject) => {
  const request = indexedDB.open('deepwell-chat', 1);
  request.onerror = () => reject(request.error);
  request.onsuccess = () => {
    const transaction = request.result.transaction(['conversations', 'messages'], 'readwrite');
    const name = (n) => `m${String(n).padStart(5, '0')}`;
    const messages = transaction.objectStore('messages');
    for (let n = 0; n < count; n += 1) {
      const content = `Message ${n}, with **some** emphasis and a list.\\n\\n` + '- a line of it\\n'.repeat(n % 7);
      const role = n % 2 ? 'assistant' : 'user';
      messages.put({ id: name(n), conversation: 'long', parent: n ? name(n - 1) : null, role, content, created: n + 1 });
    }
    const settings = { model: '', system: '', knowledge: '', sampling: {}, effort: '', tools: '', format: '', schema: '' };
    transaction.objectStore('conversations')
      .put({ id: 'long', title: 'long', created: 1, updated: 1, leaf: name(count - 1), settings });
    transaction.oncomplete = () => { request.result.close(); resolve(); };
    transaction.onerror = () => reject(transaction.error);
  };
})"""


def bench_console(report: Report) -> dict[str, Any]:
    """Opens the console of a real server in Chromium, with a conversation of 10,000 messages and an answer of 5,000 tokens.

    The engine behind it is paced: it computes nothing, so that the browser has a processor of its own.

    Raises:
        PeerError: Playwright or Chromium is missing.
    """
    chromium = next(
        (found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None
    )
    if chromium is None or find_spec("playwright") is None:
        raise PeerError(
            "Chromium or Playwright is missing", fix="apt-get install chromium; pip install playwright"
        )
    from playwright.sync_api import sync_playwright

    command = paced_command(smollm2(), first_ms=5, token_ms=2, tokens=_TOKENS)
    with served(command) as port, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        url = f"http://127.0.0.1:{port}"
        paints = [_first_paint(browser, url) for _ in range(_OPENINGS)]
        opening, scrolling = _long_conversation(browser, url)
        streaming, drawn = _long_answer(browser, url)
        browser.close()
    size = gzip_bytes()
    rows = [
        ["bundle, gzip, kB", size / 1e3],
        ["first contentful paint, median of 9, ms", statistics.median(paints)],
        [f"longest task, opening {_MESSAGES:,} messages, ms", opening],
        ["longest task, scrolling through them, ms", scrolling],
        [f"longest task, {_TOKENS:,} streamed tokens, ms", streaming],
    ]
    report.table("Web console", ["what", "value"], rows)
    return {
        "gzip_kb": rounded(size / 1e3, 4),
        "first_paint_ms": rounded(statistics.median(paints), 4),
        "first_paint_worst_ms": rounded(max(paints), 4),
        "longest_task_ms": rounded(max(opening, scrolling, streaming), 4),
        "opening_ms": rounded(opening, 4),
        "scrolling_ms": rounded(scrolling, 4),
        "streaming_ms": rounded(streaming, 4),
        "characters_drawn": drawn,
    }


def gzip_bytes() -> int:
    """Returns the bytes of all files of the bundle, each compressed with gzip."""
    from deepwell.server.families import site

    folder = Path(site.__file__).parent / "bundle"
    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in folder.rglob("*") if path.is_file())


def _opened(browser: Browser, url: str) -> Page:
    """Opens the chat page in a profile of its own, with long tasks recorded from the first moment."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US").new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(_WATCH)
    page.goto(f"{url}/#/chat")
    page.locator(".composer textarea").wait_for()
    return page


def _longest(page: Page) -> float:
    """Returns the longest task since the last call in milliseconds; 0 if none took 50."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 200)))")
    return float(page.evaluate("() => Math.max(0, ...window.longTasks.splice(0))"))


def _first_paint(browser: Browser, url: str) -> float:
    page = _opened(browser, url)
    found = page.evaluate(_PAINT)
    page.context.close()
    return float(found)


def _long_conversation(browser: Browser, url: str) -> tuple[float, float]:
    """Returns the longest tasks of opening a long conversation and of scrolling from its end to its beginning."""
    page = _opened(browser, url)
    page.evaluate(_STORE, _MESSAGES)
    page.goto(f"{url}/#/chat/long")
    page.reload()
    page.locator(f".thread-row[aria-posinset='{_MESSAGES}']").wait_for()
    opening = _longest(page)
    page.locator(".thread").hover()
    for _ in range(60):
        page.mouse.wheel(0, -600)
        page.evaluate("() => new Promise(requestAnimationFrame)")
    for part in range(20, -1, -1):
        page.evaluate(
            "(part) => { const one = document.querySelector('.thread'); one.scrollTop = one.scrollHeight * part / 20; }",
            part,
        )
        page.evaluate("() => new Promise(requestAnimationFrame)")
    page.locator(".thread-row[aria-posinset='1']").wait_for()
    scrolling = _longest(page)
    page.context.close()
    return opening, scrolling


def _long_answer(browser: Browser, url: str) -> tuple[float, int]:
    """Returns the longest task while an answer of 5,000 tokens streams, and the characters that are there at its end."""
    page = _opened(browser, url)
    _longest(page)
    box = page.locator(".composer textarea")
    box.fill("Write a very long answer.")
    box.press("Enter")
    page.locator(".thread-row[aria-posinset='2']").get_by_role("button", name="Answer again").wait_for()
    longest = _longest(page)
    drawn = int(
        page.evaluate("() => document.querySelector('.thread-row[aria-posinset=\"2\"]').textContent.length")
    )
    page.context.close()
    return longest, drawn

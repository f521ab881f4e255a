"""A browser for the console's tests: Debian's Chromium, driven by Playwright, and what every page must keep to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request, Route
from tests.needs import CHROMIUM

AXE = files("axe_playwright_python") / "axe.min.js"
NARROW, WIDE = (360, 740), (1280, 800)


def launch(playwright: Playwright, *flags: str) -> Browser:
    """Starts the browser. As root it has no sandbox, which Chromium then wants said."""
    return playwright.chromium.launch(executable_path=str(CHROMIUM.find()), args=["--no-sandbox", *flags])


@dataclass
class Console:
    """One tab with the console, and what it did that it must not do.

    Attributes:
        errors: errors and warnings of its scripts and of the content policy.
        foreign: requests to another origin.
        expected: parts of errors that the test brings about, such as the status of a refused request.
    """

    page: Page
    url: str
    errors: list[str] = field(default_factory=list[str])
    foreign: list[str] = field(default_factory=list[str])
    expected: list[str] = field(default_factory=list[str])

    def open(self, path: str = "#/chat") -> Page:
        """Goes to an address of the console and waits for its page."""
        self.page.goto(f"{self.url}/{path}")
        self.page.locator("main .page, main .chat").first.wait_for()
        return self.page

    def stub(self, path: str, body: Any, *, status: int = 200) -> None:
        """Answers requests to a path of the API with JSON, or with what a function makes of the request."""

        def answer(route: Route) -> None:
            found = body(route.request) if callable(body) else body
            route.fulfill(status=status, json=found)

        self.page.route(lambda url: urlsplit(url).path == path, answer)

    def stub_stream(self, path: str, events: list[Any]) -> None:
        """Answers requests to a path with server-sent events, all at once."""
        lines = [f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in events]
        self.page.route(
            lambda url: urlsplit(url).path == path,
            lambda route: route.fulfill(
                status=200, content_type="text/event-stream", body="".join([*lines, "data: [DONE]\n\n"])
            ),
        )

    def check(self) -> None:
        """Holds that nothing went wrong so far."""
        assert self.foreign == []
        assert [one for one in self.errors if not any(part in one for part in self.expected)] == []

    def accessibility(self) -> list[str]:
        """Serious and critical findings of axe-core on the page as it is shown."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {node['html'][:200]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]


@contextmanager
def console_tab(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = WIDE,
    locale: str = "en-US",
    dark: bool = False,
    permissions: Sequence[str] = (),
) -> Iterator[Console]:
    """Opens a tab of its own, with nothing stored; checks at the end that nothing went wrong."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        locale=locale,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        permissions=permissions,
    )
    try:
        page = context.new_page()
        page.set_default_timeout(15_000)
        console = Console(page, url)
        _watch(console)
        yield console
        console.check()
    finally:
        context.close()


def _watch(console: Console) -> None:
    origin = urlsplit(console.url).netloc

    def requested(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != origin:
            console.foreign.append(request.url)

    console.page.on("request", requested)
    console.page.on("pageerror", lambda error: console.errors.append(str(error)))

    def logged(said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            console.errors.append(f"{said.text} ({said.location['url']})")

    console.page.on("console", logged)


Open = Callable[..., Console]

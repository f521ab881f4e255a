"""A browser for all tests of the console, and a server with a small engine behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from tests.console.browser import Console, Open, console_tab, launch
from tests.needs import CHROMIUM, require
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.test_catalog import options_of

from deepwell.storage.database import Database


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for a module. Playwright's event loop runs as long as it does, so it ends before asynchronous tests begin."""
    require(CHROMIUM)
    with sync_playwright() as playwright:
        expect.set_options(timeout=15_000)
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose model, `toy`, repeats what the user said."""
    folder = tmp_path_factory.mktemp("console")
    engine = FakeEngine(max_model_len=65_536)
    database = Database.open(folder / "deepwell.db")
    running = start(
        make_service(
            engine,
            make_codec(folder / "tokenizer"),
            model="toy",
            database=database,
            catalog=options_of(folder),
        ),
        engine,
    )
    yield running
    running.stop()


@pytest.fixture
def open_tab(browser: Browser, server: Live) -> Iterator[Open]:
    """Opens tabs; `size`, `locale` and `dark` are as `console_tab` takes them, `url` names another server."""
    with ExitStack() as stack:

        def opened(url: str = server.url, **options: object) -> Console:
            return stack.enter_context(console_tab(browser, url, **options))  # pyright: ignore[reportArgumentType]

        yield opened

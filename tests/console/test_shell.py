"""The console's shell: it comes from the server alone, and is usable by keyboard, in two languages, on a small screen."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from tests.console.browser import NARROW, Open

PAGES = (
    "chat",
    "images",
    "models",
    "rollouts",
    "knowledge",
    "jobs",
    "safety",
    "batches",
    "labelling",
    "ratings",
    "usage",
)


def test_every_page_opens_and_has_no_serious_finding(open_tab: Open) -> None:
    console = open_tab()
    for name in PAGES:
        page = console.open(f"#/{name}")
        expect(page.locator("nav a[aria-current=page]")).to_have_attribute("href", f"#/{name}")
        assert console.accessibility() == [], name


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_small_screen_has_a_menu_and_no_sideways_scrolling(open_tab: Open, dark: bool) -> None:
    console = open_tab(size=NARROW, locale="zh-CN", dark=dark)
    for name in PAGES:
        page = console.open(f"#/{name}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert console.accessibility() == [], name
    page.get_by_role("button", name="打开菜单").click()
    page.get_by_role("dialog").get_by_role("link", name="模型").click()
    expect(page).to_have_url(f"{console.url}/#/models")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_language_and_the_colours_are_kept(open_tab: Open) -> None:
    console = open_tab()
    page = console.open("#/jobs")
    expect(page.get_by_role("link", name="Jobs")).to_be_visible()
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("link", name="任务")).to_be_visible()
    page.get_by_label("配色").select_option("dark")
    page.reload()
    expect(page.get_by_role("link", name="任务")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_the_first_tab_stop_skips_to_the_content(open_tab: Open) -> None:
    page = open_tab().open("#/models")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()

"""The page of ratings, over the real routes: two raters compare pairs blind, by keys alone, and read the results."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect
from tests.console.browser import NARROW, Open
from tests.console.payloads import PAYLOADS, assert_nothing_ran


def lines(count: int, *, prompt: str = "question", models: tuple[str, str] = ("base", "tuned")) -> bytes:
    rows = (
        {
            "prompt": f"{prompt} {number}",
            "first": {"model": models[0], "answer": f"plain {number}"},
            "second": {"model": models[1], "answer": f"better {number}"},
        }
        for number in range(count)
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def create(url: str, data: bytes, name: str = "study") -> str:
    """Makes a study, and returns its id."""
    form = {"file": ("pairs.jsonl", data)}
    file = httpx.post(f"{url}/v1/files", data={"purpose": "user_data"}, files=form).json()["id"]
    return httpx.post(f"{url}/v1/ratings/studies", json={"file_id": file, "name": name}).json()["id"]


def side(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name)


def rate(page: Page, count: int, *, left: str = "Left answer", progress: str = "{} of {}") -> None:
    """Prefers the better answer of every pair, wherever it stands."""
    for number in range(count):
        expect(side(page, left)).to_contain_text(re.compile("plain|better"))
        page.keyboard.press("1" if "better" in side(page, left).inner_text() else "2")
        expect(page.get_by_text(progress.format(number + 1, count))).to_be_visible()


def test_two_raters_from_a_file_to_the_results(open_tab: Open) -> None:
    console = open_tab()
    console.stub("/v1/ratings/studies", {"object": "list", "data": [], "has_more": False})
    page = console.open("#/ratings")
    expect(page.get_by_text("deepwell evaluate pairs MODEL OTHER")).to_be_visible()
    assert console.accessibility() == []
    page.unroute_all()
    page.get_by_role("button", name="New study").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Start rating")).to_be_disabled()
    file: Any = {"name": "pairs.jsonl", "mimeType": "application/jsonl", "buffer": lines(6)}
    dialog.locator("input[type=file]").set_input_files([file])
    assert console.accessibility() == []
    dialog.get_by_role("button", name="Start rating").click()
    page.get_by_label("Your name").fill("Ada")
    page.keyboard.press("Enter")
    expect(side(page, "Prompt")).to_contain_text("question")
    assert console.accessibility() == []
    assert "tuned" not in page.content() and "base" not in page.locator("main").inner_text()
    rate(page, 6)
    expect(page.get_by_text("You have rated every pair")).to_be_visible()
    page.get_by_role("button", name="Someone else").click()
    page.get_by_label("Your name").fill("Grace")
    page.get_by_role("button", name="Start rating").click()
    rate(page, 6)
    page.get_by_role("link", name="Results").first.click()
    expect(page.get_by_text("The results name the models")).to_be_visible()
    assert "tuned" not in page.content()
    page.get_by_role("button", name="Show the results").click()
    expect(page.get_by_text("tuned wins against base:")).to_be_visible()
    expect(page.get_by_text("The interval lies above 50 %")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="Ada · Grace")).to_contain_text("100 %")
    assert console.accessibility() == []
    with page.expect_download() as download:
        page.get_by_role("button", name="Export the votes").click()
    votes = [json.loads(line) for line in download.value.path().read_text("utf-8").splitlines()]
    assert len(votes) == 12 and {one["preferred"] for one in votes} == {"tuned"}


def test_keys_and_narrow_screens_in_chinese(open_tab: Open) -> None:
    console = open_tab(size=NARROW, locale="zh-CN", dark=True)
    id = create(console.url, lines(3, prompt="问题"))
    page = console.open(f"#/ratings/{id}")
    page.get_by_label("你的名字").fill("林")
    page.get_by_role("button", name="开始评分").click()
    prompt = side(page, "提示词")
    expect(prompt).to_contain_text("问题")
    assert console.accessibility() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    first = prompt.inner_text()
    page.keyboard.press("0")
    expect(page.get_by_text("1 / 3")).to_be_visible()
    expect(prompt).not_to_have_text(first)
    page.keyboard.press("u")
    expect(prompt).to_have_text(first)
    expect(page.get_by_text("0 / 3")).to_be_visible()
    page.keyboard.press("u")
    expect(page.get_by_text("没有可以撤销的操作。")).to_be_visible()
    page.get_by_role("button", name="平局").click()
    page.keyboard.press("1")  # a focused button keeps no key from working
    expect(page.get_by_text("2 / 3")).to_be_visible()
    page.reload()
    expect(page.get_by_text("评分人：林。")).to_be_visible()
    expect(page.get_by_text("2 / 3")).to_be_visible()
    page.get_by_role("link", name="结果").first.click()
    page.get_by_role("button", name="显示结果").click()
    expect(page.get_by_text("还没有两个人都评过的回答")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_vote_that_is_not_kept_brings_its_pair_back(open_tab: Open) -> None:
    console = open_tab()
    id = create(console.url, lines(2))
    refused = {"error": {"message": "the disk is full", "type": "server_error", "param": None, "code": None}}
    console.stub(f"/v1/ratings/studies/{id}/votes", refused, status=503)
    console.expected.append("503")
    page = console.open(f"#/ratings/{id}")
    page.get_by_label("Your name").fill("Ada")
    page.keyboard.press("Enter")
    expect(side(page, "Prompt")).to_contain_text("question")
    before = side(page, "Prompt").inner_text()
    page.keyboard.press("1")
    expect(page.get_by_text("the disk is full")).to_be_visible()
    expect(side(page, "Prompt")).to_have_text(before)


def test_prompts_answers_and_names_run_nothing(open_tab: Open) -> None:
    console = open_tab()
    hostile = "\n".join(PAYLOADS)
    pair = {
        "prompt": hostile,
        "first": {"model": PAYLOADS[0][:200], "answer": hostile},
        "second": {"model": PAYLOADS[1][:200], "answer": hostile},
    }
    id = create(console.url, json.dumps(pair).encode(), name=PAYLOADS[2])
    page = console.open(f"#/ratings/{id}")
    page.get_by_label("Your name").fill(PAYLOADS[0][:60])
    page.keyboard.press("Enter")
    expect(side(page, "Left answer")).to_contain_text(PAYLOADS[0])
    assert_nothing_ran(page)
    page.keyboard.press("2")
    expect(page.get_by_text("1 of 1")).to_be_visible()
    page.goto(f"{console.url}/#/ratings/{id}/results")
    page.get_by_role("button", name="Show the results").click()
    expect(page.get_by_text("wins against")).to_be_visible()
    assert_nothing_ran(page)


def test_a_study_is_deleted_after_a_question(open_tab: Open) -> None:
    console = open_tab()
    create(console.url, lines(1), name="to be deleted")
    page = console.open("#/ratings")
    page.get_by_role("button", name="Delete to be deleted").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("The study is deleted.")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="to be deleted")).to_have_count(0)

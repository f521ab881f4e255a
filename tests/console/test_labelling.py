"""The page of labelling, over the real routes: from a file to labels, by keys alone, and what goes wrong on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect
from tests.console.browser import NARROW, Open
from tests.console.payloads import PAYLOADS, assert_nothing_ran


def lines(*texts: str) -> str:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def create(url: str, *texts: str, classes: tuple[str, ...] = ("sport", "money"), name: str = "news") -> str:
    """Makes a project, and returns its id."""
    form = {"file": ("news.jsonl", lines(*texts).encode())}
    file = httpx.post(f"{url}/v1/files", data={"purpose": "user_data"}, files=form).json()["id"]
    body = {"file_id": file, "classes": list(classes), "name": name}
    return httpx.post(f"{url}/v1/labelling/projects", json=body).json()["id"]


def exported(url: str, id: str) -> dict[str, str]:
    text = httpx.get(f"{url}/v1/labelling/projects/{id}/export").text
    return {one["text"]: one["label"] for one in map(json.loads, text.splitlines())}


def shown(page: Page, name: str = "Text to label") -> Locator:
    return page.get_by_role("region", name=name)


def test_a_file_is_labelled_with_keys_alone(open_tab: Open, tmp_path: Path) -> None:
    console = open_tab()
    console.stub("/v1/labelling/projects", {"object": "list", "data": [], "has_more": False})
    page = console.open("#/labelling")
    expect(page.get_by_text("deepwell data label texts.jsonl")).to_be_visible()
    assert console.accessibility() == []
    page.unroute_all()
    page.get_by_role("button", name="New project").first.click()
    dialog = page.get_by_role("dialog")
    texts = [f"goal {number}" for number in range(4)] + [f"bank {number}" for number in range(4)]
    file: Any = {"name": "news.jsonl", "mimeType": "application/jsonl", "buffer": lines(*texts).encode()}
    dialog.locator("input[type=file]").set_input_files([file])
    start = dialog.get_by_role("button", name="Start labelling")
    dialog.get_by_label("Classes").fill("sport")
    expect(start).to_be_disabled()
    dialog.get_by_label("Classes").fill("sport\nmoney")
    assert console.accessibility() == []
    start.click()
    expect(shown(page)).to_contain_text(re.compile("goal|bank"))
    assert console.accessibility() == []
    said: dict[str, str] = {}
    for number in range(8):
        expect(shown(page)).to_contain_text(re.compile("goal|bank"))  # until then the server chooses
        text = shown(page).inner_text()
        assert text not in said
        said[text] = "sport" if text.startswith("goal") else "money"
        page.keyboard.press("1" if said[text] == "sport" else "2")
        expect(page.get_by_text(f"{number + 1} of 8")).to_be_visible()
    expect(page.get_by_text("Every text is labelled")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "news.labels.jsonl"
    download.value.save_as(tmp_path / "labels.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text("utf-8").splitlines()]
    assert {one["text"]: one["label"] for one in rows} == said
    page.get_by_role("link", name="All projects").click()
    expect(page.get_by_role("row").filter(has_text="news.jsonl")).to_contain_text("8 of 8")


def test_arrows_choose_skip_and_take_back(open_tab: Open) -> None:
    console = open_tab(size=NARROW, locale="zh-CN", dark=True)
    id = create(console.url, "一号文本", "二号文本", "三号文本", classes=("体育", "财经", "科技"))
    page = console.open(f"#/labelling/{id}")
    text = shown(page, "待标注文本")
    expect(text).to_contain_text("号文本")
    assert console.accessibility() == []
    first = text.inner_text()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("已跳过 1 条")).to_be_visible()
    expect(text).not_to_have_text(first)
    expect(text).to_contain_text("号文本")  # until then the server chooses
    second = text.inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 / 3")).to_be_visible()
    assert exported(console.url, id) == {second: "财经"}
    page.keyboard.press("u")
    expect(text).to_have_text(second)
    expect(page.get_by_text("0 / 3")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(text).to_have_text(first)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("没有可以撤销的操作。")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_learners_guess_is_shown_on_request_alone(open_tab: Open) -> None:
    console = open_tab()
    texts = [f"{word} {number}" for number in range(20) for word in ("goal team", "bank rate")]
    id = create(console.url, *texts)
    path = f"{console.url}/v1/labelling/projects/{id}"
    for index in range(16):
        label = "sport" if index % 2 == 0 else "money"
        httpx.post(f"{path}/labels", json={"index": index, "label": label}).raise_for_status()
    page = console.open(f"#/labelling/{id}")
    expect(shown(page)).to_contain_text(re.compile("team|rate"))
    guess = page.get_by_text(re.compile("^The learner expects"))
    expect(guess).to_have_count(0)
    page.get_by_label("Show what the learner expects").check()
    expect(guess).to_contain_text("sport" if "team" in shown(page).inner_text() else "money")
    page.get_by_role("button", name=re.compile("^1 sport")).click()
    expect(page.get_by_text("17 of 40")).to_be_visible()
    page.keyboard.press("1")  # a focused button keeps no key from working
    expect(page.get_by_text("18 of 40")).to_be_visible()


def test_a_label_that_is_not_kept_brings_its_text_back(open_tab: Open) -> None:
    console = open_tab()
    id = create(console.url, "one", "two")
    refused = {"error": {"message": "the disk is full", "type": "server_error", "param": None, "code": None}}
    console.stub(f"/v1/labelling/projects/{id}/labels", refused, status=503)
    console.expected.append("503")
    page = console.open(f"#/labelling/{id}")
    expect(shown(page)).to_have_text(re.compile("one|two"))
    before = shown(page).inner_text()
    page.keyboard.press("1")
    expect(page.get_by_text("the disk is full")).to_be_visible()
    expect(shown(page)).to_have_text(before)
    page.unroute_all()
    page.keyboard.press("1")
    expect(page.get_by_text("1 of 2")).to_be_visible()
    assert exported(console.url, id) == {before: "sport"}


def test_texts_classes_and_names_run_nothing(open_tab: Open) -> None:
    console = open_tab()
    id = create(
        console.url, "\n".join(PAYLOADS), classes=(PAYLOADS[0][:128], PAYLOADS[1][:128]), name=PAYLOADS[2]
    )
    page = console.open(f"#/labelling/{id}")
    expect(shown(page)).to_contain_text(PAYLOADS[0])
    assert_nothing_ran(page)
    page.keyboard.press("1")
    expect(page.get_by_text("1 of 1")).to_be_visible()
    page.get_by_role("link", name="All projects").click()
    expect(page.get_by_role("button", name=PAYLOADS[2], exact=True)).to_be_visible()
    assert_nothing_ran(page)


def test_a_project_is_deleted_after_a_question(open_tab: Open) -> None:
    console = open_tab()
    create(console.url, "one", name="to be deleted")
    page = console.open("#/labelling")
    page.get_by_role("button", name="Delete to be deleted").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("The project is deleted.")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="to be deleted")).to_have_count(0)

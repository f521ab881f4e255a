"""The page of batches, over the real routes: from a file of requests to its answers, and errors on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect
from tests.console.browser import NARROW, Open
from tests.console.payloads import PAYLOADS, assert_nothing_ran


def lines(*texts: str) -> str:
    rows = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "toy", "messages": [{"role": "user", "content": text}]},
        }
        for number, text in enumerate(texts)
    ]
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)


def choose(page: Page, name: str, text: str, button: str = "New batch") -> Locator:
    """Opens the dialog of a new batch and gives it a file."""
    page.get_by_role("button", name=button).first.click()
    dialog = page.get_by_role("dialog")
    file = {"name": name, "mimeType": "application/jsonl", "buffer": text.encode()}
    dialog.locator("input[type=file]").set_input_files([file])  # pyright: ignore[reportArgumentType]
    return dialog


def test_a_file_is_answered_and_its_files_come_down(open_tab: Open, tmp_path: Path) -> None:
    console = open_tab()
    console.stub("/v1/batches", lambda _request: {"object": "list", "data": [], "has_more": False})
    page = console.open("#/batches")
    with page.expect_download() as example:
        page.get_by_role("button", name="Download an example").click()
    example.value.save_as(tmp_path / "example.jsonl")
    page.unroute_all()
    text = (tmp_path / "example.jsonl").read_text("utf-8")
    assert json.loads(text.splitlines()[0])["body"]["model"] == "toy"
    dialog = choose(page, "example.jsonl", text)
    expect(dialog.get_by_text("The first line asks toy.")).to_be_visible()
    assert console.accessibility() == []
    dialog.get_by_role("button", name="Start the batch").click()
    detail = page.get_by_role("dialog", name="Batch", exact=True)
    expect(detail.get_by_text("Completed")).to_be_visible(timeout=60_000)
    expect(detail.get_by_text("3 in all, 3 answered, 0 failed")).to_be_visible()
    assert console.accessibility() == []
    answers = detail.get_by_role("row").filter(has_text="Answers")
    with page.expect_download() as output:
        answers.get_by_role("button").click()
    output.value.save_as(tmp_path / "output.jsonl")
    found = [json.loads(line) for line in (tmp_path / "output.jsonl").read_text("utf-8").splitlines()]
    assert [one["custom_id"] for one in found] == ["colour-1", "colour-2", "colour-3"]
    page.keyboard.press("Escape")
    expect(page.get_by_role("row").filter(has_text="Completed").first).to_contain_text("3 of 3")


def test_errors_in_a_file_are_named_before_and_after_it_is_sent(open_tab: Open) -> None:
    console = open_tab(size=NARROW, locale="zh-CN", dark=True)
    page = console.open("#/batches")
    dialog = choose(page, "broken.jsonl", lines("a") + "not JSON\n", "新建批处理")
    expect(dialog.get_by_role("alert")).to_contain_text("第 2 行不是 JSON 对象")
    expect(dialog.get_by_role("button", name="开始")).to_be_disabled()
    assert console.accessibility() == []
    twice = lines("a") + lines("b")
    file = {"name": "twice.jsonl", "mimeType": "application/jsonl", "buffer": twice.encode()}
    dialog.locator("input[type=file]").set_input_files([file])  # pyright: ignore[reportArgumentType]
    dialog.get_by_role("button", name="开始").click()
    errors = page.get_by_role("region", name="文件中的错误")
    expect(errors.get_by_role("row")).to_have_count(2, timeout=60_000)
    expect(errors).to_contain_text("line-0")
    assert console.accessibility() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_batch_under_way_is_followed_and_cancelled(open_tab: Open) -> None:
    console = open_tab()
    running = batch("batch_1", "in_progress", request_counts={"total": 40, "completed": 10, "failed": 2})
    console.stub("/v1/batches", lambda _request: {"object": "list", "data": [running], "has_more": False})
    console.stub("/v1/batches/batch_1", lambda _request: running)
    console.stub("/v1/files/file-in", {"id": "file-in", "filename": "in.jsonl", "bytes": 100})

    def cancel(_request: Any) -> dict[str, Any]:
        running["status"] = "cancelling"
        return running

    console.stub("/v1/batches/batch_1/cancel", cancel)
    page = console.open("#/batches")
    page.get_by_role("button", name="/v1/chat/completions").click()
    dialog = page.get_by_role("dialog", name="Batch", exact=True)
    expect(dialog.get_by_role("progressbar", name="Requests that have ended")).to_have_attribute(
        "value", "12"
    )
    dialog.get_by_role("button", name="Cancel the batch").click()
    page.get_by_role("dialog", name="Cancel this batch?").get_by_role(
        "button", name="Cancel the batch"
    ).click()
    expect(dialog.get_by_text("Cancelling")).to_be_visible()


def test_names_and_errors_run_nothing(open_tab: Open) -> None:
    console = open_tab()
    errors = {"data": [{"code": one, "message": one, "line": 1, "param": None} for one in PAYLOADS]}
    made = [
        batch(f"batch_{at}", "failed", endpoint=one, model=one, errors=errors)
        for at, one in enumerate(PAYLOADS)
    ]
    console.stub("/v1/batches", {"object": "list", "data": made, "has_more": False})
    console.stub("/v1/batches/batch_0", made[0])
    console.stub("/v1/files/file-in", {"id": "file-in", "filename": PAYLOADS[0], "bytes": 100})
    page = console.open("#/batches/batch_0")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("region", name="Errors in the file").get_by_role("row")).to_have_count(
        len(PAYLOADS) + 1
    )
    expect(dialog.get_by_text(PAYLOADS[0], exact=True).first).to_be_visible()
    assert_nothing_ran(page)
    page.keyboard.press("Escape")
    name = f"{PAYLOADS[11]}.jsonl".replace("/", "")
    choose(page, name, json.dumps({"url": PAYLOADS[0], "body": {"model": PAYLOADS[1]}}))
    expect(page.get_by_text(f"The first line asks {PAYLOADS[1]}.")).to_be_visible()
    assert_nothing_ran(page)


def batch(id: str, status: str, **more: Any) -> dict[str, Any]:
    told = {"id": id, "object": "batch", "endpoint": "/v1/chat/completions", "status": status, "errors": None}
    told |= {"input_file_id": "file-in", "output_file_id": None, "error_file_id": None, "model": "toy"}
    told |= {"created_at": 1_790_000_000, "in_progress_at": 1_790_000_001, "expires_at": 1_790_086_400}
    told |= dict.fromkeys(("completed_at", "failed_at", "expired_at", "cancelled_at"))
    return told | {"request_counts": {"total": 0, "completed": 0, "failed": 0}} | more

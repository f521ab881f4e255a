"""The page of jobs: a list that follows them, one job with its curves, and its end."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Request, Route, expect
from tests.console.browser import NARROW, Open


def job(id: str = "job_1", status: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "object": "job",
        "id": id,
        "kind": "model.pull",
        "status": status,
        "created_at": 1_790_000_000,
        "started_at": 1_790_000_001,
        "finished_at": None if status == "running" else 1_790_000_061,
        "progress": {"done": 25_000_000, "total": 98_000_000, "unit": "bytes", "step": "download"},
        "result": None,
        "error": None,
        "attempts": 1,
        "cancel_requested": False,
    } | more


def listed(*jobs: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(jobs), "first_id": None, "last_id": None, "has_more": False}


def test_without_jobs_the_page_says_what_makes_them(open_tab: Open) -> None:
    console = open_tab()
    console.stub("/v1/jobs", listed())
    page = console.open("#/jobs")
    page.get_by_role("link", name="Download a model").click()
    expect(page).to_have_url(f"{console.url}/#/models")


def test_jobs_are_listed_and_one_is_followed_to_its_end(open_tab: Open) -> None:
    console = open_tab(size=NARROW, locale="zh-CN", dark=True)
    curve = {"loss": [[1, 4.0], [2, 2.5], [3, 2.0]]}
    states = [
        job(progress={"done": 1, "total": 3, "unit": "steps", "series": curve}),
        job(status="succeeded", result={"file": "a"}),
    ]
    console.stub("/v1/jobs", listed(job(), job("job_2", "failed", error="the disk is full")))
    console.stub("/v1/jobs/job_1", lambda _request: states.pop(0) if len(states) > 1 else states[0])
    page = console.open("#/jobs")
    expect(page.get_by_role("cell", name="the disk is full")).to_be_visible()
    page.get_by_role("button", name="下载模型").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("成功")).to_be_visible()
    expect(dialog.get_by_text('"file": "a"')).to_be_visible()
    assert console.accessibility() == []


def test_a_job_shows_its_curves_and_can_be_cancelled(open_tab: Open) -> None:
    console = open_tab()
    cancelled: list[str] = []
    curve = {"loss": [[1, 4.0], [2, 2.5], [3, 2.0]]}
    running = job(progress={"done": 1, "total": 3, "unit": "steps", "series": curve})

    def cancel(route: Route) -> None:
        cancelled.append(route.request.method)
        running["cancel_requested"] = True
        route.fulfill(body=json.dumps(running), content_type="application/json")

    console.stub("/v1/jobs", lambda _request: listed(running))
    console.stub("/v1/jobs/job_1", lambda _request: running)
    console.page.route("**/v1/jobs/job_1/cancel", cancel)
    page = console.open("#/jobs/job_1")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("canvas")).to_be_visible()
    dialog.get_by_role("button", name="Cancel the job").click()
    page.get_by_role("dialog", name="Cancel this job?").get_by_role("button", name="Cancel the job").click()
    expect(dialog.get_by_text("Cancelling")).to_be_visible()
    assert cancelled == ["POST"]


def test_a_model_is_tuned_from_a_file_and_chatted_with(open_tab: Open) -> None:
    console = open_tab()
    asked: list[dict[str, Any]] = []
    model = {"id": "toy", "object": "model", "created": 1, "owned_by": "deepwell", "max_model_len": 64}
    sampling = dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), 1.0)
    sampling |= {"top_k": 0, "source": "OpenAI"}
    base = model | {"default_sampling": sampling}
    tuned = base | {"id": "ft:toy:greeter:1", "parent": "toy"}
    console.stub("/v1/models", {"object": "list", "data": [base, tuned]})
    console.stub("/v1/jobs", listed())
    console.stub("/v1/files", {"id": "file-1", "object": "file"})
    done = job("ftjob-1", "succeeded", kind="fine_tuning", result={"fine_tuned_model": tuned["id"]})
    console.stub("/v1/jobs/ftjob-1", done)

    def create(request: Request) -> dict[str, Any]:
        asked.append(json.loads(request.post_data or ""))
        return {"id": "ftjob-1"}

    console.stub("/v1/fine_tuning/jobs", create)
    page = console.open("#/jobs")
    page.get_by_role("button", name="Fine-tune a model").click()
    dialog = page.get_by_role("dialog")
    start = dialog.get_by_role("button", name="Start")
    expect(start).to_be_disabled()
    page.locator("dialog input[type=file]").set_input_files(
        {"name": "train.jsonl", "mimeType": "application/jsonl", "buffer": b"{}\n"}
    )
    expect(dialog.get_by_text("train.jsonl")).to_be_visible()
    dialog.get_by_label("Name").fill("../x")
    expect(start).to_be_disabled()
    dialog.get_by_label("Name").fill("greeter")
    dialog.get_by_label("Epochs").fill("2")
    assert console.accessibility() == []
    start.click()
    page.get_by_role("button", name="Chat with the model").click()
    expect(page).to_have_url(f"{console.url}/#/chat")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    assert asked == [{"model": "toy", "training_file": "file-1", "suffix": "greeter", "method": method}]

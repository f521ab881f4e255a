"""The page of jobs: a list that follows them, one job with its curves, and its end."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Request, Route, expect
from tests.console.browser import NARROW, Open

MODEL = {"id": "toy", "object": "model", "created": 1, "owned_by": "deepwell", "max_model_len": 64}
SAMPLING = dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), 1.0)
BASE: dict[str, Any] = MODEL | {"default_sampling": SAMPLING | {"top_k": 0, "source": "OpenAI"}}


def made(asked: list[dict[str, Any]], request: Request, id: str) -> dict[str, Any]:
    """Notes the body of a request, and answers with an id."""
    asked.append(json.loads(request.post_data or ""))
    return {"id": id}


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
    told = {"number": 1, "created_at": 1_790_000_001, "level": "error", "message": "the disk is full"}
    full = {"events": [told | {"message_zh": "磁盘已满"}]}
    failed = job("job_2", "failed", error="the disk is full", progress=full)
    console.stub("/v1/jobs", listed(job(), failed))
    console.stub("/v1/jobs/job_1", lambda _request: states.pop(0) if len(states) > 1 else states[0])
    page = console.open("#/jobs")
    expect(page.get_by_role("cell", name="磁盘已满")).to_be_visible()
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
    tuned = BASE | {"id": "ft:toy:greeter:1", "parent": "toy"}
    console.stub("/v1/models", {"object": "list", "data": [BASE, tuned]})
    console.stub("/v1/jobs", listed())
    console.stub("/v1/files", {"id": "file-1", "object": "file"})
    done = job("ftjob-1", "succeeded", kind="fine_tuning", result={"fine_tuned_model": tuned["id"]})
    console.stub("/v1/jobs/ftjob-1", done)
    console.stub("/v1/fine_tuning/jobs", lambda request: made(asked, request, "ftjob-1"))
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


def test_a_model_is_compressed_and_its_figures_stand_beside_the_donors(open_tab: Open) -> None:
    console = open_tab(size=NARROW, locale="zh-CN")
    asked: list[dict[str, Any]] = []
    console.stub("/v1/models", {"object": "list", "data": [BASE, BASE | {"id": "toy-small"}]})
    subject = {"method": "prune", "model": "toy", "name": "toy-small"}
    console.stub("/v1/jobs", listed(job("cmpjob-1", kind="compression", subject=subject)))
    console.stub("/v1/files", {"id": "file-1", "object": "file"})
    record = {"method": "pruned", "base": "toy", "loss_before": 3.5, "loss": 4.0, "parameters": 80}
    record |= {"base_parameters": 100, "recovery": {"method": "distil", "loss_before": 4.5}}
    held_out = {"first": 3.4, "second": 4.1, "value": 0.7, "low": 0.5, "high": 0.9, "paired": 12}
    result = {"compressed_model": "toy-small", "bytes": 80, "base_bytes": 100, "held_out": held_out}
    told = [{"number": 1, "created_at": 1_790_000_001, "level": "info", "message": "x", "kind": "recovery"}]
    done = job("cmpjob-1", "succeeded", kind="compression", result=result | {"record": record})
    console.stub("/v1/jobs/cmpjob-1", done | {"progress": {"events": told}})
    console.stub("/v1/compression/jobs", lambda request: made(asked, request, "cmpjob-1"))
    page = console.open("#/jobs")
    expect(page.get_by_text("剪枝：toy → toy-small")).to_be_visible()
    page.get_by_role("button", name="压缩模型").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("方法").select_option("prune")
    text = {"name": "text.txt", "mimeType": "text/plain", "buffer": b"text"}
    page.locator("dialog input[type=file]").first.set_input_files(text)
    dialog.get_by_label("去掉的权重").fill("90")
    expect(dialog.get_by_role("button", name="开始")).to_be_disabled()
    dialog.get_by_label("去掉的权重").fill("30")
    dialog.get_by_label("恢复训练的分钟数").fill("2")
    assert console.accessibility() == []
    dialog.get_by_role("button", name="开始").click()
    expect(dialog.get_by_text("恢复了升幅的 50 %")).to_be_visible()
    expect(dialog.get_by_text("deepwell serve toy-small")).to_be_visible()
    expect(dialog.get_by_role("button", name="与模型对话")).to_be_visible()
    expect(dialog.get_by_role("listitem").filter(has_text="恢复训练")).to_be_visible()
    options = {"share": 0.3, "recover": "distil", "minutes": 2}
    assert asked == [{"method": "prune", "model": "toy", "text_file": "file-1", "prune": options}]


def test_a_prompt_is_stored_and_improved(open_tab: Open) -> None:
    console = open_tab()
    asked: list[dict[str, Any]] = []
    console.stub("/v1/models", {"object": "list", "data": [BASE]})
    console.stub("/v1/jobs", listed())
    console.stub("/v1/files", {"id": "file-1", "object": "file"})
    stored = {"object": "list", "data": []}
    console.stub("/v1/prompts", lambda one: stored if one.method == "GET" else made(asked, one, "kind"))
    tried = {"name": "start", "key": "a", "score": 0.4, "rows": 9, "tokens": 20}
    winner = {**tried, "name": "rewrite 1", "key": "b", "text": {"instructions": "Say <b>.", "messages": []}}
    held_out = {"first": 0.4, "second": 0.5, "value": 0.1, "low": -0.02, "high": 0.2, "paired": 90}
    result = {"prompt": "kind", "start": tried, "winner": winner, "better": False, "held_out": held_out}
    result |= {"search": {"calls": 100}, "candidates": [winner, tried], "version": "2", "current": False}
    done = job("promptopt-1", "succeeded", kind="prompts.optimise", result=result, progress=None)
    console.stub("/v1/jobs/promptopt-1", done)
    console.stub("/v1/prompt_optimisations", lambda request: made(asked, request, "promptopt-1"))
    page = console.open("#/jobs")
    page.get_by_role("button", name="Improve a prompt").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Id of the prompt").fill("kind")
    dialog.get_by_label("Instructions").fill("Say a or b.")
    rows = {"name": "rows.jsonl", "mimeType": "application/jsonl", "buffer": b"{}\n"}
    page.locator("dialog input[type=file]").set_input_files(rows)
    dialog.get_by_label("Questions").fill("99")
    expect(dialog.get_by_text("A whole number from 100 to 1000000.")).to_be_visible()
    dialog.get_by_label("Questions").fill("100")
    assert console.accessibility() == []
    dialog.get_by_role("button", name="Start").click()
    expect(dialog.get_by_text("Not confirmed: the winner is kept as kind, version 2")).to_be_visible()
    expect(dialog.get_by_text("Difference +10 points, 95 % interval -2 points to +20 points")).to_be_visible()
    expect(dialog.get_by_text("Say <b>.")).to_be_visible()
    search = {"prompt": {"id": "kind"}, "model": "toy", "data_file": "file-1", "metric": "label"}
    search |= {"calls": 100, "current": True}
    assert asked == [{"id": "kind", "instructions": "Say a or b."}, search]


def test_a_search_without_a_winner_says_what_may_help_and_a_failed_job_shows_no_empty_step(
    open_tab: Open,
) -> None:
    console = open_tab()
    tried = {"name": "start + 4 examples (mixed)", "key": "a", "score": 0.4, "rows": 9, "tokens": 20}
    winner = tried | {"text": {"instructions": "Say a.", "messages": []}}
    result = {"prompt": "kind", "start": tried, "winner": winner, "better": False, "held_out": None}
    result |= {"search": {"calls": 100}, "candidates": [tried], "version": None, "current": False}
    message = "57 training, 48 development, 45 held-out rows"
    told = [{"number": 1, "created_at": 1_790_000_001, "level": "info", "message": message, "kind": "split"}]
    done = job("promptopt-1", "succeeded", kind="prompts.optimise", result=result, progress={"events": told})
    failed = job("cmpjob-1", "failed", kind="compression", error="no room", progress={"step": ""})
    console.stub("/v1/jobs", listed(done, failed))
    console.stub("/v1/jobs/promptopt-1", done)
    console.stub("/v1/jobs/cmpjob-1", failed)
    page = console.open("#/jobs/promptopt-1")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("More questions or more rows may find a better one.")).to_be_visible()
    expect(dialog.get_by_text("Say a.")).to_have_count(0)
    expect(dialog.get_by_text("Rows: 57 for training, 48 for development, 45 held out")).to_be_visible()
    page = console.open("#/jobs/cmpjob-1")
    expect(dialog.get_by_text("no room")).to_be_visible()
    expect(dialog.get_by_text("Step", exact=True)).to_have_count(0)

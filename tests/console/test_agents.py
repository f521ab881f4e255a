"""The page of agents: a task is given, its steps are followed, and calls wait for a decision."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Request, Route, expect
from tests.console.browser import NARROW, Open

USAGE = {"turns": 1, "calls": 1, "input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "seconds": 2.4}


def run(id: str = "run_1", status: str = "in_progress", **more: Any) -> dict[str, Any]:
    return {
        "object": "agent.run",
        "id": id,
        "status": status,
        "model": "toy",
        "input": "Sum the invoices",
        "output_text": "",
        "reason": "",
        "limit": None,
        "required_action": [],
        "tools": ["files"],
        "checks": True,
        "budget": {"turns": 20, "calls": 40, "tokens": 200_000, "seconds": 900.0},
        "usage": USAGE,
        "metadata": None,
        "created_at": 1_790_000_000,
        "finished_at": None,
    } | more


def listed(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(rows), "first_id": None, "last_id": None, "has_more": False}


def steps(*bodies: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"object": "agent.step", "number": number, "at": 1_790_000_000.0, "clock": 0.1, "step": body}
        for number, body in enumerate(bodies)
    ]
    return {"object": "list", "data": rows, "has_more": False}


CALL = {"id": "call_1", "name": "write_file", "arguments": '{"path": "sum.txt"}'}
TURN = {
    "type": "turn",
    "text": "I sum them.",
    "calls": [CALL],
    "finish": "tool_calls",
    "prompt_tokens": 9,
    "completion_tokens": 4,
}


def test_without_runs_the_page_says_what_an_agent_does(open_tab: Open) -> None:
    console = open_tab(locale="zh-CN")
    console.stub("/v1/agents/runs", listed())
    page = console.open("#/agents")
    expect(page.get_by_text("还没有运行过任务")).to_be_visible()
    assert console.accessibility() == []


def test_a_task_is_given_with_the_tools_that_are_left(open_tab: Open) -> None:
    console = open_tab()
    asked: list[dict[str, Any]] = []
    sampling = dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), 1.0) | {
        "top_k": 0,
        "source": "OpenAI",
    }
    model = {
        "id": "toy",
        "object": "model",
        "created": 1,
        "owned_by": "deepwell",
        "max_model_len": 64,
        "default_sampling": sampling,
    }
    tools = [
        {
            "object": "agent.tool",
            "name": "calculator",
            "description": "Computes.",
            "functions": [],
            "why_not": None,
        },
        {
            "object": "agent.tool",
            "name": "knowledge",
            "description": "Searches.",
            "functions": [],
            "why_not": None,
        },
        {
            "object": "agent.tool",
            "name": "python",
            "description": "Runs.",
            "functions": [],
            "why_not": "no sandbox here",
        },
    ]
    console.stub("/v1/models", {"object": "list", "data": [model]})
    console.stub("/v1/agents/tools", {"object": "list", "data": tools})

    def runs(request: Request) -> dict[str, Any]:
        if request.method == "POST":
            asked.append(json.loads(request.post_data or ""))
            return run()
        return listed()

    console.stub("/v1/agents/runs", runs)
    console.stub("/v1/agents/runs/run_1", run())
    console.stub("/v1/agents/runs/run_1/steps", steps({"type": "started", "tools": [{"name": "calculator"}]}))
    page = console.open("#/agents")
    page.get_by_role("button", name="New task").click()
    dialog = page.get_by_role("dialog")
    start = dialog.get_by_role("button", name="Start")
    expect(start).to_be_disabled()
    expect(dialog.get_by_label("python")).to_be_disabled()
    dialog.get_by_label("Task").fill("  Sum the invoices ")
    dialog.get_by_label("knowledge").uncheck()
    dialog.get_by_label("Most turns").fill("0")
    expect(start).to_be_disabled()
    dialog.get_by_label("Most turns").fill("5")
    assert console.accessibility() == []
    start.click()
    expect(page.get_by_text("The run begins with 1 tools.")).to_be_visible()
    assert asked == [
        {"model": "toy", "input": "Sum the invoices", "tools": ["calculator"], "budget": {"turns": 5}}
    ]


def test_a_call_waits_for_a_decision_and_its_reason(open_tab: Open) -> None:
    console = open_tab(size=NARROW, dark=True)
    told: list[tuple[str, Any]] = []
    now = run(status="requires_action", required_action=[CALL | {"needs": "approval"}])
    shown = [{"type": "started", "tools": []}, TURN]

    def decide(route: Route) -> None:
        told.append((route.request.url.rsplit("/", 1)[1], json.loads(route.request.post_data or "null")))
        now.update(status="completed", required_action=[], output_text="The sum is 42.")
        shown.append({"type": "decision", "call_id": "call_1", "is_approved": False, "reason": "not now"})
        route.fulfill(body=json.dumps(now), content_type="application/json")

    console.stub("/v1/agents/runs", lambda _request: listed(now))
    console.stub("/v1/agents/runs/run_1", lambda _request: now)
    console.stub("/v1/agents/runs/run_1/steps", lambda _request: steps(*shown))
    console.page.route("**/v1/agents/runs/run_1/deny", decide)
    page = console.open("#/agents/run_1")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Waits for you")).to_be_visible()
    dialog.get_by_label("Reason").fill("not now")
    assert console.accessibility() == []
    dialog.get_by_role("button", name="Refuse").click()
    expect(dialog.get_by_text("The sum is 42.")).to_be_visible()
    expect(dialog.get_by_text("Refused: not now")).to_be_visible()
    assert told == [("deny", {"call_ids": ["call_1"], "reason": "not now"})]


def test_results_are_text_whatever_they_hold(open_tab: Open) -> None:
    console = open_tab()
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    result = {
        "type": "result",
        "call_id": "call_1",
        "outcome": "withheld",
        "text": hostile,
        "characters": 90_000,
        "seconds": 0.1,
    }
    console.stub("/v1/agents/runs", listed(run()))
    console.stub("/v1/agents/runs/run_1", run(input=hostile, status="incomplete", reason=hostile))
    console.stub(
        "/v1/agents/runs/run_1/steps", steps(TURN, result, {"type": "note", "check": "x", "text": hostile})
    )
    page = console.open("#/agents/run_1")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("kept from the model by the guard")).to_be_visible()
    expect(dialog.get_by_text("90,000 characters")).to_be_visible()
    assert dialog.locator("img, script").count() == 0
    assert page.title() != "owned"


def test_a_run_that_was_cut_says_why_before_its_answer(open_tab: Open) -> None:
    console = open_tab()
    cut = run(status="incomplete", reason="the limit of one turn", output_text="and so on " * 500)
    console.stub("/v1/agents/runs", listed(cut))
    console.stub("/v1/agents/runs/run_1", cut)
    console.stub("/v1/agents/runs/run_1/steps", steps())
    dialog = console.open("#/agents/run_1").get_by_role("dialog")
    expect(dialog.get_by_text("the limit of one turn")).to_be_in_viewport()

"""`deepwell agent list|show|replay|cancel|tools`."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.agent.running import RunId, settings_of
from deepwell.cli.agent.runs import open_runs
from deepwell.cli.agent.showing import Steps, call_line, summary
from deepwell.cli.options import ApiKeyOption, ServerPort, Url
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.agents.loop.replay import Replay

__all__ = ["cancel", "list_runs", "replay", "show", "tools"]

_SHOWN = 60  # characters of a task
Status = Literal["queued", "in_progress", "requires_action", "completed", "incomplete", "cancelled", "failed"]


def list_runs(
    status: Annotated[Status | None, typer.Option(help="Show only runs of this status; unset: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Number of runs to show at most.")] = 20,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """List runs, the newest first."""
    with (
        reported_errors(as_json=json),
        closing(open_runs(settings_of(url=url, port=port, api_key=api_key))) as runs,
    ):
        found = runs.list(status, limit)
        if json:
            write_json({"where": runs.where, "data": found})
            return
        if not found:
            none = "There are no runs yet: deepwell agent run 'TASK'."
            console().print(none if status is None else f"No run has the status {status}.", soft_wrap=True)
            return
        rows = [
            (
                one["id"],
                one["status"],
                one["model"],
                time.strftime("%Y-%m-%d %H:%M", time.localtime(one["created_at"])),
                " ".join(one["input"].split())[:_SHOWN],
            )
            for one in found
        ]
        print_table(("run", "status", "model", "begun", "task"), rows, folded=("task",))


def show(
    id: RunId,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Show a run: its task, its steps, what it waits for, and its answer."""
    with (
        reported_errors(as_json=json),
        closing(open_runs(settings_of(url=url, port=port, api_key=api_key))) as runs,
    ):
        found, steps = runs.get(id), runs.steps(id)
        if json:
            write_json(found | {"where": runs.where, "steps": steps})
            return
        out = console()
        out.print(f"{found['status']}: {found['input']}", soft_wrap=True)
        shown = Steps(out)
        for one in steps:
            shown(one)
        for call in found["required_action"]:
            out.print(f"waits for {call['needs']}: {call['id']} {call_line(call)}", soft_wrap=True)
        out.print(summary(found), soft_wrap=True)
        if found["output_text"]:
            out.print(found["output_text"], soft_wrap=True)


def replay(
    id: RunId,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Play a run again from its log, without the model and without the tools, and print the conversation.

    Every step is compared with what the loop does after the steps before it; the exit code is 1 if one differs.
    """
    with (
        reported_errors(as_json=json),
        closing(open_runs(settings_of(url=url, port=port, api_key=api_key))) as runs,
    ):
        played = _played(runs.steps(id))
        if json:
            write_json(
                {
                    "messages": list(played.messages),
                    "status": played.ended.status if played.ended else None,
                    "diverged_at": played.diverged_at,
                    "why": played.why,
                }
            )
        else:
            _print(played)
        if played.diverged_at is not None:
            raise typer.Exit(1)


def cancel(
    id: RunId,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """End a run within its current step; a writing call that has begun may finish."""
    with (
        reported_errors(as_json=json),
        closing(open_runs(settings_of(url=url, port=port, api_key=api_key))) as runs,
    ):
        found = runs.cancel(id)
        if json:
            write_json(found)
            return
        console().print(f"{found['id']} is {found['status']}.", soft_wrap=True)


def tools(
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """List the tools that a run may call, and why one cannot be used.

    With a running server, these are the tools that its operator allows by the setting agent_tools.
    """
    with (
        reported_errors(as_json=json),
        closing(open_runs(settings_of(url=url, port=port, api_key=api_key))) as runs,
    ):
        found = runs.tools()
        if json:
            write_json({"where": runs.where, "data": found})
            return
        rows = [
            (
                one["name"],
                ", ".join(each["name"] for each in one["functions"]),
                f"unavailable: {one['why_not']}" if one["why_not"] else one["description"],
            )
            for one in found
        ]
        print_table(("tool", "functions", "use"), rows, folded=("functions", "use"))


def _played(steps: list[dict[str, Any]]) -> Replay:
    import json

    from deepwell.agents.loop.replay import replay as play
    from deepwell.agents.loop.steps import decode_entry

    return play([decode_entry(json.dumps(one)) for one in steps])


def _print(played: Replay) -> None:
    out = console()
    for message in played.messages:
        content = message.get("content") or ""
        calls = [
            f"{one['function']['name']} {one['function']['arguments']}"
            for one in message.get("tool_calls", ())
        ]
        out.print(
            f"{message['role']}: {content}{' calls ' if calls else ''}{'; '.join(calls)}", soft_wrap=True
        )
    if played.diverged_at is not None:
        out.print(f"step {played.diverged_at} does not follow: {played.why}", style="red", soft_wrap=True)
    elif played.ended is not None:
        reason = f": {played.ended.reason}" if played.ended.reason else ""
        out.print(f"{played.ended.status}{reason}", soft_wrap=True)

"""`deepwell agent run|approve|deny|resume`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.agent.asked import AskedRun, Runs
from deepwell.cli.agent.runs import open_runs
from deepwell.cli.agent.showing import Steps, call_line, summary
from deepwell.cli.options import ApiKeyOption, ModelOption, ServerPort, Url
from deepwell.cli.output import JsonFlag, console, print_error, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["RunId", "approve", "deny", "resume", "run", "settings_of"]

RunId = Annotated[
    str, typer.Argument(help="Id of the run, as `deepwell agent list` shows it.", metavar="RUN")
]
CallIds = Annotated[
    list[str] | None, typer.Option("--call", help="Id of one call; unset: all that wait.", metavar="CALL")
]
Approval = Literal["always", "never", "ask"]
ApproveOption = Annotated[
    Approval,
    typer.Option(
        "--approve",
        help="Answer for calls that a person has to approve: yes, no, or ask on this terminal.",
    ),
]

_EXIT_INCOMPLETE = 3  # a run that ended without an answer
_EXIT_WAITING = 4


def run(
    task: Annotated[str, typer.Argument(help="Task in plain words.", metavar="TASK")],
    model: ModelOption = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(
            help="Tool that the model may call, as `deepwell agent tools` lists them; unset: all that need nothing more.",
            metavar="NAME",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder of this machine that the tools files and sql read.", metavar="DIRECTORY"),
    ] = None,
    knowledge: Annotated[
        str | None,
        typer.Option(help="Knowledge base of this machine that the tool knowledge searches.", metavar="NAME"),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="System message in place of Deepwell's own.")
    ] = None,
    approve: ApproveOption = "ask",
    turns: Annotated[int, typer.Option(min=1, max=200, help="Number of answers of the model at most.")] = 20,
    calls: Annotated[int, typer.Option(min=1, max=1000, help="Number of tool calls at most.")] = 40,
    tokens: Annotated[
        int,
        typer.Option(min=1, help="Number of tokens that the model reads and writes at most, over all turns."),
    ] = 200_000,
    seconds: Annotated[
        float, typer.Option(min=0.001, help="Time limit in seconds; waiting for you does not count.")
    ] = 900.0,
    checks: Annotated[
        bool,
        typer.Option(
            "--checks/--no-checks",
            help="Explain failed calls to the model, and ask again about doubtful answers.",
        ),
    ] = True,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Randomness of sampling; 0 takes the likeliest token.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of sampling; unset: the model's own.")] = None,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Give a model a task and tools, and print its answer; the steps appear on standard error as they come.

    A running `deepwell serve` does the run with the tools that its operator allows, and keeps it. Without one, or with --folder
    or --knowledge, the model is loaded here; the steps are still kept in the database of this machine, so that `deepwell agent
    resume` continues an interrupted run. The exit code is 0 with an answer, 3 without one, and 4 while the run
    waits for an approval.
    """
    with reported_errors(as_json=json):
        settings = settings_of(model=model, url=url, port=port, api_key=api_key)
        asked = AskedRun(
            task, settings.model, tool, folder, knowledge, system, turns, calls, tokens, seconds, checks,
            temperature, seed,
        )  # fmt: skip
        is_local = folder is not None or knowledge is not None
        with closing(open_runs(settings, is_local=is_local)) as runs:
            steps = Steps(None if json else console(stderr=True))
            _finish(runs, runs.start(asked, steps), steps, approve, as_json=json)


def approve(
    id: RunId,
    call: CallIds = None,
    reason: Annotated[str, typer.Option(help="Reason, which the log keeps.")] = "",
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Approve calls that wait, and go on with the run."""
    _decide(
        id, call, reason, settings_of(url=url, port=port, api_key=api_key), is_approved=True, as_json=json
    )


def deny(
    id: RunId,
    call: CallIds = None,
    reason: Annotated[str, typer.Option(help="Reason, which the model reads.")] = "",
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Deny calls that wait; the model reads the reason and goes on without them."""
    _decide(
        id, call, reason, settings_of(url=url, port=port, api_key=api_key), is_approved=False, as_json=json
    )


def resume(
    id: RunId,
    approve: ApproveOption = "ask",
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Go on with a run of this machine that was interrupted, or follow one of a server.

    Reading calls that had begun are made again. A writing call that had begun is not: the model reads that its outcome is
    unknown.
    """
    with (
        reported_errors(as_json=json),
        closing(open_runs(_of_run(settings_of(url=url, port=port, api_key=api_key), id))) as runs,
    ):
        steps = Steps(None if json else console(stderr=True))
        _finish(runs, runs.follow(id, steps), steps, approve, as_json=json)


def settings_of(**flags: Any) -> Settings:
    """Returns the settings with the flags of a command."""
    from deepwell.settings import Settings

    return Settings.load(**flags)


def _of_run(settings: Settings, id: str) -> Settings:
    """Returns the settings with the model of a run of this machine, which a flag need not name again."""
    from deepwell.cli.agent.local import model_of

    model = model_of(settings, id)
    return settings if model is None else settings.with_model(model)


def _decide(
    id: str, calls: Sequence[str] | None, reason: str, settings: Settings, *, is_approved: bool, as_json: bool
) -> None:
    with reported_errors(as_json=as_json), closing(open_runs(_of_run(settings, id))) as runs:
        steps = Steps(None if as_json else console(stderr=True))
        steps.catch_up(runs.steps(id))
        runs.decide(id, calls, reason, is_approved=is_approved)
        found = runs.get(id)
        if found["status"] != "requires_action":
            found = runs.follow(id, steps)
        _finish(runs, found, steps, "ask", as_json=as_json)


def _finish(runs: Runs, found: dict[str, Any], steps: Steps, policy: Approval, *, as_json: bool) -> None:
    """Answers what a run waits for, and prints its end."""
    while found["status"] == "requires_action" and _answered(runs, found, policy, as_json=as_json):
        found = runs.follow(found["id"], steps)
    if as_json:
        write_json(found | {"where": runs.where, "steps": runs.steps(found["id"])})
    elif found["status"] == "requires_action":
        _tell_waiting(found)
    else:
        if found["output_text"]:
            sys.stdout.write(found["output_text"] + "\n")
            sys.stdout.flush()
        console(stderr=True).print(summary(found), style="dim", soft_wrap=True)
    if found["status"] == "requires_action":
        raise typer.Exit(_EXIT_WAITING)
    if found["status"] != "completed":
        raise typer.Exit(_EXIT_INCOMPLETE)


def _answered(runs: Runs, found: dict[str, Any], policy: Approval, *, as_json: bool) -> bool:
    """Decides about the calls of a run that wait. Returns whether that lets it go on."""
    waiting = [one for one in found["required_action"] if one["needs"] == "approval"]
    if len(waiting) < len(found["required_action"]):
        return False  # results of a client's functions, which are not made here
    if policy == "ask" and (as_json or not sys.stdin.isatty()):
        return False
    for one in waiting:
        is_approved = policy == "always" or (policy == "ask" and _asked(one))
        reason = "" if policy == "ask" else f"--approve {policy}"
        runs.decide(found["id"], [one["id"]], reason, is_approved=is_approved)
    return True


def _asked(call: dict[str, Any]) -> bool:
    return typer.confirm(f"Approve {call_line(call)}?", default=False, err=True)


def _tell_waiting(found: dict[str, Any]) -> None:
    from deepwell.errors import InvalidRequest

    calls = "; ".join(call_line(one) for one in found["required_action"])
    print_error(InvalidRequest.of("agent_not_ended", id=found["id"], calls=calls))

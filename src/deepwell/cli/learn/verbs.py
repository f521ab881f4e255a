"""`deepwell learn`: list the steps, show one, check what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import waiting
from deepwell.cli.usage import Verbs
from deepwell.messages import language, say

if TYPE_CHECKING:
    from deepwell.cli.learn.checks.desk import Desk, Finding

__all__ = ["register"]

Number = Annotated[int, typer.Argument(help="Number of the step, from 1 to 12.", metavar="STEP")]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    learn = typer.Typer(
        cls=Verbs,
        invoke_without_command=True,
        help="Learn Deepwell in twelve steps: list them, show one, and check what you did.",
    )
    learn.callback()(overview)
    learn.command("list")(list_steps)
    learn.command()(show)
    learn.command()(check)
    app.add_typer(learn, name="learn")


def overview(context: typer.Context) -> None:
    """Learn Deepwell in twelve steps: list them, show one, and check what you did."""
    if context.invoked_subcommand is None:
        list_steps(json=False)


def list_steps(json: JsonFlag = False) -> None:
    """List the steps of the learning path, with those that you have passed."""
    with reported_errors(as_json=json):
        from deepwell.cli.learn.steps import Passed, steps
        from deepwell.settings import Settings

        chosen = language()
        passed = Passed(Settings.load().state_dir).times()
        next_one = next((one.number for one in steps() if one.number not in passed), None)
        if json:
            rows = [
                {
                    "number": one.number,
                    "title": one.called(chosen),
                    "minutes": one.minutes,
                    "needs": list(one.needs),
                    "page": one.page(chosen),
                    "passed": passed.get(one.number),
                }
                for one in steps()
            ]
            write_json({"steps": rows, "next": next_one})
            return
        out = console()
        for one in steps():
            mark = "x" if one.number in passed else ">" if one.number == next_one else " "
            out.print(f"[{mark}] {one.number:2}  {one.called(chosen)}", soft_wrap=True)
        if next_one is None:
            out.print(f"\n{say('learn_done')}", soft_wrap=True)
        else:
            out.print(f"\n{say('learn_next', number=next_one)}", soft_wrap=True)


def show(number: Number, json: JsonFlag = False) -> None:
    """Show a step: its commands, its exercise, and what the check looks at."""
    with reported_errors(as_json=json):
        from deepwell.cli.learn.steps import page_of, step_of

        chosen = language()
        step = step_of(number)
        text = page_of(step, chosen)
        if json:
            fields = {"number": number, "title": step.called(chosen), "page": step.page(chosen), "text": text}
            write_json(fields)
        else:
            console().print(text.rstrip(), soft_wrap=True)
            console().print(f"\n{say('learn_page', page=step.page(chosen))}", soft_wrap=True)


def check(
    number: Number,
    folder: Annotated[Path, typer.Option(help="Folder in which you work.", metavar="FOLDER")] = Path(),
    url: Annotated[
        str | None,
        typer.Option(help="Server to look at, such as http://10.0.0.5:8000; unset: the one on this machine."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPWELL_API_KEY",
            help="API key to send; the variable DEEPWELL_API_KEY keeps it out of the list of processes.",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check what you did in a step: look at files, the store and the server, and say what is missing and how to fix it."""
    with reported_errors(as_json=json):
        from deepwell.cli.learn.checks.desk import Desk
        from deepwell.cli.learn.steps import Passed, said, step_of
        from deepwell.cli.servers import server_url
        from deepwell.errors import InvalidRequest
        from deepwell.settings import Settings

        chosen = language()
        step = step_of(number)
        settings = Settings.load(url=url)
        if not folder.is_dir():
            raise InvalidRequest.of("path_missing", path=folder)
        desk = Desk(folder.resolve(), server_url(settings), api_key or "", chosen)
        with waiting(say("learn_checking"), shown=not json):
            findings = _checks()[number](desk)
        ok = all(one.ok for one in findings)
        if ok:
            Passed(settings.state_dir).add(number, datetime.now(UTC).isoformat(timespec="seconds"))
        texts = [(one, *said(one, chosen)) for one in findings]
        if json:
            rows = [{"check": one.key, "ok": one.ok, "message": text, "fix": fix} for one, text, fix in texts]
            write_json({"step": number, "passed": ok, "findings": rows})
        else:
            _print(number, step.called(chosen), texts, ok)
    if not ok:
        raise typer.Exit(1)


def _checks() -> Mapping[int, Callable[[Desk], list[Finding]]]:
    from deepwell.cli.learn.checks import answers, measuring, service

    return {
        1: answers.first_answer,
        2: answers.own_program,
        3: answers.structured_output,
        4: answers.answers_from_documents,
        5: measuring.measured_task,
        6: measuring.own_policy,
        7: measuring.training_data,
        8: measuring.tuned_adapter,
        9: measuring.feedback_and_alignment,
        10: service.own_tools,
        11: service.keys_and_costs,
        12: service.rolled_out,
    }


def _print(number: int, title: str, texts: list[tuple[Finding, str, str]], ok: bool) -> None:
    out = console()
    for finding, text, fix in texts:
        out.print(f"[{'x' if finding.ok else ' '}] {text}", soft_wrap=True)
        if fix:
            out.print(f"    {say('learn_fix')}{fix}", soft_wrap=True)
    key = "learn_passed" if ok else "learn_missing"
    out.print(say(key, number=number, title=title), soft_wrap=True)

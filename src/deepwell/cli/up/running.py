"""From the plan to running parts, and `deepwell status` and `deepwell down`, which find them from another terminal."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.cli.up.plan import Asked, PlatformPlan
    from deepwell.process.programs import Program
    from deepwell.settings import Settings

__all__ = ["down", "run_platform", "status"]

_CLAIM = "up"  # name of the files of its state, in the data folder
_PAUSE_S = 0.1
_MARGIN_S = 30.0
_HEALTH = {"api": "/readyz", "tensorboard": "/", "jupyter": "/api"}
_HEALTH_S = 3.0


def run_platform(asked: Asked, *, init: bool, as_json: bool) -> None:
    """Plans, fetches what is missing, and runs the parts until a signal comes.

    Raises:
        DeepwellError: it runs already, this machine cannot do what was asked for, or the server could not start.
    """
    from deepwell.cli.up.platform import Platform
    from deepwell.process.claim import Claim
    from deepwell.settings import Settings

    # The first process of a container would ignore it while models are pulled.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Settings.load().data_dir
    claim = Claim(folder, _CLAIM)
    try:
        if not claim.take():
            raise InvalidRequest.of("up_running", folder=folder)
        claim.tell({"began": time.time(), "model": {}, "parts": []})
        plan = _prepared(asked, init=init, as_json=as_json)
        programs, token = _programs(plan)
        Platform(plan, programs, claim, token=token, as_json=as_json).run()
    finally:
        claim.release()
        signal.signal(signal.SIGTERM, before)
    if not as_json:
        console().print(say("up_stopped"))


def _prepared(asked: Asked, *, init: bool, as_json: bool) -> PlatformPlan:
    """Returns the plan, with everything here that it needs: models, a key in a container, the knowledge base."""
    from deepwell.cli.keys import check_store, has_stored_key
    from deepwell.cli.up.grounding import fill_from
    from deepwell.cli.up.key import first_key
    from deepwell.cli.up.models import pull_models
    from deepwell.cli.up.plan import make_plan

    plan = make_plan(asked)
    if plan.models.missing:
        plan = plan.with_models(pull_models(plan.settings, plan.models, shown=not as_json))
    if as_json:
        write_json({"event": "plan", **plan.as_json()})
    else:
        for line in plan.lines():
            console().print(line, soft_wrap=True)
    check_store(plan.settings, init=init)
    if plan.container and plan.settings.is_exposed():
        key, note = first_key(plan.settings)
        if note is not None and as_json:
            write_json({"event": "key", "key": key or None, "note": note.said("en")})
        elif note is not None:
            console().print(note.said(), soft_wrap=True)
    plan.settings.require_safe_address(stored_keys=lambda: has_stored_key(plan.settings))
    if asked.knowledge is not None:
        found = fill_from(plan.settings, asked.knowledge, shown=not as_json)
        if as_json:
            write_json({"event": "knowledge", **found})
        else:
            from deepwell.cli.knowledge.fill import print_added

            print_added(found)
    return plan


def _programs(plan: PlatformPlan) -> tuple[list[Program], str]:
    """Returns the programs of the parts, and the token of JupyterLab."""
    from deepwell.cli.up.parts import api_program, jupyter_program, runs_folder, tensorboard_program

    host, data_dir = plan.settings.host, plan.settings.data_dir.absolute()
    programs = [api_program(Path.cwd(), plan.models.names, plan.flags, (host, plan.api.port))]
    token = ""
    if (part := plan.part("tensorboard")) is not None:
        programs.append(tensorboard_program(runs_folder(data_dir), host, part.port))
    if (part := plan.part("jupyter")) is not None:
        program, token = jupyter_program(data_dir, host, part.port, plan.api.url)
        programs.append(program)
    return programs, token


def status(json: JsonFlag = False) -> None:
    """Show the parts that `deepwell up` runs: URL, health, restarts, memory, model; exit code 1 if it does not run."""
    with reported_errors(as_json=json):
        from deepwell.process.claim import read_claim
        from deepwell.settings import Settings

        found = read_claim(Settings.load().data_dir, _CLAIM)
        report = {"running": False} if found is None else _report(found)
        if json:
            write_json(report)
        elif found is None:
            console().print(say("up_not_running"), soft_wrap=True)
        else:
            _print_status(report)
    if found is None:
        raise typer.Exit(1)


def down(
    now: Annotated[
        bool, typer.Option("--now", help="End answers in flight at once, instead of letting them finish.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """End what `deepwell up` runs on this machine: answers in flight finish, then every part ends."""
    with reported_errors(as_json=json):
        from deepwell.process.claim import read_claim
        from deepwell.settings import Settings

        settings = Settings.load()
        found = read_claim(settings.data_dir, _CLAIM)
        if found is None:
            raise InvalidRequest.of("up_absent", folder=settings.data_dir)
        if not found["here"]:
            raise InvalidRequest.of("up_elsewhere", folder=settings.data_dir)
        os.kill(found["pid"], signal.SIGTERM)
        if now:
            os.kill(found["pid"], signal.SIGTERM)
        _wait_for_end(settings, found["pid"])
        if json:
            write_json({"ended": found["pid"]})
        else:
            console().print(say("up_ended", pid=found["pid"]), soft_wrap=True)


def _wait_for_end(settings: Settings, pid: int) -> None:
    from deepwell.process.claim import read_claim

    until = time.monotonic() + settings.drain_seconds + _MARGIN_S
    while (found := read_claim(settings.data_dir, _CLAIM)) is not None and found["pid"] in (pid, 0):
        if time.monotonic() > until:
            raise DeepwellError.of("up_does_not_end", pid=pid)
        time.sleep(_PAUSE_S)


def _report(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the state with what can be seen from outside: health, memory, time."""
    parts = [
        one
        | {"healthy": _is_healthy(one), "memory_bytes": tree_memory(one["pid"]) if found["here"] else None}
        for one in found.get("parts", ())
    ]
    return {
        "running": True,
        "pid": found["pid"],
        "here": found["here"],
        "uptime_s": round(time.time() - found.get("began", time.time()), 1),
        "model": found.get("model") or None,
        "parts": parts,
    }


def _is_healthy(part: dict[str, Any]) -> bool:
    import httpx

    try:
        with httpx.Client(timeout=_HEALTH_S, trust_env=False) as http:
            return http.get(f"{part['url']}{_HEALTH[part['name']]}").status_code == 200
    except httpx.HTTPError:
        return False


def tree_memory(pid: int) -> int | None:
    """Returns the bytes of memory of a process and all below it, shared pages in parts; None: it cannot be read."""
    total, waiting = 0, [pid] if pid else []
    while waiting:
        one = Path(f"/proc/{waiting.pop()}")
        try:
            rollup = (one / "smaps_rollup").read_text(encoding="ascii")
            total += (
                next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) << 10
            )
            for task in one.glob("task/*/children"):
                waiting += map(int, task.read_text(encoding="ascii").split())
        except (OSError, StopIteration):  # it has ended meanwhile
            continue
    return total or None


def _print_status(report: dict[str, Any]) -> None:
    out = console()
    minutes, seconds = divmod(int(report["uptime_s"]), 60)
    hours, minutes = divmod(minutes, 60)
    out.print(say("up_uptime", pid=report["pid"], time=f"{hours}:{minutes:02}:{seconds:02}"), soft_wrap=True)
    if model := report["model"]:
        named = (model.get("model"), model.get("precision"), model.get("threads"), model.get("context"))
        out.print(
            say(
                "up_status_model",
                **dict(zip(("name", "precision", "threads", "context"), named, strict=True)),
            )
        )
    yes, no = say("up_healthy"), say("up_unhealthy")
    from deepwell.cli.up.plan import title_of

    rows = [
        (
            title_of(one["name"]),
            one["url"],
            yes if one["healthy"] else f"{no} ({one['state']})",
            str(one["restarts"]),
            "" if one["memory_bytes"] is None else f"{one['memory_bytes'] / 1e6:.0f} MB",
        )
        for one in report["parts"]
    ]
    print_table(say("up_columns").split("|"), rows)

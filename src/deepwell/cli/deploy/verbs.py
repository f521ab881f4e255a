"""`deepwell deploy apply|plan|status|down`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.progress import waiting
from deepwell.errors import DeepwellError, InvalidRequest

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["apply", "down", "plan", "status"]

File = Annotated[Path, typer.Argument(help="Declaration, such as deploy.yaml.", metavar="FILE")]
Name = Annotated[
    str | None, typer.Argument(help="Name of the deployment; unset: the one that runs.", metavar="NAME")
]
_ROUTINE = ("[WARNING]", "has no server available!")  # what haproxy says of every switch
_END_S = 15.0
_START_S = 600.0
_LAST_LINES = 12


def apply(
    file: File,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return as soon as it serves, and let it run in the background.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Run a deployment until Ctrl-C: its replicas, the front before them, and the steps of roll-outs.

    The grade mesh is applied to a cluster by kubectl, and goes on there after Ctrl-C.
    """
    with reported_errors(as_json=json):
        from deepwell.cli.keys import check_store, has_stored_key
        from deepwell.fleet.deploy.declaration import load_declaration
        from deepwell.fleet.deploy.machine import Opened, run_opened, settings_of
        from deepwell.settings import Settings

        declaration = load_declaration(file)
        settings = settings_of(declaration, Settings.load())
        if (
            declaration.grade == "machine"
        ):  # containers have a database of their own, and a key at their first start
            check_store(settings, init=False)
            exposed = settings.model_copy(update={"host": declaration.host})
            exposed.require_safe_address(stored_keys=lambda: has_stored_key(settings))
        if declaration.grade == "mesh":
            from deepwell.fleet.cluster.deployment import STEPPED_HERE
            from deepwell.fleet.cluster.running import run_mesh

            steps_here = declaration.mesh.controller in STEPPED_HERE
            if not detach or not steps_here:
                run_mesh(declaration, settings, _Shown(as_json=json).take)
                if not json:
                    _tell_how_a_mesh_goes_on(declaration.name, driven=steps_here)
                return
        if detach:
            _detach(file, declaration.name, settings, as_json=json)
            return
        shown = _Shown(as_json=json)
        run_opened(Opened(declaration, settings, shown.take))
        if not json:
            console().print(f"The deployment {declaration.name} has ended.")


def _tell_how_a_mesh_goes_on(name: str, *, driven: bool) -> None:
    again = "Roll-outs wait for the next `deepwell deploy apply`; " if driven else ""
    console().print(f"{name} goes on in the cluster. {again}`deepwell deploy down {name}` takes it away.")


class _Shown:
    """Prints what happens, one line each."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out = console()
        self._began = time.monotonic()

    def take(self, event: Mapping[str, Any]) -> None:
        """Prints one event."""
        if self._as_json:
            write_json(event)
            return
        from deepwell.fleet.deploy.replicas import reported_error

        part = event.get("part") if event["event"] == "line" else "fleet"
        text = str(event["text"])
        if event["event"] == "line" and text.startswith("{"):
            error = reported_error(text)
            if error is None:
                return  # reports of the server to its supervisor
            text = f"{error[0]}; {error[1]}"
        if part == "front" and any(one in text for one in _ROUTINE):
            return
        self._out.print(f"{time.monotonic() - self._began:8.1f}  {part:8}| {text}", soft_wrap=True)


def _detach(file: Path, name: str, settings: Settings, *, as_json: bool) -> None:
    """Starts the deployment in a session of its own, and waits until it serves.

    Raises:
        DeepwellError: it ended before.
    """
    from deepwell.fleet.deploy.machine import CLAIM, deployment_folder
    from deepwell.process.claim import read_claim

    folder = deployment_folder(settings, name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (facts := read_claim(folder, CLAIM)) is not None:
        raise InvalidRequest.of("deploy_running", name=name, pid=facts["pid"])
    log = folder / "log"
    with log.open("w", encoding="utf-8") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "deepwell", "deploy", "apply", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with waiting(f"{name} starts; see {log}", shown=not as_json):
        facts = _until_serving(child, name, folder, log)
    if as_json:
        write_json({"event": "serves", "url": facts["url"], "pid": facts["pid"], "log": str(log)})
        return
    text = f"{name} serves {facts['alias']} at {facts['url']} (pid {facts['pid']}, log {log})"
    console().print(text, soft_wrap=True)
    if (key := folder / "secrets" / "key").exists():
        console().print(f"the first API key is in {key}", soft_wrap=True)


def _until_serving(child: subprocess.Popen[bytes], name: str, folder: Path, log: Path) -> Mapping[str, Any]:
    """Returns what a deployment tells as soon as it serves.

    Raises:
        DeepwellError: it ended before, or takes too long.
    """
    from deepwell.fleet.deploy.machine import CLAIM
    from deepwell.process.claim import read_claim

    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        facts = read_claim(folder, CLAIM)
        if facts is not None and facts.get("current"):
            return facts
        if child.poll() is not None:
            raise DeepwellError.of("deploy_ended", name=name, said=_last_lines(log), log=log)
        time.sleep(0.1)
    raise DeepwellError.of("deploy_silent", name=name, seconds=f"{_START_S:g}", log=log)


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    return "".join(f"\n  {line}" for line in lines[-_LAST_LINES:])


def plan(file: File, json: JsonFlag = False) -> None:
    """Check a declaration and print what `apply` would start. Nothing is started."""
    with reported_errors(as_json=json):
        from deepwell.fleet.deploy.declaration import load_declaration
        from deepwell.fleet.deploy.planning import planned
        from deepwell.settings import Settings

        found = planned(load_declaration(file), Settings.load())
        if json:
            write_json(found)
            return
        out = console()
        for line in found["lines"]:
            out.print(line, soft_wrap=True)


def status(name: Name = None, json: JsonFlag = False) -> None:
    """Show a deployment that runs: its releases, replicas and roll-out; exit code 1 if none runs."""
    with reported_errors(as_json=json):
        from deepwell.fleet.deploy.machine import running_deployments
        from deepwell.settings import Settings

        found = running_deployments(Settings.load())
        chosen = {one: facts for one, facts in found.items() if name in (None, one)}
        if json:
            write_json({"deployments": list(chosen.values())})
        elif not chosen:
            console().print("No deployment runs on this machine: `deepwell deploy apply FILE` starts one.")
        else:
            for facts in chosen.values():
                _print(facts)
    if not chosen:
        raise typer.Exit(1)


def _print(facts: Mapping[str, Any]) -> None:
    out = console()
    if "slots" not in facts or facts["model"] is None:
        out.print(f"{facts.get('name', '?')}: it starts (pid {facts['pid']})")
        return
    up = time.time() - facts["began"]
    out.print(
        f"{facts['name']}: {facts['alias']} means {facts['model']}, at {facts['url']}, for {up:.0f} s (pid {facts['pid']})",
        soft_wrap=True,
    )
    front = facts["front"]
    rows = [("front", "", front["state"], str(front["pid"] or ""), str(front["restarts"]))]
    for slot in facts["slots"]:
        named = "" if slot["release"] is None else slot["release"]["name"]
        role = f"{named} ({'current' if slot['slot'] == facts['current'] else slot['phase']})"
        rows += [
            (one["name"], role, one["state"], str(one["pid"] or ""), str(one["restarts"]))
            for one in slot["replicas"]
        ]
    kept = {"front", *(one["name"] for slot in facts["slots"] for one in slot["replicas"])}
    for name, state in facts.get("containers", {}).items():
        rows += [] if name in kept else [(name, "", state, "", "")]
    print_table(("part", "release", "state", "pid", "restarts"), rows)
    if (rollout := facts["rollout"]) is not None:
        share = f"{100 * rollout['share']:g} %"
        out.print(
            f"Roll-out of {rollout['version']}: {share} of the users; {rollout['next']}", soft_wrap=True
        )
        for words in rollout["gates"]:
            out.print(f"  {words}", soft_wrap=True)


def down(
    name: Name = None,
    now: Annotated[
        bool, typer.Option("--now", help="Cut off answers under way, instead of letting them finish.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """End a deployment on this machine: answers under way finish, then everything ends."""
    with reported_errors(as_json=json):
        from deepwell.fleet.cluster.running import applied_meshes, delete_mesh
        from deepwell.fleet.deploy.machine import running_deployments
        from deepwell.settings import Settings

        settings = Settings.load()
        found = running_deployments(settings)
        meshes = applied_meshes(settings)
        known = sorted({*found, *meshes})
        if name is None and len(known) > 1:
            raise InvalidRequest.of("deploy_several", names=", ".join(known))
        if name is None and not known:
            raise InvalidRequest.of("deploy_none")
        chosen = name if name is not None else known[0]
        facts = found.get(chosen)
        if (facts is None and chosen not in meshes) or (facts is not None and not facts["here"]):
            raise InvalidRequest.of("deploy_absent", name=chosen)
        pid = None if facts is None else facts["pid"]
        if facts is not None:
            _end(settings, chosen, facts, now=now, shown=not json)
        with waiting("kubectl takes it out of the cluster", shown=not json and chosen in meshes):
            delete_mesh(settings, chosen)
        if json:
            write_json({"ended": chosen, "pid": pid})
        else:
            console().print(f"The deployment {chosen} has ended.")


def _end(settings: Settings, name: str, facts: Mapping[str, Any], *, now: bool, shown: bool) -> None:
    """Ends the process of a deployment, and waits until it has ended.

    Raises:
        DeepwellError: it does not end.
    """
    from deepwell.fleet.deploy.machine import wait_for_end

    pid = facts["pid"]
    os.kill(pid, signal.SIGTERM)
    if now:
        os.kill(pid, signal.SIGTERM)
    seconds = facts.get("drain_s", 0.0) * 2 + _END_S
    with waiting("Answers under way finish; --now cuts them off", shown=shown):
        ended = wait_for_end(settings, name, pid, seconds)
    if not ended:
        raise DeepwellError.of("deploy_does_not_end", name=name, seconds=f"{seconds:g}")

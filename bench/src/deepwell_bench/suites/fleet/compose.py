"""`deepwell bench fleet-compose`: the compose file of a fleet, played by podman-compose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx

from deepwell.cli.bench.report import Report, rounded
from deepwell.fleet.deploy.declaration import Declaration
from deepwell.fleet.pods.compose import render_compose
from deepwell.fleet.pods.pod import images_of, pod_name
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port
from deepwell_bench.suites.deploy.podman import needs_podman, podman

__all__ = ["bench_fleet_compose"]

_ALIAS: Final = "chat@prod"
_NAME: Final = "bench-compose"
_START_S: Final = 180.0
_GONE_S: Final = 30.0
_KINDS: Final = ("ps --all", "volume ls", "network ls", "pod ls", "secret ls")
_PARTS: Final = ("front", "replica0", "replica1", "postgres", "valkey", "prometheus")


def bench_fleet_compose(report: Report, model: Path) -> dict[str, Any]:
    """Renders a fleet of two replicas, starts it, asks it through haproxy, kills parts of it, and ends it.

    Args:
        model: GGUF file of smollm2 in a model store.

    Raises:
        PeerError: podman, podman-compose or an image is missing, or the fleet does not start.
    """
    needs_podman()
    program = shutil.which(
        "podman-compose", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    )
    if program is None:
        raise PeerError("podman-compose is not installed", fix="pip install podman-compose")
    port, shown = free_port(), free_port()
    declaration = Declaration.model_validate(
        {
            "name": _NAME,
            "grade": "containers",
            "alias": _ALIAS,
            "model": "smollm2",
            "port": port,
            "serve": {"context": 1024, "threads": 1},
            "rollout": {"drain_seconds": 20},
            "containers": {"prometheus_port": shown},
        }
    )
    for image in images_of(declaration).values():
        if podman("image", "exists", image, check=False).returncode:
            raise PeerError(f"the image {image} is not here", fix="run `deepwell deploy images`")
    with tempfile.TemporaryDirectory(prefix="deepwell-compose-") as name:
        folder = Path(name) / "fleet"
        render_compose(declaration, folder, model.parent.parent, answer_s=600)
        run = _runner(program, folder)
        began = time.monotonic()
        try:
            run("up", "-d")
            figures = _asked(folder, port, shown)
            figures["start_s"] = rounded(figures.pop("ready") - began, 3)
            began = time.monotonic()
        finally:
            run("down", "--volumes")
        figures["end_s"] = rounded(time.monotonic() - began, 3)
        figures["left"] = _left()
    report.table("A fleet by podman-compose", ["figure", "value"], [[a, str(b)] for a, b in figures.items()])
    return figures


def _runner(program: str, folder: Path) -> Callable[..., None]:
    def run(*arguments: str) -> None:
        done = subprocess.run(
            [program, "-f", str(folder / "compose.yaml"), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"},
        )
        if done.returncode:
            told = (done.stdout + done.stderr).strip()[-800:]
            raise PeerError(f"`podman-compose {arguments[0]}` fails: {told}")

    return run


def _until(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.5)
    return False


def _asked(folder: Path, port: int, shown: int) -> dict[str, Any]:
    """Uses the fleet that has been started, and returns the figures; `ready` is the time at which it was."""
    key = (folder / "secrets" / "key").read_text(encoding="utf-8").strip()
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": _ALIAS, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}/v1", headers=headers, timeout=60, trust_env=False
    ) as http:

        def answers() -> bool:
            try:
                return http.post("/chat/completions", json=body).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False

        if not _until(_START_S, answers):
            done = podman("logs", _container("replica0"), check=False)
            raise PeerError(f"the fleet does not answer: {(done.stdout + done.stderr)[-500:]}")
        ready = time.monotonic()
        ups = _until(60, lambda: _targets(shown) == 3)
        without = http.post("/chat/completions", json=body, headers={"authorization": "Bearer none"})
        # Written through any replica, read from each alone
        talk = http.post(
            "/conversations", json={"items": [{"role": "user", "content": "Remember 42."}]}
        ).json()
        file = http.post(
            "/files", files={"file": ("a.txt", b"forty-two")}, data={"purpose": "user_data"}
        ).json()
        read = sum(_reads_alone(name, http, talk["id"], file["id"]) for name in ("replica0", "replica1"))
        podman("kill", "--signal=KILL", _container("replica0"))
        failed = sum(not answers() for _ in range(10))
        podman("start", _container("replica0"), check=False)
        healthy = sum(
            _until(
                60,
                lambda part=part: not podman("healthcheck", "run", _container(part), check=False).returncode,
            )
            for part in _PARTS
        )
    return {
        "ready": ready,
        "answers_without_key": int(without.status_code != httpx.codes.UNAUTHORIZED),
        "replicas_that_read_all": read,
        "failed_after_a_kill": failed,
        "healthy_parts": healthy,
        "targets_up": 3 if ups else _targets(shown),
        "secrets_shown": _secrets_shown(folder),
    }


def _reads_alone(name: str, http: httpx.Client, talk: str, file: str) -> bool:
    """Returns whether one replica, asked without the front, has a conversation and a file."""
    code = (
        "import sys, urllib.request as u\n"
        "for path in sys.argv[1:]:\n"
        "    asked = u.Request('http://127.0.0.1:8000/v1' + path, headers={'authorization': sys.stdin.readline().strip()})\n"
        "    print(u.urlopen(asked, timeout=20).read().decode())\n"
    )
    paths = (f"/conversations/{talk}/items", f"/files/{file}/content")
    done = subprocess.run(
        ["podman", "exec", "--interactive", _container(name), "python", "-c", code, *paths],
        input=f"{http.headers['authorization']}\n" * len(paths),
        capture_output=True,
        text=True,
        check=False,
    )
    return "Remember 42." in done.stdout and "forty-two" in done.stdout


def _container(part: str) -> str:
    return f"{pod_name(_NAME)}_{part}_1"


def _targets(port: int) -> int:
    """Returns the number of targets that Prometheus scrapes."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/targets?state=active", trust_env=False, timeout=5)
        return sum(one["health"] == "up" for one in answer.json()["data"]["activeTargets"])
    except (httpx.HTTPError, ValueError):
        return 0


def _secrets_shown(folder: Path) -> int:
    """Returns how many secrets stand in what podman tells of the containers, or in the files of the fleet."""
    told = "".join(podman("inspect", _container(part)).stdout for part in _PARTS)
    told += "".join(
        one.read_text(encoding="utf-8")
        for one in folder.rglob("*")
        if one.is_file() and one.parent.name != "secrets"
    )
    given = [
        (folder / "secrets" / name).read_text(encoding="utf-8").strip()
        for name in ("key", "postgres", "valkey")
    ]
    return sum(one in told for one in given)


def _left() -> int:
    """Returns how many things of the fleet podman still has."""

    def found() -> list[str]:
        lines: list[str] = []
        for kind in _KINDS:
            told = podman(*kind.split(), "--format=json", check=False).stdout
            lines += [json.dumps(one) for one in json.loads(told or "[]") or []]
        return [line for line in lines if pod_name(_NAME) in line]

    _until(_GONE_S, lambda: not found())
    return len(found())

"""Images as their users meet them: built, weighed, run with nothing to write to but tmpfs, and asked through their ports."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port
from deepwell_bench.harness.served import serve_command, served
from deepwell_bench.suites.deploy.podman import (
    build,
    container,
    image_bytes,
    inspect,
    needs_podman,
    podman,
    wait_for,
)

__all__ = ["bench_container", "image_faults"]

IMAGE = "localhost/deepwell"
TARGETS = ("python", "api", "platform")
LOCKED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
# Without podman's own tmpfs below a read-only root: two places to write, each named.
TMPFS = ("--read-only-tmpfs=false", "--tmpfs=/tmp", "--tmpfs=/data")
START_SECONDS = 180
QUESTION = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 32,
    "temperature": 0,
    "logprobs": True,
}
_KEY = re.compile(r"\bdw-[\w-]{20,}")
_SECRET = re.compile(r"(?i)(password|secret|token|api_?keys?|index_url|proxy)=.")

# Runs inside: prints a line for each thing that an image should not have.
_LOOK = r"""
[ "$(id -u)" != 0 ] || echo "runs as root"
for tool in cc gcc g++ ccache cmake ninja make; do command -v $tool >/dev/null && echo "has $tool"; done
for path in / /usr /opt/deepwell /opt/deepwell/bin; do [ -w $path ] && echo "may write to $path"; done
find / -xdev \( -path '*/.cache/pip' -o -name '*.whl' -path '/root/*' -o -path '/var/cache/apt/archives/*.deb' \
  -o -path '/var/lib/apt/lists/*_Packages*' -o -path '/run/secrets/*' \) 2>/dev/null | sed 's/^/keeps /'
find /opt/deepwell -perm /022 ! -type l | sed 's/^/others may change /'
python -c '
import json
from importlib.metadata import distributions
bill = json.load(open("/usr/share/deepwell/sbom.json"))
listed = {(one["name"].lower().replace("_", "-"), one["version"]) for one in bill["components"]}
listed.add(("deepwell", bill["metadata"]["component"]["version"]))
there = {(one.name.lower().replace("_", "-"), one.version) for one in distributions()}
print("CycloneDX is missing") if bill["bomFormat"] != "CycloneDX" else None
for name, version in sorted(there ^ listed): print("the bill of materials differs:", name, version)
'
"""


@dataclass
class _Findings:
    """Faults so far, and seconds from the start of a container to its readiness."""

    faults: list[str] = field(default_factory=list[str])
    ready_seconds: dict[str, float] = field(default_factory=dict[str, float])

    def expect(self, condition: object, fault: str) -> None:
        if not condition:
            self.faults.append(fault)


def bench_container(
    report: Report, *, image: str | None, base: str | None, build_secrets: Sequence[str], model: Path
) -> dict[str, Any]:
    """Builds the images `api` and `platform`, compares their sizes with that of their base and Python, and runs them.

    Args:
        image: repository whose tags `python`, `api` and `platform` are there already; None: they are built.
        base: image to build on; None: a local Debian if there is one, else that of the Containerfile.
        build_secrets: as `podman build --secret` takes them.
        model: a GGUF file that both serve.

    Raises:
        PeerError: podman is missing, or an image does not build or start.
    """
    needs_podman()
    names = {target: f"{image or IMAGE}:{target}" for target in TARGETS}
    seconds = (
        {target: build(target, name, base=base, secrets=build_secrets) for target, name in names.items()}
        if image is None
        else {}
    )
    sizes = {target: image_bytes(name) / 1e6 for target, name in names.items()}
    findings = _Findings()
    for target in ("api", "platform"):
        findings.faults += [f"{target}: {fault}" for fault in image_faults(names[target])]
    _run_api(names["api"], model, findings)
    _run_platform(names["platform"], model, findings)
    for fault in findings.faults:
        report.note(f"FAULT {fault}")
    report.table(
        "Images",
        ["image", "MB", "over base and Python", "ready s", "build s"],
        [
            [
                target,
                size,
                size - sizes["python"],
                findings.ready_seconds.get(target, "-"),
                seconds.get(target, "-"),
            ]
            for target, size in sizes.items()
        ],
    )
    return {
        "api_mb": rounded(sizes["api"] - sizes["python"]),
        "platform_mb": rounded(sizes["platform"] - sizes["python"]),
        "base_mb": rounded(sizes["python"]),
        "faults": len(findings.faults),
        "ready_seconds": {name: rounded(value, 3) for name, value in findings.ready_seconds.items()},
        "build_seconds": {name: rounded(value, 3) for name, value in seconds.items()},
    }


def image_faults(image: str) -> list[str]:
    """Returns what is wrong with an image: its user, what it says of itself, what it keeps, what can be written to."""
    found = inspect(image)
    faults = [
        f"the variable {one.split('=')[0]} is set" for one in found["Config"]["Env"] if _SECRET.search(one)
    ]
    if not found.get("Healthcheck"):
        faults.append("no health check")
    look = podman(
        *("run", "--rm", "--network=none", *LOCKED, *TMPFS, "--entrypoint=sh", image, "-c", _LOOK),
        check=False,
    )
    return faults + [line for line in (look.stdout + look.stderr).splitlines() if line.strip()]


def _run_api(image: str, model: Path, findings: _Findings) -> None:
    """Serves with a read-only root, no capabilities and two tmpfs, and stops."""
    port, key = free_port(), secrets.token_hex(32)
    options = [*LOCKED, *TMPFS, f"--publish=127.0.0.1:{port}:8000", f"--volume={model}:/models/model.gguf:ro"]
    options += [f"--env=DEEPWELL_API_KEYS={key}"]
    with container(image, "serve", "/models/model.gguf", options=options) as running:
        answer = _examine("api", running, port, key, findings)
        with served(serve_command(model)) as ours:
            expected = _answer(f"http://127.0.0.1:{ours}")
        findings.expect(answer == expected, f"api: answers {answer[0]!r}, this checkout {expected[0]!r}")
        start = time.monotonic()
        podman("stop", "--time=30", running)
        code = podman("inspect", "--format={{.State.ExitCode}}", running).stdout.strip()
        findings.expect(code == "0" and time.monotonic() - start < 25, f"api: a stop ends with {code}")
    open_to_all = podman("run", "--rm", *LOCKED, *TMPFS, image, check=False)
    findings.expect(open_to_all.returncode, "api: serves without a key")


def _run_platform(image: str, model: Path, findings: _Findings) -> None:
    """Runs the command of the guide, with other ports and without a GPU: a folder with models of one's own, all parts."""
    ports = {part: free_port() for part in (6006, 8888, 8000)}
    with tempfile.TemporaryDirectory(prefix="deepwell-models-") as folder:
        Path(folder).chmod(0o755)
        shutil.copyfile(model, Path(folder) / model.name)
        options = [f"--publish=127.0.0.1:{port}:{inside}" for inside, port in ports.items()]
        options += [f"--volume={folder}:/models", *LOCKED, *TMPFS]
        arguments = "--model-path /models --precision fp16 --batch-size 16 --tensor-parallel 1".split()
        with container(image, *arguments, options=options) as running:
            waited = wait_for(f"http://127.0.0.1:{ports[8000]}/readyz", running, seconds=START_SECONDS)
            findings.ready_seconds["platform"] = waited
            logs = podman("logs", running)
            found = _KEY.search(logs.stdout + logs.stderr)
            findings.expect(found, "platform: no key is printed")
            answer = _examine("platform", running, ports[8000], found[0] if found else "", findings)
            findings.expect(answer[0], "platform: an empty answer")
            for part, inside, path, said in (
                ("TensorBoard", 6006, "/", "TensorBoard"),
                ("JupyterLab", 8888, "/api", "version"),
            ):
                url = f"http://127.0.0.1:{ports[inside]}{path}"
                wait_for(url, running, seconds=START_SECONDS)
                findings.expect(
                    said in httpx.get(url, trust_env=False).text, f"platform: {part} says something else"
                )
            refused = httpx.get(f"http://127.0.0.1:{ports[8888]}/api/contents", trust_env=False)
            findings.expect(
                refused.status_code == httpx.codes.FORBIDDEN, "platform: notebooks are open to all"
            )


def _examine(target: str, running: str, port: int, key: str, findings: _Findings) -> Any:
    """Waits for the API, checks its health and its refusal without a key, and returns its answer."""
    base = f"http://127.0.0.1:{port}"
    waited = wait_for(f"{base}/readyz", running, seconds=START_SECONDS)
    findings.ready_seconds.setdefault(target, waited)
    findings.expect(
        podman("healthcheck", "run", running, check=False).returncode == 0, f"{target}: unhealthy"
    )
    with httpx.Client(base_url=base, timeout=120, trust_env=False) as http:
        refused = http.post("/v1/chat/completions", json=QUESTION)
        findings.expect(refused.status_code == httpx.codes.UNAUTHORIZED, f"{target}: answers without a key")
    return _answer(base, key)


def _answer(base: str, key: str = "") -> Any:
    """Returns the text and the log probabilities of an answer."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=base, headers=headers, timeout=120, trust_env=False) as http:
        models = http.get("/v1/models").json()
        done = http.post("/v1/chat/completions", json={**QUESTION, "model": models["data"][0]["id"]})
    if done.status_code != httpx.codes.OK:
        raise PeerError(f"no answer: {done.text[:300]}")
    choice = done.json()["choices"][0]
    return choice["message"]["content"], choice["logprobs"]

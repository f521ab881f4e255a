"""`deepwell bench fleet-manifests`: manifests of `deploy/kustomize` judged without a cluster, and a pod played by podman."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from deepwell.cli.bench.report import Report, rounded
from deepwell.fleet.deploy.blobs import BlobTerms
from deepwell.fleet.deploy.manifests import CONTROLLERS, render_mesh
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port
from deepwell_bench.suites.deploy.podman import needs_podman, podman, wait_for
from deepwell_bench.suites.fleet.schemas import built, identity, reference_faults, schema_faults, spoiled

__all__ = ["OVERLAYS", "ExampleDeclaration", "bench_fleet_manifests"]

OVERLAYS: Final = ("base", *(f"overlays/{name}" for name in (*CONTROLLERS, "single")), "pull")
"""Folders of `deploy/kustomize` that are applied; `pull` names the model store of the others."""
_PLAYED: Final = ("ConfigMap", "PersistentVolumeClaim", "Deployment")
START_SECONDS: Final = 180


@dataclass(frozen=True)
class _Serve:
    def flags(self) -> list[str]:
        return ["--context", "4096"]


@dataclass(frozen=True)
class _Gates:
    error_rate: float | None = 0.02
    refusal_rate: float | None = 0.1
    first_token_p95_ms: float | None = 400
    guard_rate: float | None = None


@dataclass(frozen=True)
class _Rollout:
    steps: Sequence[float] = (1, 10, 100)
    hold_seconds: float = 45
    gates: _Gates = field(default_factory=_Gates)


@dataclass(frozen=True)
class ExampleDeclaration:
    """Values of a deployment that differ from those of the base in everything that a declaration may say."""

    name: str = "chat"
    alias: str = "smollm2@prod"
    model: str = "smollm2"
    adapters: Sequence[str] = ("formal=/models/formal",)
    replicas: int = 3
    port: int = 8080
    serve: _Serve = field(default_factory=_Serve)
    policy: str | None = "strict"
    knowledge: str | None = None
    database: str | None = "file:/run/secrets/database"
    valkey: str | None = "file:/run/secrets/valkey"
    blobs: BlobTerms | None = field(
        default_factory=lambda: BlobTerms(
            bucket="s3://chat/files", endpoint="https://s3.example", credentials="file:/run/secrets/blobs"
        )
    )
    rollout: _Rollout = field(default_factory=_Rollout)


@dataclass
class _Judged:
    """Findings of the checks so far."""

    faults: list[str] = field(default_factory=list[str])
    kinds: set[str] = field(default_factory=set[str])
    manifests: int = 0
    spoiled: int = 0
    refused: int = 0

    def judge(self, name: str, folder: Path, *, outside: Sequence[str] = ()) -> None:
        """Checks all that a folder makes, and that one wrong field of each new kind is refused."""
        manifests = built(folder)
        self.manifests += len(manifests)
        self.faults += [
            f"{name}: {one}" for one in reference_faults(manifests, outside=("Secret/deepwell", *outside))
        ]
        for one in manifests:
            self.faults += [f"{name}: {identity(one)} {fault}" for fault in schema_faults(one)]
            if identity(one) in self.kinds:
                continue
            self.kinds.add(identity(one))
            for what, wrong in spoiled(one):
                self.spoiled += 1
                if schema_faults(wrong):
                    self.refused += 1
                else:
                    self.faults.append(f"{identity(one)} passes although {what}")


def bench_fleet_manifests(
    report: Report, *, model: Path, image: str = "localhost/deepwell:api"
) -> dict[str, Any]:
    """Builds, checks and lints the base, every overlay, and an overlay of a declaration for each controller; plays a pod.

    Args:
        model: GGUF file of smollm2, which the pod serves.
        image: image that the pod runs; it has to be there.

    Raises:
        PeerError: kubectl, kubernetes-validate, yamllint or podman are missing, or the image is.
    """
    base = repository() / "deploy" / "kustomize"
    judged = _Judged()
    for name in OVERLAYS:
        outside = ("PersistentVolumeClaim/deepwell-models",) if name == "pull" else ()
        judged.judge(name, base / name, outside=outside)
    with tempfile.TemporaryDirectory() as folder:
        for controller in CONTROLLERS:
            made = Path(folder) / controller
            render_mesh(
                ExampleDeclaration(), made, base=base, controller=controller, candidate="v2", share=0.05
            )
            judged.judge(f"rendered {controller}", made)
    judged.faults += _lint(base)
    tables = sum(not _bundled(kind) for kind in judged.kinds)
    report.table(
        "Kinds",
        ("kind", "checked by"),
        [(one, "schema" if _bundled(one) else "field table") for one in sorted(judged.kinds)],
    )
    ready, answered = _played(base, model, image, judged.faults)
    for fault in judged.faults:
        report.note(f"FAULT {fault}")
    return {
        "overlays": len(OVERLAYS) + len(CONTROLLERS),
        "manifests": judged.manifests,
        "kinds": len(judged.kinds),
        "kinds_by_field_tables": tables,
        "wrong_fields": judged.spoiled,
        "wrong_fields_missed": judged.spoiled - judged.refused,
        "faults": len(judged.faults),
        "pods_that_answered": answered,
        "pod_ready_s": rounded(ready, 3),
    }


def _bundled(kind: str) -> bool:
    """Returns whether a kind is one of Kubernetes' own."""
    group = kind.split("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and not group.startswith("gateway."))


def _lint(base: Path) -> list[str]:
    """Returns what yamllint says of the sources."""
    command = [
        sys.executable,
        "-m",
        "yamllint",
        "--strict",
        "--format",
        "parsable",
        "-c",
        base / ".yamllint",
        base,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named" in done.stderr:
        raise PeerError("yamllint is not installed", fix="pip install 'deepwell[dev]'")
    return [f"yamllint: {line}" for line in (done.stdout + done.stderr).splitlines()]


def _played(base: Path, model: Path, image: str, faults: list[str]) -> tuple[float, int]:
    """Plays the pod of the overlay `single`; returns the seconds until it was ready, and how many pods answered."""
    needs_podman()
    if podman("image", "exists", image, check=False).returncode:
        raise PeerError(
            f"the image {image} is not here",
            fix="run `deepwell bench container`, which builds it, or name one by --image",
        )
    key = f"dw-{secrets.token_urlsafe(24)}"
    port = free_port()
    with _pods(built(base / "overlays" / "single"), model, image, key, port) as pod:
        ready = wait_for(f"http://127.0.0.1:{port}/readyz", pod, seconds=START_SECONDS)
        body = {"model": "smollm2", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=120, trust_env=False) as client:
            if client.post("/chat/completions", json=body).status_code != httpx.codes.UNAUTHORIZED:
                faults.append("the pod answers without a key")
            answer = client.post("/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
        if answer.status_code != httpx.codes.OK:
            faults.append(f"the pod answers {answer.status_code}: {answer.text[:200]}")
            return ready, 0
        return ready, int(bool(answer.json()["choices"][0]["message"]["content"]))


@contextlib.contextmanager
def _pods(manifests: Sequence[dict[str, Any]], model: Path, image: str, key: str, port: int) -> Iterator[str]:
    """Yields the name of the container that serves. Names of its own keep the volumes of others apart."""
    played = [one for one in manifests if one["kind"] in _PLAYED]
    text = yaml.safe_dump_all(
        [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "deepwell"},
                "stringData": {"api-keys": key},
            },
            *played,
        ]
    )
    own = f"deepwell-bench-{secrets.token_hex(4)}"
    for name in ("deepwell-models", "deepwell-data"):
        text = text.replace(name, f"{own}-{name.rpartition('-')[2]}")
    text = text.replace("name: deepwell\n", f"name: {own}\n").replace("localhost/deepwell:api", image)
    with tempfile.TemporaryDirectory() as folder:
        file, archive = Path(folder) / "pod.yaml", Path(folder) / "models.tar"
        file.write_text(text, encoding="utf-8")
        with tarfile.open(archive, "w") as packed:
            packed.add(model.parent, arcname="smollm2")
        podman("volume", "create", f"{own}-models")
        try:
            podman("volume", "import", f"{own}-models", archive)
            podman("kube", "play", f"--publish=127.0.0.1:{port}:8000", file)
            yield f"{own}-pod-api"
        finally:
            podman("kube", "down", "--force", file, check=False)
            podman("volume", "rm", "--force", f"{own}-models", f"{own}-data", check=False)

"""Manifests of the mesh grade: what `kubectl kustomize` makes of them, and contracts between their parts."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.needs import KUBECTL
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.fleet.deploy.manifests import CONTROLLERS, Controller, render_mesh
from deepwell.server.app import create_app
from deepwell.settings import Settings
from deepwell_bench.suites.fleet.manifests import OVERLAYS, ExampleDeclaration
from deepwell_bench.suites.fleet.schemas import built, identity, reference_faults, schema_faults, spoiled

BASE = Path(__file__).parents[2] / "deploy" / "kustomize"
OURS = re.compile(r"\bdeepwell_\w+")

pytestmark = pytest.mark.needs(KUBECTL)


@functools.cache
def _text(name: str) -> str:
    return json.dumps(built(BASE / name))


def made(name: str) -> list[dict[str, Any]]:
    """Manifests of a folder below `deploy/kustomize`, which is built once."""
    return json.loads(_text(name))


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_fits_the_schemas_and_names_only_what_is_there(name: str) -> None:
    manifests = made(name)
    assert manifests
    assert [(identity(one), fault) for one in manifests for fault in schema_faults(one)] == []
    outside = ["Secret/deepwell", *(["PersistentVolumeClaim/deepwell-models"] if name == "pull" else [])]
    assert reference_faults(manifests, outside=outside) == []


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_an_overlay_of_a_declaration_fits_the_schemas(tmp_path: Path, controller: Controller) -> None:
    render_mesh(ExampleDeclaration(), tmp_path, base=BASE, controller=controller, candidate="v2", share=0.05)
    manifests = built(tmp_path)
    assert [(identity(one), fault) for one in manifests for fault in schema_faults(one)] == []
    assert reference_faults(manifests) == []
    containers = [one for manifest in manifests for one in _containers(manifest)]
    assert all(
        one["args"][:1] == ["serve"] and one["args"][2:4] == ["--context", "4096"] for one in containers
    )
    releases = [env["value"] for one in containers for env in one["env"] if env["name"] == "DEEPWELL_RELEASE"]
    expected = {
        "argo-rollouts": ["smollm2@prod=v2"],  # its candidate comes of the same Deployment
        "kserve": ["smollm2@prod=smollm2"],
    }
    assert releases == expected.get(controller, ["smollm2@prod=smollm2", "smollm2@prod=v2"])


def test_an_overlay_without_a_candidate_has_one_autoscaler(tmp_path: Path) -> None:
    render_mesh(ExampleDeclaration(), tmp_path, base=BASE)
    manifests = built(tmp_path)
    assert [one["metadata"]["name"] for one in manifests if one["kind"] == "HorizontalPodAutoscaler"] == [
        "deepwell"
    ]
    replicas = {
        one["metadata"]["name"]: one["spec"]["replicas"] for one in manifests if one["kind"] == "Deployment"
    }
    assert replicas == {"deepwell": 3, "deepwell-candidate": 0}


@pytest.mark.parametrize("name", ["base", *(f"overlays/{one}" for one in CONTROLLERS)])
def test_one_wrong_field_of_each_kind_is_refused(name: str) -> None:
    kinds = {identity(one): one for one in made(name)}
    for one in kinds.values():
        passed = [what for what, wrong in spoiled(one) if not schema_faults(wrong)]
        assert not passed, identity(one)


def test_a_name_that_is_missing_is_found() -> None:
    manifests = [one for one in made("base") if one["kind"] != "ConfigMap"]
    assert reference_faults(manifests) == ["ConfigMap/deepwell is named and is not there"]
    for one in manifests:
        if one["kind"] == "Service":
            one["spec"]["selector"] = {"app.kubernetes.io/name": "other"}
    assert "Service/deepwell selects no pods" in reference_faults(manifests)


def _containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return _pod(manifest).get("containers", [])


def _pod(manifest: dict[str, Any]) -> dict[str, Any]:
    template = manifest.get("spec", {}).get("template", {})
    return template.get("spec", template)


def _pods() -> list[dict[str, Any]]:
    manifests = [one for name in OVERLAYS for one in made(name)]
    return [pod for one in manifests if (pod := _pod(one))]


def test_pods_are_locked_down() -> None:
    for pod in _pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for one in pod["containers"]:
            context = one["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {mount["mountPath"] for mount in one["volumeMounts"]} == {"/data", "/models", "/tmp"}


def test_a_pod_outlives_the_longest_stream_and_leaves_the_routers_first() -> None:
    (config,) = (one["data"] for one in made("base") if one["kind"] == "ConfigMap")
    drain, longest = float(config["DEEPWELL_DRAIN_SECONDS"]), float(config["DEEPWELL_REQUEST_TIMEOUT_S"])
    assert drain >= longest
    serving = [pod for pod in _pods() if "lifecycle" in pod["containers"][0]]
    assert len(serving) >= 5
    for pod in serving:
        (one,) = pod["containers"]
        leaves = one["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] >= leaves + drain + 10
        # Readiness is lost within the time that a pod waits before it drains.
        ready, alive, start = one["readinessProbe"], one["livenessProbe"], one["startupProbe"]
        assert ready["periodSeconds"] * ready["failureThreshold"] < leaves
        assert (
            alive["periodSeconds"] * alive["failureThreshold"]
            > 2 * ready["periodSeconds"] * ready["failureThreshold"]
        )
        assert start["periodSeconds"] * start["failureThreshold"] == 600
        assert (ready["httpGet"]["path"], alive["httpGet"]["path"]) == ("/readyz", "/healthz")
    routes = [one for name in ("gateway-api", "istio") for one in made(f"overlays/{name}")]
    texts = re.findall(r"(?:request|timeout): (\d+)s", yaml.safe_dump(routes))
    assert len(texts) == 4
    assert all(longest < float(one) < drain + 30 for one in texts)


def test_settings_of_the_config_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    (config,) = (one["data"] for one in made("base") if one["kind"] == "ConfigMap")
    for name, value in config.items():
        assert name.removeprefix("DEEPWELL_").lower() in Settings.model_fields
        monkeypatch.setenv(name, value)
    assert Settings.load().drain_seconds == 600


async def test_every_metric_of_the_analysis_is_exposed(tmp_path: Path) -> None:
    (template,) = (one for one in made("overlays/argo-rollouts") if one["kind"] == "AnalysisTemplate")
    queries = [one["provider"]["prometheus"]["query"] for one in template["spec"]["metrics"]]
    named = {name for one in queries for name in OURS.findall(one)}
    service = make_service(FakeEngine(), make_codec(tmp_path), model="toy")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(service)), base_url="http://t"
    ) as client:
        text = (await client.get("/metrics")).text
    exposed: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        exposed |= {name, *((f"{name}_bucket",) if kind == "histogram" else ())}
    assert len(named) == 3
    assert named <= exposed


def test_headers_that_only_a_front_may_write_are_taken_away() -> None:
    """The same in both overlays that route, on every rule."""
    (route,) = (one for one in made("overlays/gateway-api") if one["kind"] == "HTTPRoute")
    removed = [
        set(one["requestHeaderModifier"]["remove"])
        for rule in route["spec"]["rules"]
        for one in rule["filters"]
    ]
    (service,) = (one for one in made("overlays/istio") if one["kind"] == "VirtualService")
    removed += [set(one["headers"]["request"]["remove"]) for one in service["spec"]["http"]]
    assert len(removed) == 4
    for one in removed:
        assert one >= {"x-deepwell-tenant", "x-deepwell-bucket", "x-deepwell-user"}


def test_the_mesh_is_strict_and_lets_nobody_in_who_is_not_named() -> None:
    manifests = {one["kind"]: one for one in made("overlays/istio")}
    assert manifests["PeerAuthentication"]["spec"]["mtls"] == {"mode": "STRICT"}
    for rule in manifests["AuthorizationPolicy"]["spec"]["rules"]:
        assert rule["from"] and rule["to"]


def test_yamllint_accepts_the_sources() -> None:
    from yamllint import linter
    from yamllint.config import YamlLintConfig

    rules = YamlLintConfig((BASE / ".yamllint").read_text("utf-8"))
    found = [
        f"{path.relative_to(BASE)}: {one}"
        for path in sorted(BASE.rglob("*.yaml"))
        for one in linter.run(path.read_text("utf-8"), rules)
    ]
    assert found == []

"""`deepwell deploy render`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tests.needs import OPENSSL
from typer.testing import CliRunner

from deepwell.cli.deploy.render import register
from deepwell_bench.suites.fleet.manifests import ExampleDeclaration

needs_openssl = pytest.mark.needs(OPENSSL)


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app, lambda _: ExampleDeclaration(), lambda _: None)
    done = CliRunner().invoke(app, ["render", "deploy.yaml", *arguments])
    return done.exit_code, done.output


def test_an_overlay_is_written_and_the_commands_are_printed(tmp_path: Path) -> None:
    code, output = run(str(tmp_path), "--candidate", "v2", "--share", "0.05")
    assert code == 0, output
    assert f"wrote {tmp_path}/kustomization.yaml" in output.replace("\n", "")
    assert "run   kubectl create secret generic deepwell --from-file=api-keys=FILE" in output
    code, output = run(str(tmp_path), "--json", "--controller", "istio")
    said = json.loads(output)
    assert code == 0
    assert said["files"] == [str(tmp_path / "kustomization.yaml")]
    assert said["commands"][-1] == f"kubectl apply -k {tmp_path}"


@needs_openssl
def test_files_of_envoys_are_made_once_and_then_changed(tmp_path: Path) -> None:
    replicas = ("--replica", "current=192.0.2.1", "--replica", "candidate=192.0.2.2:15007")
    code, output = run(str(tmp_path), "--to", "envoy", "--json", *replicas)
    assert code == 0, output
    assert json.loads(output)["commands"] == [
        f"envoy -c {tmp_path / name}"
        for name in ("edge/edge.json", "current/sidecar.json", "candidate/sidecar.json")
    ]
    key = (tmp_path / "authority" / "edge.key").read_bytes()
    code, output = run(
        str(tmp_path), "--to", "envoy", "--json", *replicas, "--share", "0.5", "--rollout", "r1"
    )
    assert code == 0, output
    assert json.loads(output)["files"][-1] == str(tmp_path / "edge" / "routes.json")
    assert (tmp_path / "authority" / "edge.key").read_bytes() == key
    routes = json.loads((tmp_path / "edge" / "routes.json").read_text("utf-8"))["resources"][0]
    told = routes["virtual_hosts"][0]["routes"][0]["metadata"]["filter_metadata"]["envoy.filters.http.lua"]
    assert told["rollout"] == "r1"
    headers = [
        one for route in routes["virtual_hosts"][0]["routes"] for one in route["match"].get("headers", ())
    ]
    drawn = [one["range_match"] for one in headers if "range_match" in one]
    assert drawn and all(one == {"start": 0, "end": 500} for one in drawn)


@pytest.mark.parametrize(
    "replica", ["current", "other=192.0.2.1", "current=192.0.2.1:99999", "candidate=192.0.2.1"]
)
def test_replicas_that_are_none_are_refused(tmp_path: Path, replica: str) -> None:
    code, output = run(str(tmp_path), "--to", "envoy", "--json", "--replica", replica)
    assert code == 1
    assert "current" in json.loads(output)["error"]["fix"]
    assert not list(tmp_path.iterdir())

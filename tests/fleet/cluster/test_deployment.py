"""`MeshDeployment` and the verbs over it, with a program in kubectl's place that keeps what it is told; no API server."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.errors import EngineUnavailable, InvalidRequest
from deepwell.fleet.cluster.deployment import MeshDeployment
from deepwell.fleet.cluster.kubectl import live_of, pods_of
from deepwell.fleet.deploy.declaration import load_declaration
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.server.observe.semconv import REQUEST_DURATION, Attribute, prometheus_label, prometheus_name
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.registry.story import Rollout, Steps

PROD = "toy@prod"
TEXT = (
    f"name: chat\ngrade: mesh\nalias: {PROD}\nmodel: toy\nreplicas: 1\nmesh: {{controller: CONTROLLER}}\n"
    "rollout: {steps: [50, 100], hold_seconds: 0, gates: {error_rate: 0.01, least_requests: 5}}\n"
)
# Its pods serve what was applied last; every look at their metrics finds ten requests more.
KUBECTL = """#!PYTHON -SE
import json, os, re, sys
from pathlib import Path
here = Path(__file__).parent
words = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
if (here / "refuses").exists():
    sys.exit((here / "refuses").read_text() or "error: You must be logged in to the server (Unauthorized)")
if words[0] == "config":
    print("staging")
    sys.exit()
if any(one.startswith("DEEPWELL_") for one in os.environ):
    sys.exit("error: it is told secrets")
kept = here / "applied"
if words[0] == "apply":
    text = Path(words[2], "kustomization.yaml").read_text()
    number = len(list(here.glob("applied-*")))
    (here / f"applied-{number:03}").write_text(text)
    kept.write_text(text)
elif words[0] == "exec":
    side = words[3].partition("-")[0]
    count = here / f"count-{side}"
    asked = int(count.read_text()) + 10 if count.exists() else 10
    count.write_text(str(asked))
    error = "internal_error" if side == "candidate" and (here / "failing").exists() else ""
    print(f'METRIC_count{{LABEL="{error}"}} {asked}')
elif words[0] == "get":
    items = []
    text = kept.read_text() if kept.exists() else ""
    models = re.findall(r"- serve\\n\\s*- (\\S+)", text)
    counts = re.findall(r"path: /spec/replicas\\n\\s*value: (\\d+)", text)
    for side, model, count in zip(("current", "candidate"), models, map(int, counts)):
        labels = {"deepwell-release": side}
        if words[1] == "deployment":
            numbers = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), count)
            spec = {"replicas": count, "template": {"spec": {"containers": [{"args": ["serve", model]}]}}}
            items.append({"metadata": {"labels": labels, "generation": 1}, "spec": spec,
                          "status": {"observedGeneration": 1, **numbers}})
        for pod in range(count if words[1] == "pods" else 0):
            metadata = {"name": f"{side}-{pod}", "namespace": "llm", "labels": labels}
            items.append({"metadata": metadata, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    print(json.dumps({"items": items}))
"""


class Cluster:
    """The program in kubectl's place, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        metric, label = prometheus_name(*REQUEST_DURATION[:2]), prometheus_label(Attribute.ERROR_TYPE)
        text = KUBECTL.replace("PYTHON", sys.executable).replace("METRIC", metric).replace("LABEL", label)
        program = folder / "kubectl"
        program.write_text(text)
        program.chmod(0o755)

    def says(self, said: str | dict[str, Any]) -> None:
        """Makes the program print a list, or run a line of shell."""
        text = said if isinstance(said, str) else f"cat <<'END'\n{json.dumps(said)}\nEND"
        (self.folder / "kubectl").write_text(f"#!/bin/sh\n{text}\n")

    def calls(self, verb: str) -> list[list[str]]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [words for one in lines if (words := json.loads(one))[0] == verb]

    def applied(self) -> list[tuple[list[str], list[int]]]:
        """Returns the models and the weights of what was applied, each different state once."""
        states: list[tuple[list[str], list[int]]] = []
        for one in sorted(self.folder.glob("applied-*")):
            overlay = yaml.safe_load(one.read_text())
            steps = {
                (each["target"]["kind"], each["target"].get("labelSelector", "")): yaml.safe_load(
                    each["patch"]
                )
                for each in overlay["patches"]
            }
            pods = [value for (kind, _), value in steps.items() if kind == "Deployment"]
            models = [pod[0]["value"][1] for pod in pods if pod[-1]["value"]]
            weights = [each["value"] for each in steps[("HTTPRoute", "")]]
            if not states or states[-1] != (models, weights):
                states.append((models, weights))
        return states


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("DEEPWELL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DEEPWELL_STATE_DIR", str(tmp_path / "state"))
    return Cluster(folder)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


def declared(tmp_path: Path, controller: str = "gateway-api") -> Path:
    file = tmp_path / "deploy.yaml"
    file.write_text(TEXT.replace("CONTROLLER", controller))
    return file


async def rolled_out(tmp_path: Path, database: Database) -> tuple[Rollout, dict[str, Any]]:
    """Rolls a version out until the cluster has one release again; returns how it ended, and the last facts."""
    rollouts, aliases = Rollouts(database), AliasStore(database)
    await aliases.set(PROD, "toy", "lin")
    version = await rollouts.register(PROD, NewVersion("v2"), "lin")
    steps = Steps("canary", (0.5, 1.0), 0.0)
    started = await rollouts.start(version.id, "lin", steps=steps, ungated="a test")
    events: list[str] = []
    facts: list[dict[str, Any]] = []

    def take(found: Any) -> None:
        facts.append(found)
        if found["rollout"] is None and found["slots"][1]["release"] is None and len(events) > 3:
            made.stop()

    def said(event: Any) -> None:
        events.append(event["text"])
        assert event["event"] != "trouble", event

    made = MeshDeployment(
        load_declaration(declared(tmp_path)), rollouts, aliases, tmp_path / "state", said, take, tick_s=0.01
    )
    await asyncio.wait_for(made.run(), 9)
    assert facts[0]["rollout"]["version"] == version.id
    return (await rollouts.registry.story(PROD)).rollouts[started.id], facts[-1]


async def test_a_good_version_is_stepped_and_becomes_the_current_one(
    cluster: Cluster, tmp_path: Path, database: Database
) -> None:
    ended, facts = await rolled_out(tmp_path, database)
    assert ended.state == "promoted"
    assert cluster.applied() == [
        (["toy", "v2"], [1000, 0]),
        (["toy", "v2"], [500, 500]),
        (["toy", "v2"], [0, 1000]),
        (["v2", "v2"], [0, 1000]),  # until the pods of the current release have its model
        (["v2"], [1000, 0]),
    ]
    assert facts["model"] == "v2" and facts["slots"][0]["replicas"][0]["state"] == "ready"
    assert cluster.calls("exec")[0][:6] == ["exec", "-n", "llm", "current-0", "-c", "api"]


async def test_a_failing_version_is_aborted_and_taken_away(
    cluster: Cluster, tmp_path: Path, database: Database
) -> None:
    (cluster.folder / "failing").touch()
    ended, facts = await rolled_out(tmp_path, database)
    assert (ended.state, ended.ended_by) == ("aborted", "fleet")
    assert "error rate" in ended.reason
    assert cluster.applied()[-1] == (["toy"], [1000, 0]) and facts["model"] == "toy"


async def test_a_kubectl_that_refuses_or_is_missing_is_told_with_a_fix(
    cluster: Cluster, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts, aliases = Rollouts(database), AliasStore(database)
    declaration = load_declaration(declared(tmp_path))
    made = MeshDeployment(declaration, rollouts, aliases, tmp_path, lambda _: None)
    (cluster.folder / "refuses").touch()
    with pytest.raises(EngineUnavailable, match="Unauthorized") as refused:
        await made.run()
    assert "kubectl config current-context" in refused.value.fix
    nowhere = (
        "The connection to the server localhost:8080 was refused - did you specify the right host or port?"
    )
    logged = 'E1128 18:51:29.740257 3797 memcache.go:265] "Unhandled Error" err="dial tcp 127.0.0.1:8080"'
    (cluster.folder / "refuses").write_text(f"{logged}\n{nowhere}\n")
    with pytest.raises(EngineUnavailable, match="knows no cluster") as refused:
        await made.run()
    assert "KUBECONFIG" in refused.value.fix and "memcache" not in str(refused.value)
    (cluster.folder / "refuses").write_text(f"{logged}\nerror: the server has asked for credentials\n")
    with pytest.raises(EngineUnavailable, match="failed: error: the server has asked"):
        await made.run()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidRequest, match="kubectl is not installed"):
        await made.run()


def pod(**metadata: Any) -> dict[str, Any]:
    named = {"name": "current-0", "namespace": "llm", "labels": {"deepwell-release": "current"}}
    return {"metadata": named | metadata, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}


def deployment(**spec: Any) -> dict[str, Any]:
    template = {"spec": {"containers": [{"args": ["serve", "toy"]}]}}
    return {"metadata": {"labels": {"deepwell-release": "current"}}, "spec": {"template": template} | spec}


@pytest.mark.parametrize(
    "says",
    [
        "cat /dev/zero",
        "cat /dev/zero >&2",
        "echo",
        "echo '{}'",
        """echo '{"items": 1}'""",
        f"printf '{{\"items\": '; printf '[%.0s' $(seq {50_000})",
        {"items": [None]},
        {"items": [pod(name="--kubeconfig=/tmp/other")]},
        {"items": [pod(name="a/b")]},
        {"items": [pod(name="current-0\n")]},
        {"items": [pod(namespace="-A")]},
        {"items": [pod(labels=7)]},
        {"items": [pod()] * 1001},
        {"items": [deployment(replicas=10**400)]},
        {"items": [deployment(replicas=-1)]},
        {"items": [deployment(replicas="two")]},
        {"items": [deployment(template={"spec": {"containers": []}})]},
    ],
)
async def test_answers_of_a_hostile_kubectl_are_refused(cluster: Cluster, says: str | dict[str, Any]) -> None:
    cluster.says(says)
    told = await asyncio.gather(live_of("chat"), pods_of(), return_exceptions=True)
    refused = [one for one in told if one]
    assert refused and all(isinstance(one, EngineUnavailable) for one in refused), told


async def test_what_kubectl_says_is_told_without_secrets(cluster: Cluster) -> None:
    lines = [
        "token=of-a-user",
        "https://admin:pass-word@host",
        "Bearer abcdef",
        "eyJhbGciOiJSUzI1NiJ9.e30.c2ln",
        "\x1b[2J",
    ]
    cluster.says(f"cat >&2 <<'END'\n{chr(10).join(lines)} refused\nEND\nexit 1")
    with pytest.raises(EngineUnavailable) as raised:
        await live_of("chat")
    assert "refused" in raised.value.message and "\x1b" not in raised.value.message
    for secret in ("of-a-user", "pass-word", "abcdef", "eyJhbG"):
        assert secret not in raised.value.message


async def test_models_with_variables_are_written_and_read_as_they_are(cluster: Cluster) -> None:
    template = {"spec": {"containers": [{"args": ["serve", "$$(DEEPWELL_API_KEYS)"]}]}}
    cluster.says({"items": [deployment(template=template)]})
    assert (await live_of("chat"))["current"].model == "$(DEEPWELL_API_KEYS)"


def test_the_verbs_plan_apply_and_take_away(cluster: Cluster, tmp_path: Path) -> None:
    file, runner = declared(tmp_path, "argo-rollouts"), CliRunner()
    shown = runner.invoke(app, ["deploy", "plan", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "kubectl apply -k" in shown.output and "roll-outs go by argo-rollouts" in shown.output
    assert "as serve toy\n" in shown.output and "cluster: staging" in shown.output
    applied = runner.invoke(app, ["deploy", "apply", str(file)])
    assert applied.exit_code == 0, applied.output
    assert "Argo Rollouts steps them" in applied.output
    [[_, _, folder]] = cluster.calls("apply")
    assert "argo-rollouts" in Path(folder, "kustomization.yaml").read_text()
    (cluster.folder / "refuses").touch()
    assert runner.invoke(app, ["deploy", "down", "chat"]).exit_code == 1
    (cluster.folder / "refuses").unlink()  # what could not be deleted is not forgotten
    ended = runner.invoke(app, ["deploy", "down"])
    assert ended.exit_code == 0, ended.output
    down = cluster.calls("delete")[-1]
    assert down[:2] == ["delete", "-k"]
    assert "PersistentVolumeClaim" in Path(down[2], "kustomization.yaml").read_text()  # models stay
    assert runner.invoke(app, ["deploy", "down"]).exit_code == 1  # nothing is there any more

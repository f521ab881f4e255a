"""The dashboard and the alert rules: metrics they name exist, and promtool accepts what they say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.needs import PROMTOOL
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.server.app import create_app

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "deepwell.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "deepwell.json"
OURS = re.compile(r"\b(?:deepwell|gen_ai_(?:server|client)|process)_\w+")
LABELS = {"gen_ai_request_model", "gen_ai_operation_name", "gen_ai_token_type"}


@pytest.fixture
async def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every series name of a server that has answered something."""
    service = make_service(FakeEngine(), make_codec(tmp_path_factory.mktemp("tokenizer")), model="toy")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(service)), base_url="http://t"
    ) as client:
        await client.post("/v1/completions", json={"model": "toy", "prompt": "abc"})
        text = (await client.get("/metrics")).text
    # What has labels is there from its first use on; its name is announced before.
    names = set(re.findall(r"^(\w+)(?:\{| )", text, re.MULTILINE))
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        names |= {name} | (
            {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else set()
        )
    return names


def panels() -> Iterator[dict[str, Any]]:
    yield from (
        one for one in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if one["type"] != "row"
    )


async def test_every_metric_of_dashboard_and_rules_is_exposed(exposed: set[str]) -> None:
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    expressions += re.findall(r"expr: (?:>-\n)?((?:.|\n        )+)", RULES.read_text(encoding="utf-8"))
    named = {name for text in expressions for name in OURS.findall(text)} - LABELS
    assert len(named) >= 20
    assert named <= exposed


def test_panels_have_places_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    ids: set[int] = set()
    for panel in panels():
        place = panel["gridPos"]
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells and place["x"] + place["w"] <= 24
        cells |= taken
        assert panel["id"] not in ids
        ids.add(panel["id"])
        assert all(target["expr"].count("(") == target["expr"].count(")") for target in panel["targets"])


@pytest.mark.needs(PROMTOOL)
@pytest.mark.parametrize(
    "command",
    ["check rules deepwell.rules.yml", "check config prometheus.yml", "test rules deepwell.test.yml"],
)
def test_promtool_accepts_the_rules(command: str) -> None:
    done = subprocess.run(["promtool", *command.split()], cwd=RULES.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_and_says_what_to_do() -> None:
    rules, tests = (
        RULES.read_text(encoding="utf-8"),
        RULES.with_name("deepwell.test.yml").read_text(encoding="utf-8"),
    )
    alerts = re.findall(r"alert: (\w+)", rules)
    assert len(alerts) == rules.count("action:") == rules.count("summary:") >= 10
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\n\s+exp_alerts:\n", tests), f"no test in which {alert} fires"
        assert f"alertname: {alert}}}" in tests or f"alertname: {alert}, exp_alerts: []" in tests

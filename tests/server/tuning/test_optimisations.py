"""`/v1/prompt_optimisations`: a search is queued, done by a process, and its winner becomes a version of the prompt."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.conftest import Live
from tests.server.fakes import FakeEngine, make_service
from tests.server.tuning.works import job_once, sent, working_server

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.families.fine_tuning.models import runs_folder
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.keys import KeyStore

COMMAND = (sys.executable, str(Path(__file__).with_name("search_stand_in.py")))
SEARCHES = "/v1/prompt_optimisations"
PLAIN = {"prompt": {"id": "kind"}, "model": "toy"}
PROMPT = {"id": "kind", "instructions": "Say a or b."}


@pytest.fixture(scope="module")
def server(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with working_server(codec, tmp_path_factory.mktemp("searches"), COMMAND) as live:
        yield live


@pytest.fixture
def http(server: Live) -> Iterator[httpx.Client]:
    """A client of the server, whose tenant has one prompt with one version."""
    with httpx.Client(base_url=server.url) as client:
        client.delete("/v1/prompts/kind")
        assert client.post("/v1/prompts", json=PROMPT).status_code == 200
        yield client


def rows(word: str = "text", count: int = 60) -> str:
    """Returns rows of two labels; the word tells the stand-in what to do."""
    lines = [{"input": f"{word} {number}", "label": "ab"[number % 2]} for number in range(count)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def asked(http: httpx.Client, word: str = "text", **more: Any) -> dict[str, Any]:
    body = {
        "prompt": {"id": "kind"},
        "model": "toy",
        "data_file": sent(http, rows(word)),
        "calls": 100,
    } | more
    answer = http.post(SEARCHES, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(http: httpx.Client, word: str) -> dict[str, Any]:
    return job_once(http, f"{SEARCHES}/{asked(http, word)['id']}", "succeeded", "failed")


def test_a_confirmed_winner_becomes_the_current_version(http: httpx.Client, server: Live) -> None:
    made = asked(http, metadata={"team": "a"})
    assert made["status"] == "queued" and made["prompt"] == {"id": "kind", "version": "1"}
    done = job_once(http, f"{SEARCHES}/{made['id']}", "succeeded", "failed")
    assert done["error"] is None
    result = done["result"]
    assert (result["version"], result["current"], result["better"]) == ("2", True, True)
    assert result["held_out"]["low"] > 0 and result["winner"]["text"]["instructions"] == "Better."
    assert done["progress"] == {"done": 4, "total": 4, "unit": "calls", "step": "held-out"}
    prompt = http.get("/v1/prompts/kind").json()
    assert prompt["version"] == "2" and prompt["instructions"] == "Better."
    assert prompt["report"]["score"] == 0.75 and prompt["report"]["model"] == "toy"
    assert http.get(SEARCHES, params={"limit": 1}).json()["data"][0]["id"] == made["id"]
    assert http.get(f"/v1/jobs/{made['id']}").json()["kind"] == "prompts.optimise"
    # Copies of the rows go with the end of the job
    assert list(runs_folder(server.service).glob("promptopt-*")) == []


def test_an_unconfirmed_winner_is_kept_and_the_start_stays_current(http: httpx.Client) -> None:
    done = ended(http, "unsure")
    assert (done["result"]["version"], done["result"]["current"]) == ("2", False)
    assert http.get("/v1/prompts/kind").json()["version"] == "1"
    done = ended(http, "nothing")
    assert done["result"]["version"] is None and done["result"]["held_out"] is None


def test_a_search_that_died_goes_on_and_one_that_keeps_dying_fails(http: httpx.Client) -> None:
    assert ended(http, "die once")["status"] == "succeeded"
    failed = ended(http, "die always")
    assert (
        failed["error"]["code"] == "work_died"
        and "3 times, at last by signal 9" in failed["error"]["message"]
    )
    refused = ended(http, "refuse")
    assert refused["error"] == {"code": "odd_rows", "message": "rows are odd: mend them", "param": None}


def test_a_running_search_is_cancelled_at_once(http: httpx.Client, server: Live) -> None:
    path = f"{SEARCHES}/{asked(http, 'wait')['id']}"
    job_once(http, path, "running")
    assert http.post(f"{path}/cancel").status_code == 200
    assert job_once(http, path, "cancelled")["result"] is None
    assert list(runs_folder(server.service).glob("promptopt-*")) == []


def test_what_cannot_be_searched_is_refused_before_there_is_a_job(http: httpx.Client) -> None:
    def refused(status: int, **more: Any) -> dict[str, Any]:
        body = {"prompt": {"id": "kind"}, "model": "toy", "data_file": "file-none"} | more
        answer = http.post(SEARCHES, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()["error"]

    before = http.get(SEARCHES).json()
    few = sent(http, rows(count=12))
    assert refused(400, data_file=few)["message"].startswith(f"{few} has too few rows")
    assert refused(400, data_file=few)["code"] == "invalid_rows"
    assert refused(404)["param"] == "data_file"
    assert refused(404, prompt={"id": "other"})["param"] == "prompt.id"
    assert refused(400, calls=10)["param"] == "calls"
    assert refused(400, colour="red")["param"] == "colour"
    assert refused(400, metric="bleu")["param"] == "metric"
    assert refused(404, model="other")["param"] == "model"
    judge = {"type": "score_model", "name": "x", "model": "toy", "input": [{"role": "user", "content": "x"}]}
    good = sent(http, rows())
    assert refused(400, data_file=good, metric=judge)["param"] == "metric"
    check = {"type": "string_check", "name": "x", "input": "{{ item.label }}", "operation": "eq"}
    assert refused(400, data_file=good, metric=check)["param"] == "metric.reference"
    for reference in ("{{ item.nothing }}", "half \ud800"):
        body = json.dumps({"metric": check | {"reference": reference}, "data_file": good} | PLAIN)
        answer = http.post(SEARCHES, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metric"), answer.text
        assert answer.json()["error"]["code"] is None
    assert http.get(SEARCHES).json() == before


async def test_a_key_that_may_not_change_prompts_may_not_search(codec: Codec, tmp_path: Path) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    service = make_service(FakeEngine(), codec, model="toy", database=database)
    secret = KeyStore(database).create(LOCAL, "tuner", ["inference", "tuning"])[1]
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = {"prompt": {"id": "kind"}, "model": "toy", "data_file": "file-none"}
        answer = await http.post(SEARCHES, json=body, headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 403 and "tuning and files" in answer.text
    database.close()

"""`/v1/compression/jobs`: a compression is queued, done by a process, followed by its events, and ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.conftest import Live
from tests.server.tuning.works import job_once, sent, working_server
from tests.waiting import until

from deepwell.dialogue.text import Codec
from deepwell.server.families.fine_tuning.models import runs_folder
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.jobs import delete_job
from deepwell.storage.tuning.works import COMPRESS_JOB

COMMAND = (sys.executable, str(Path(__file__).with_name("compress_stand_in.py")))
JOBS = "/v1/compression/jobs"


@pytest.fixture(scope="module")
def server(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with working_server(codec, tmp_path_factory.mktemp("compression"), COMMAND) as live:
        yield live


@pytest.fixture(scope="module")
def http(server: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def asked(http: httpx.Client, text: str = "text", **more: Any) -> str:
    body = {"method": "prune", "model": "toy", "text_file": sent(http, text)} | more
    answer = http.post(JOBS, json=body)
    assert answer.status_code == 200, answer.text
    return f"{JOBS}/{answer.json()['id']}"


def test_a_job_ends_with_its_model_and_tells_its_steps(http: httpx.Client, server: Live) -> None:
    path = asked(http, name="toy-small", prune={"share": 0.3, "ways": ["width"]}, metadata={"team": "a"})
    job = job_once(http, path, "succeeded", "failed")
    assert job["error"] is None and job["compressed_model"] == "toy-small"
    assert job["options"] == {"share": 0.3, "ways": ["width"], "recover": "distil", "minutes": 10.0}
    assert job["progress"] == {"done": 100.0, "total": 100.0, "unit": "%", "step": "recovery"}
    result = job["result"]
    assert (result["bytes"], result["base_bytes"], result["record"]["loss"]) == (70, 100, 4.5)
    assert "made_by" not in result["record"]
    page = http.get(f"{path}/events", params={"limit": 2}).json()
    assert [one["message"] for one in page["data"]] == [
        "The compression has succeeded",
        "New model in the store: toy-small",
    ]
    rest = http.get(f"{path}/events", params={"after": page["last_id"]}).json()
    assert [one["id"] for one in rest["data"]] == ["cmpevent-2", "cmpevent-1"] and not rest["has_more"]
    assert [one["metadata"] for one in http.get(JOBS).json()["data"]] == [{"team": "a"}]
    shown = http.get(f"/v1/jobs/{job['id']}").json()
    assert shown["kind"] == "compression"
    assert shown["subject"] == {"method": "prune", "model": "toy", "name": "toy-small"}
    assert list(runs_folder(server.service).glob("cmpjob-*")) == []
    told = http.get("/metrics").text
    assert 'deepwell_tuning_works_total{kind="compression",status="succeeded"} 1.0' in told


def test_a_running_job_is_cancelled_at_once(http: httpx.Client, server: Live) -> None:
    path = asked(http, "wait", name="one-of-two")
    job_once(http, path, "running")
    again = {"method": "prune", "model": "toy", "text_file": sent(http, "text"), "name": "one-of-two"}
    refused = http.post(JOBS, json=again)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "name")
    assert http.post(f"{path}/cancel").status_code == 200
    assert job_once(http, path, "cancelled")["compressed_model"] is None
    assert list(runs_folder(server.service).glob("cmpjob-*")) == []


def test_nothing_is_left_of_a_job_that_is_cancelled_or_erased_with_its_result_in_the_store(
    http: httpx.Client, server: Live
) -> None:
    catalog = server.service.options.catalog
    assert catalog is not None
    for name in ("cancelled", "erased"):
        path = asked(http, "made", name=name)
        made = catalog.settings.models_dir / name
        until((made / "manifest.json").exists)
        if name == "cancelled":
            http.post(f"{path}/cancel")
            job_once(http, path, "cancelled")
        else:
            id = path.rpartition("/")[2]
            with closing(Database.open(runs_folder(server.service).parent / "deepwell.db")) as database:
                asyncio.run(database.write(lambda one, id=id: delete_job(one, LOCAL, COMPRESS_JOB, id)))
        until(made.exists, lambda there: not there)


def test_a_file_that_went_meanwhile_fails_the_job_by_name(http: httpx.Client) -> None:
    waiting = asked(http, "wait")
    job_once(http, waiting, "running")
    file = sent(http, "text")
    path = asked(http, text_file=file)
    assert http.delete(f"/v1/files/{file}").status_code == 200
    http.post(f"{waiting}/cancel")
    job = job_once(http, path, "failed", "succeeded")
    assert job["error"]["code"] == "input_lost" and file in job["error"]["message"]


def test_what_cannot_be_compressed_is_refused_before_there_is_a_job(http: httpx.Client) -> None:
    before = http.get(JOBS).json()
    text = sent(http, "text")

    def refused(status: int, **more: Any) -> str:
        answer = http.post(JOBS, json={"method": "prune", "model": "toy", "text_file": text} | more)
        assert answer.status_code == status, answer.text
        return answer.json()["error"]["param"]

    assert refused(400, colour="red") == "colour"
    assert refused(400, text_file=None) == "text_file"
    assert refused(400, convert={}) == "convert"
    assert refused(400, prune={"share": 0.9}) == "prune.share"
    assert refused(400, prune={"ways": ["sideways"]}) == "prune.ways[0]"
    assert refused(404, text_file="file-none") == "text_file"
    assert refused(404, model="other") == "model"
    assert refused(400, name="toy") == "name"
    assert refused(400, name="smollm2") == "name"
    assert refused(400, method="convert", convert={"to": "moe", "cached": 10**30}) == "convert.cached"
    assert http.get(JOBS).json() == before

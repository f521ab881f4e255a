"""Doctor's checks, each against the thing itself: folders, limits, databases, sockets, variables."""

from __future__ import annotations

import json
import os
import resource
import socket
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.object_store import answering, credentials_file
from tests.server.conftest import Live
from typer.testing import CliRunner

from deepwell.agents.sandbox import available, sandbox_way
from deepwell.cli import app
from deepwell.cli.doctor.devices import accumulation, environment_findings
from deepwell.cli.doctor.findings import Finding
from deepwell.cli.doctor.improve import examine_improve
from deepwell.cli.doctor.machine import machine_findings, oom_kills
from deepwell.cli.doctor.stores import store_findings
from deepwell.fleet.improve.state import StateFile, loop_folder
from deepwell.process.confinement import launch
from deepwell.settings import Settings
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.keys import KeyStore


def named(findings: Sequence[Finding]) -> dict[str, str]:
    return {one.check: one.error.fix for one in findings}


@pytest.fixture
def data(home: Path) -> Path:
    """The data folder, with a database that has a key."""
    settings = Settings.load()
    database = Database.of(settings)
    KeyStore(database).create(LOCAL, "probe", ["inference"])
    database.close()
    settings.data_dir.chmod(0o700)
    return settings.data_dir


def stores() -> dict[str, str]:
    return named(list(store_findings(Settings.load())))


def machine(**given: Any) -> dict[str, str]:
    return named(list(machine_findings(Settings.load(**given))))


def test_a_sound_installation_has_no_findings(data: Path) -> None:
    assert stores() == {}


def test_a_damaged_database_is_found(data: Path) -> None:
    database = data / "deepwell.db"
    for path in data.glob("deepwell.db-*"):
        path.unlink()
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    assert "backup" in stores()["database"]


def test_a_database_of_a_newer_version_is_found(data: Path) -> None:
    with closing(sqlite3.connect(data / "deepwell.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    assert "that version" in stores()["database"]


def test_what_everybody_can_read_is_closed_by_fix_and_by_nothing_else(data: Path, runner: CliRunner) -> None:
    (data / "deepwell.db").chmod(0o644)
    data.chmod(0o755)
    found = [one for one in store_findings(Settings.load()) if one.check == "data folder"]
    assert [one.mend is not None for one in found] == [True]
    runner.invoke(app, ["doctor", "--port", "0"])
    assert data.stat().st_mode & 0o777 == 0o755
    report = json.loads(runner.invoke(app, ["doctor", "--port", "0", "--fix", "--json"]).stdout)
    assert data.stat().st_mode & 0o777 == 0o700 and report["mended"] == [f"chmod 700 {data}"]
    assert "data folder" not in {one["check"] for one in report["problems"]}


def test_a_service_that_is_not_there_is_named_without_its_password(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("DEEPWELL_VALKEY_URL", f"redis://:a-secret-word@127.0.0.1:{port}")
    (found,) = store_findings(Settings.load())
    assert f"127.0.0.1:{port}" in found.error.message and "a-secret-word" not in str(found.shown())


OWNED = b"0" * 32


@pytest.mark.parametrize(
    ("status", "body", "fix"),
    [
        (404, b"<Error><Code>NoSuchKey</Code></Error>", None),
        (404, b"<Error><Code>NoSuchBucket</Code></Error>", "make the bucket"),
        (403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", "check the credentials"),
        (200, OWNED, "choose another prefix"),
    ],
)
def test_an_object_store_is_asked_for_its_bucket(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, fix: str | None
) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("content-length", str(len(body)))
        request.send_header("last-modified", "Sat, 28 Nov 2026 12:00:00 GMT")
        request.end_headers()
        request.wfile.write(body)

    monkeypatch.setenv("DEEPWELL_BLOBS", "s3://bucket/prefix")
    monkeypatch.setenv("DEEPWELL_BLOBS_CREDENTIALS", str(credentials_file(tmp_path)))
    with answering(answer) as url:
        monkeypatch.setenv("DEEPWELL_BLOBS_ENDPOINT", url)
        fixes = stores()
        assert fixes.keys() == ({"object store"} if fix else set())
        assert (fix or "") in fixes.get("object store", "")
        if body is OWNED:
            with closing(sqlite3.connect(data / "deepwell.db")) as connection:
                connection.execute("UPDATE installation SET id = ?", (OWNED.decode(),))
                connection.commit()
            assert stores() == {}  # the bucket of this database
    assert (
        "DEEPWELL_BLOBS`" in stores()["object store"]
    )  # nobody listens any more: files without a store, not Amazon's


def test_a_context_policy_without_its_embedder_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "long contexts" not in {one.check for one in store_findings(Settings.load())}
    monkeypatch.setenv("DEEPWELL_CONTEXT_POLICY", "auto")
    (found,) = (one for one in store_findings(Settings.load()) if one.check == "long contexts")
    assert "deepwell pull e5-small-q4" in str(found.error)


def test_a_clock_behind_the_files_is_found(data: Path) -> None:
    later = time.time() + 40 * 86_400
    os.utime(data / "deepwell.db", (later, later))
    assert "set-ntp" in machine()["clock"]


def test_a_hard_limit_of_files_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, 256))
    assert "LimitNOFILE" in machine()["open files"]


def test_more_threads_than_processors_are_found(home: Path) -> None:
    many = 2 * (os.cpu_count() or 1)
    assert "--threads" in machine(threads=many)["threads"]
    assert "threads" not in machine(threads=1)


@pytest.mark.parametrize(
    ("kept", "fix"),
    [
        ("", "NO_PROXY=127.0.0.1,localhost"),
        ("example.com", "NO_PROXY=example.com,127.0.0.1,localhost"),
        ("127.0.0.1", None),
    ],
)
def test_a_proxy_that_takes_this_machine_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, kept: str, fix: str | None
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", kept)
    assert (fix or "") in machine().get("proxy", "") and ("proxy" in machine()) == (fix is not None)


def test_kills_for_memory_are_read_in_both_cgroup_versions(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) == 0
    old = tmp_path / "sys/fs/cgroup/memory"
    old.mkdir(parents=True)
    (old / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert oom_kills(tmp_path) == 3
    (tmp_path / "sys/fs/cgroup/memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert oom_kills(tmp_path) == 1


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("lo", True),
        ("=lo", True),
        ("l", True),
        ("=l", False),
        ("eth9", False),
        ("^lo", True),
        ("^lo,eth", False),
    ],
)
def test_interfaces_are_matched_as_nccl_does(tmp_path: Path, value: str, *, right: bool) -> None:
    for name in ("lo", "eth0"):
        (tmp_path / "sys/class/net" / name).mkdir(parents=True)
    found = list(environment_findings({"NCCL_SOCKET_IFNAME": value}, tmp_path))
    assert (not found) == right


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 0),
        ({"WORLD_SIZE": "2", "RANK": "2"}, 1),
        ({"WORLD_SIZE": "2"}, 1),
        ({"WORLD_SIZE": "1", "RANK": "0"}, 0),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 1),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, 1),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, 0),
    ],
)
def test_variables_of_a_group_are_checked(tmp_path: Path, variables: dict[str, str], count: int) -> None:
    assert len(list(environment_findings(variables, tmp_path))) == count


def test_accumulation_keeps_communication_at_a_fifth() -> None:
    timings = [{"mb": 1, "ms": 2.0}, {"mb": 32, "ms": 32.0}]
    advice = accumulation(timings, 135e6, 300)  # 540 MB at 1 MB/ms
    assert advice["exchange_ms"] == 540 and advice["batches"] == 8
    share = advice["exchange_ms"] / (advice["exchange_ms"] + advice["batches"] * 300)
    assert share <= 0.2
    assert accumulation(timings, 1000, 300)["batches"] == 1


def test_devices_without_torch_name_the_extra(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    result = runner.invoke(app, ["doctor", "devices"])
    assert result.exit_code == 1 and "[tune]" in result.output


def test_sampling_wants_an_output_or_prompts(runner: CliRunner, tmp_path: Path) -> None:
    assert "--prompts" in runner.invoke(app, ["doctor", "sampling"]).output
    (tmp_path / "none.txt").write_text("\n\n")
    empty = runner.invoke(app, ["doctor", "sampling", "--prompts", str(tmp_path / "none.txt")])
    assert empty.exit_code == 1 and "0 prompts" in empty.output


def test_sampling_tries_its_own_advice_on_the_prompts(
    runner: CliRunner, toy_server: Live, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("round and " * 12 + "\n")  # the toy engine says what it was told: a loop
    command = [
        "doctor",
        "sampling",
        "--prompts",
        str(prompts),
        "--temperature",
        "0",
        "--max-tokens",
        "130",
        "--json",
    ]
    result = json.loads(runner.invoke(app, command).stdout)
    assert [one["temperature"] for one in result["rounds"][:2]] == [0, 0.7]
    assert result["rounds"][0]["unstable"] == 1
    assert toy_server.engine.seen[1].params.temperature == 0.7


def test_what_the_loop_needs_is_told_and_missed_only_where_rounds_were_begun(
    home: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.cli.doctor.improve._TRAINS_WITH", ("a_package_that_nobody_has",))
    told: list[Finding] = []
    report = examine_improve(Settings.load(), told)
    assert report["lacks"] == ["a_package_that_nobody_has"] and told == []
    assert all(report["sets"].values()) and report["free_bytes"] > 0
    state = StateFile(loop_folder(Settings.load().state_dir, "toy@prod"))
    with state.locked():
        state.begin()
    assert examine_improve(Settings.load(), told)["aliases"] == ["toy@prod"]
    [finding] = told
    assert "a_package_that_nobody_has" in finding.error.message and "[tune]" in finding.error.fix


def test_frozen_sets_that_are_gone_or_damaged_are_found(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.fleet.improve.sets.SHIPPED", tmp_path)
    (tmp_path / "texts.txt").write_text("one")
    told: list[Finding] = []
    examine_improve(Settings.load(), told)
    assert "choices, harmful, harmless" in told[0].error.message
    (tmp_path / "texts.txt").write_bytes(b"\xff")
    examine_improve(Settings.load(), told)
    assert "UTF-8" in told[1].error.message


def test_a_full_disk_is_found_where_rounds_lie(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.cli.doctor.improve._LEAST_FREE_BYTES", 1 << 60)
    state = StateFile(loop_folder(Settings.load().state_dir, "toy@prod"))
    with state.locked():
        state.begin()
    told: list[Finding] = []
    examine_improve(Settings.load(), told)
    assert any("checkpoints" in one.error.message for one in told)


@pytest.mark.parametrize(
    ("guard", "said", "count"),
    [("auto", "run `deepwell pull opennsfw`", 0), ("required", "not here", 1), ("off", "off", 0)],
)
def test_a_safety_model_of_images_is_missed_where_it_is_required(
    home: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch, guard: str, said: str, count: int
) -> None:
    monkeypatch.setenv("DEEPWELL_IMAGE_GUARD", guard)
    told = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert said in told["images"]["guard"] and told["images"]["model"] == "deepwell-draw"
    assert len([one for one in told["problems"] if one["check"] == "images"]) == count


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEEPWELL_EMBEDDING_MODEL", "nowhere"),
        ("DEEPWELL_EMBEDDING_MODEL", "tiny"),  # the main model again
        ("DEEPWELL_ADDITIONAL_MODELS", '["nowhere"]'),
        ("DEEPWELL_KNOWLEDGE_RERANKER", "nowhere"),
        ("DEEPWELL_SEMANTIC_CACHE", "on"),
    ],
)
def test_doctor_says_what_serve_refuses(
    tiny_model: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("DEEPWELL_MODEL", str(tiny_model))
    monkeypatch.setenv(name, str(tiny_model) if value == "tiny" else value)
    served = json.loads(runner.invoke(app, ["serve", "--json", "--port", "0"]).stdout)["error"]
    problems = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)["problems"]
    assert served["message"] in {one["message"] for one in problems}


@pytest.mark.parametrize(("setting", "count"), [("available", 0), ("required", 1)])
def test_walls_that_are_not_whole_are_a_problem_where_they_are_required(
    home: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch, setting: str, count: int
) -> None:
    weak = launch.Walls("none", "user namespaces: Operation not permitted", 4, filtered=True)
    monkeypatch.setattr(launch, "walls", lambda: weak)
    monkeypatch.setenv("DEEPWELL_CONFINEMENT", setting)
    told = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert "Operation not permitted" in told["confinement"]["state"]
    problems = [one for one in told["problems"] if one["check"] == "confinement"]
    assert len(problems) == count
    shown = problems[0] if problems else told["confinement"]
    assert "apt-get install bubblewrap" in shown["fix"]


def test_energy_is_told_or_why_it_is_not(home: Path, runner: CliRunner) -> None:
    told = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)["energy"]
    assert told["state"].startswith("RAPL" if told["packages"] else "no joules a token: ")


def test_the_sandbox_is_told_by_its_way_or_with_the_fix(home: Path, runner: CliRunner) -> None:
    told = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)["sandbox"]
    reason = available()
    assert told["way"] == ("none" if reason else sandbox_way())
    assert ("fix" in told) == (reason is not None)
    shown = runner.invoke(app, ["doctor"]).stdout
    assert any(line.split()[:2] == ["sandbox", told["way"]] for line in shown.splitlines())

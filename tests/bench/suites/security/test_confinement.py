"""The actions of the confinement benchmark: they reach where nothing confines, and what the server's side sees is seen."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.needs import SECCOMP

from deepwell_bench.workers.confinement import actions
from deepwell_bench.workers.confinement.actions import ACTIONS, World
from deepwell_bench.workers.confinement.child import MAGIC, magic, write_module
from deepwell_bench.workers.confinement.environment import command_in

SECRET = "secret-" + 32 * "a"

# Those of which nothing is left in the process that runs the tests.
HARMLESS = (
    "read_database",
    "read_config",
    "stat_database",
    "list_data_folder",
    "read_server_memory",
    "read_stored_blob",
    "openat2",
    "find_by_session",
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    for name in ("database", "config", "blob", "canary"):
        (tmp_path / name).write_text(f"key = {SECRET}\n")
    return World(
        digests=(hashlib.sha256(SECRET.encode()).hexdigest(),),
        pid=os.getpid(),
        folder=str(tmp_path),
        database=str(tmp_path / "database"),
        config=str(tmp_path / "config"),
        blob=str(tmp_path / "blob"),
        canary=str(tmp_path / "canary"),
        call_fd=-1,
    )


def test_there_are_more_than_120_actions_of_every_group_and_those_that_end_the_process_come_last() -> None:
    assert len(ACTIONS) >= 120
    assert {one.group for one in ACTIONS.values()} >= {
        "files",
        "server",
        "tenants",
        "rights",
        "kernel",
        "network",
    }
    ends = [one.ends for one in ACTIONS.values()]
    assert ends == sorted(ends)


def test_a_world_crosses_as_json(world: World) -> None:
    assert World.of(json.dumps(asdict(world))) == world


@pytest.fixture
def victim(world: World) -> Iterator[World]:
    """A process of the same user, with the secret in its memory."""
    code = (
        f"import ctypes; b = ctypes.create_string_buffer({SECRET!r}.encode()); "
        "print(ctypes.addressof(b), flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield replace(world, pid=process.pid, address=int(process.stdout.readline()))
    process.communicate("\n")


@pytest.mark.needs(SECCOMP)
@pytest.mark.parametrize("name", HARMLESS)
def test_an_action_reaches_where_nothing_confines(victim: World, name: str) -> None:
    assert actions.attempt(name, victim) == actions.REACHED


def test_a_refusal_names_its_error(world: World) -> None:
    assert actions.attempt("read_database", replace(world, database="/nowhere")) == "refused(ENOENT)"


def test_an_action_that_only_the_server_can_judge_says_so(world: World) -> None:
    assert actions.attempt("unlink", world) == "done"
    assert not Path(world.canary).exists()


def test_a_secret_counts_only_if_it_is_the_servers(world: World) -> None:
    Path(world.blob).write_text("secret-" + 32 * "b")
    assert actions.attempt("read_stored_blob", world) == "not reached"


def test_the_written_module_answers_the_magic_call_and_leaves_others_to_the_real_one(
    tmp_path: Path, world: World
) -> None:
    from deepwell.knowledge.parse.process import ParseProcess

    write_module(tmp_path, "attacked_by_test", "deepwell.knowledge.parse.process")
    parser = ParseProcess()
    calls = parser._calls
    calls._module = "attacked_by_test"
    sys.path.append(str(tmp_path))
    try:
        decode, calls._decode = calls._decode, bytes
        answer = calls.call(
            magic("find_by_signal_zero", json.dumps(asdict(replace(world, pid=0)))), 5.0, tenant="t"
        )
        calls._decode = decode
        (tmp_path / "a.txt").write_text("plain words")
        assert parser.parse_blocking("t", tmp_path / "a.txt", "a.txt").text.strip() == "plain words"
    finally:
        sys.path.remove(str(tmp_path))
        parser.close_blocking()
    assert MAGIC not in answer
    assert answer.decode().startswith((actions.REACHED, "refused"))


def test_an_environment_wraps_a_command() -> None:
    command = command_in("user", [Path("/a")], ["/bin/true"])
    assert command[-2:] == ["--", "/bin/true"]
    assert json.loads(command[4]) == ["/a"]

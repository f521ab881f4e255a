"""Pieces on a real cluster of two nodes: equal results, lost processes and nodes, and errors that travel."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

from deepwell.errors import DeepwellError
from deepwell.fleet.pieces.finish import finish
from deepwell.fleet.pieces.kept import KeptPieces
from deepwell.fleet.ray.cluster import Cluster, ClusterUnavailable, import_ray
from deepwell.fleet.ray.executor import RayExecutor
from deepwell_bench.harness.ports import free_port

pytestmark = (
    pytest.mark.nightly
)  # Ray is no part of the environment of every change; `.ci/nightly` installs it


def recipe(kind: str, marks: Path) -> Any:
    """Returns a recipe of a class that travels by value: the cluster's processes do not know this module."""

    class Working:
        def __init__(self) -> None:
            from deepwell.fleet.pieces.piece import Facts

            self.facts = Facts("1", os.environ.get("WEIGHTS", "w"))

        def run(self, payload: bytes) -> bytes:
            first = marks / payload.hex()
            if kind == "kills" or (kind == "once" and not first.exists()):
                first.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "meets":  # goes on when processes of both nodes work, which have one processor each
                (marks / f"process-{os.getpid()}").touch()
                until(lambda: len(list(marks.glob("process-*"))) >= 2)
            if kind == "fails":
                from deepwell.errors import DeepwellError

                raise DeepwellError("it cannot be done", fix="leave it out")
            return payload[::-1]

        def close(self) -> None: ...

    @dataclass(frozen=True)
    class Recipe:
        name: str = kind

        def spec(self) -> dict[str, str]:
            return {"kind": self.name}

        def open(self) -> Any:
            return Working()

    return Recipe()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    import_ray()
    from ray.cluster_utils import Cluster as Nodes

    each = {"num_cpus": 1, "object_store_memory": 100 << 20}
    head = {**each, "include_dashboard": False, "ray_client_server_port": free_port()}
    made: Any = Nodes(initialize_head=True, head_node_args=head)
    made.add_node(**each)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def near(nodes: Any) -> str:
    """Returns the address of the head on the loopback: tests connect to nothing else."""
    return f"127.0.0.1:{nodes.address.rpartition(':')[2]}"


@pytest.fixture
def executor(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayExecutor]:
    monkeypatch.setenv("RAY_ADDRESS", near(nodes))
    opened = RayExecutor(Cluster())
    yield opened
    opened.close()


PAYLOADS = [bytes([65 + number]) * 2 + b"!" for number in range(12)]


def test_results_are_those_of_one_process(executor: RayExecutor, tmp_path: Path) -> None:
    done = finish(executor, recipe("meets", tmp_path), PAYLOADS, KeptPieces(tmp_path / "p"))
    assert list(done.results()) == [one[::-1] for one in PAYLOADS]
    assert len(done.tally.nodes) == 2


def test_lost_processes_lose_no_piece(executor: RayExecutor, tmp_path: Path) -> None:
    done = finish(executor, recipe("once", tmp_path), PAYLOADS[:4], KeptPieces(tmp_path / "p"))
    assert list(done.results()) == [one[::-1] for one in PAYLOADS[:4]]
    assert done.tally.retried >= 4


def test_a_piece_that_ends_every_process_is_an_error(executor: RayExecutor, tmp_path: Path) -> None:
    with pytest.raises(ClusterUnavailable, match="lost its process 6 times"):
        finish(executor, recipe("kills", tmp_path), [b"x"], KeptPieces(tmp_path / "p"))


def test_errors_travel_with_their_fix(executor: RayExecutor, tmp_path: Path) -> None:
    with pytest.raises(DeepwellError, match="it cannot be done") as caught:
        finish(executor, recipe("fails", tmp_path), [b"x"], KeptPieces(tmp_path / "p"))
    assert caught.value.fix == "leave it out"


def test_a_task_that_no_machine_can_hold_is_an_error(
    nodes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", near(nodes))
    large = RayExecutor(Cluster(), cpus=64)
    with pytest.raises(ClusterUnavailable, match="64 processors"):
        finish(large, recipe("works", tmp_path), [b"x"], KeptPieces(tmp_path / "p"))
    large.close()


def test_a_machine_outside_the_cluster_has_the_same_results(
    nodes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    outside = RayExecutor(Cluster(f"ray://127.0.0.1:{nodes.head_node._ray_params.ray_client_server_port}"))
    done = finish(outside, recipe("once", tmp_path), PAYLOADS, KeptPieces(tmp_path / "p"))
    outside.close()
    assert list(done.results()) == [one[::-1] for one in PAYLOADS]
    assert done.tally.retried >= len(PAYLOADS)
    with pytest.raises(ClusterUnavailable, match="not as Ray does there"):
        Cluster(f"ray://{near(nodes)}")


def test_no_cluster_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterUnavailable, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        Cluster()

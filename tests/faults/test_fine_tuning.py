"""A fine-tuning job whose server or training process is killed ends with the adapter that it would have made anyway."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import openai
import pytest
from tests.faults.test_batches import answers
from tests.parallel import free_port
from tests.server.tuning.jobs import TEMPLATE_HASH, upload
from tests.waiting import until

ROOT = Path(__file__).parents[2]
STEPS = 60
WEIGHTS = "adapter/adapter_model.safetensors"


class Servers:
    """One server after the other over the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.port = free_port()
        self.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1",
            api_key="none",
            max_retries=5,
            _strict_response_validation=True,
        )
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.tuning_server", str(self.folder), str(self.port)],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
                "STAND_IN_TEMPLATE": TEMPLATE_HASH,
            },
        )
        until(lambda: answers(self.port))
        return process

    def kill(self) -> None:
        """Kills the server, and starts another one."""
        self.process.kill()
        self.process.wait(timeout=60)
        self.process = self.start()

    def begin(self) -> str:
        job = self.client.fine_tuning.jobs.create(
            model="toy",
            training_file=upload(self.client, "slow"),
            seed=11,
            extra_body={"deepwell": {"train": {"steps": STEPS}}},
        )
        return job.id

    def step(self, id: str) -> int:
        """Returns the step of the newest checkpoint."""
        found = (self.folder / "runs" / id / "checkpoints").glob("step-*")
        return max((int(path.name[5:]) for path in found), default=0)

    def trainer(self, id: str) -> int:
        """Returns the process id of the training; 0: there is none."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                parts = path.read_bytes().split(b"\0")
                if parts[-2:-1] == [str(self.folder / "runs" / id).encode()] and b"stand_in" in parts[1]:
                    return int(path.parent.name)
        return 0

    def succeed(self, id: str) -> bytes:
        """Waits for the end and returns the adapter's weights."""
        job = until(lambda: self._ended(id))
        assert job.status == "succeeded", job.error
        model = str(job.fine_tuned_model)
        answer = self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices[0].message.content == "hi"
        steps = [one.data for one in self.client.fine_tuning.jobs.list_events(id, limit=100) if one.data]
        trained = [one["step"] for one in steps if "train_loss" in one]  # pyright: ignore
        assert sorted(trained) == list(range(1, STEPS + 1))
        return (self.folder / "runs" / id / WEIGHTS).read_bytes()

    def _ended(self, id: str) -> openai.types.fine_tuning.FineTuningJob | None:
        job = self.client.fine_tuning.jobs.retrieve(id)
        return job if job.status in ("succeeded", "failed", "cancelled") else None


@pytest.mark.parametrize("killed", ["server", "training"])
def test_a_killed_job_makes_the_same_adapter(tmp_path: Path, killed: str) -> None:
    servers = Servers(tmp_path / "data")
    try:
        expected = servers.succeed(servers.begin())
        random.seed(3)
        id = servers.begin()
        for step in sorted(random.sample(range(4, STEPS - 10), 3 if killed == "server" else 5)):
            until(lambda step=step: servers.step(id) >= step)
            if killed == "server":
                servers.kill()
            elif pid := servers.trainer(id):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert servers.succeed(id) == expected
        assert not servers.trainer(id)
    finally:
        servers.process.kill()
        servers.process.wait()


def test_the_training_ends_with_its_server(tmp_path: Path) -> None:
    servers = Servers(tmp_path / "data")
    try:
        id = servers.begin()
        pid = until(lambda: servers.step(id) and servers.trainer(id))
        servers.process.kill()
        servers.process.wait()
        until(lambda: not Path(f"/proc/{pid}").exists())
    finally:
        servers.process.kill()
        servers.process.wait()

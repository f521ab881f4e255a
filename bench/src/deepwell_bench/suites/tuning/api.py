"""OpenAI's API of fine-tuning and evaluation through the official SDK, and jobs that are killed at random."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from openai import BadRequestError, OpenAI
from openai.types.fine_tuning import FineTuningJob

from deepwell.cli.bench.machine import process_tree
from deepwell.cli.bench.report import Report
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import serve_command, served_process
from deepwell_bench.workloads.tuning.codes import code_conversations

__all__ = ["bench_fine_tuning_sdk", "ended", "sdk_of", "uploaded"]

_SEED: Final = 20261126
_STEPS: Final = 24
_WEIGHTS: Final = "adapter/adapter_model.safetensors"
_PATIENCE_S: Final = 900
_CHECK: Final[dict[str, Any]] = {
    "type": "string_check",
    "name": "said",
    "operation": "like",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
}


def sdk_of(port: int) -> OpenAI:
    """Returns the official SDK, which refuses an answer that is not what OpenAI documents."""
    return OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key="none",
        max_retries=0,
        timeout=120,
        _strict_response_validation=True,
    )


def uploaded(client: OpenAI, first: int, count: int) -> str:
    """Uploads conversations and returns the file's id."""
    data = code_conversations(first, count)
    return client.files.create(file=("codes.jsonl", data), purpose="fine-tune").id


def ended(client: OpenAI, id: str) -> FineTuningJob:
    """Returns a job once it has ended."""
    return _until(lambda: _job_if(client, id, ("succeeded", "failed", "cancelled")))


def bench_fine_tuning_sdk(report: Report, model: Path, *, kills: int = 5) -> dict[str, Any]:
    """Calls every method, and compares the adapter of a job that is killed with that of one that is not.

    Raises:
        PeerError: a job failed, or a server did not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        servers = _Servers(model, Path(folder))
        try:
            servers.start()
            base = servers.client.models.list().data[0].id
            expected = servers.weights(_train(servers.client, base))
            calls = _tour(servers.client, base)
            killed, done = _train_killed(report, servers, base, kills)
            same = servers.weights(killed) == expected
        finally:
            servers.stop()
    report.table(
        "Fine-tuning through the official SDK",
        ["methods", "kills", "same adapter"],
        [[len(calls), ", ".join(done), same]],
    )
    return {"methods": len(calls), "failures": 0, "kills": len(done), "same_adapter": same}


class _Servers:
    """One server after another over the same data."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._stack = ExitStack()
        self.client: OpenAI
        self.pid = 0

    def start(self) -> None:
        """Starts a server."""
        env = {"DEEPWELL_DATA_DIR": str(self._folder), "DEEPWELL_JOB_LEASE_S": "1"}
        port, self.pid = self._stack.enter_context(served_process(serve_command(self._model), env=env))
        self.client = sdk_of(port)

    def stop(self) -> None:
        """Ends the server."""
        self._stack.close()

    def kill(self) -> None:
        """Kills the server with all of its processes, and starts another one."""
        for pid in process_tree(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._stack.close()
        self.start()

    def trainer(self, id: str) -> int:
        """Returns the process that trains a job; 0: there is none."""
        for pid in process_tree(self.pid):
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if words[-2:-1] == [str(self._folder / "fine_tuning" / id).encode()]:
                    return pid
        return 0

    def weights(self, id: str) -> bytes:
        """Returns the adapter of a job."""
        return (self._folder / "fine_tuning" / id / _WEIGHTS).read_bytes()


def _create(client: OpenAI, base: str) -> str:
    job = client.fine_tuning.jobs.create(
        model=base,
        training_file=uploaded(client, 0, 48),
        validation_file=uploaded(client, 100, 4),
        suffix="codes",
        seed=7,
        metadata={"row": "fine_tuning_sdk"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 2}}},
        extra_body={"deepwell": {"train": {"steps": _STEPS, "max_tokens": 64, "save_every": 2}}},
    )
    return job.id


def _train(client: OpenAI, base: str) -> str:
    id = _create(client, base)
    job = ended(client, id)
    if job.status != "succeeded":
        raise PeerError(f"the job {job.status}: {job.error}")
    return id


def _train_killed(report: Report, servers: _Servers, base: str, kills: int) -> tuple[str, list[str]]:
    """Trains once more, and kills the server or the training at steps and with pauses that a frozen seed chooses."""
    chosen = random.Random(_SEED)  # noqa: S311
    id = _create(servers.client, base)
    done: list[str] = []
    for step in sorted(chosen.sample(range(2, _STEPS - 2), kills)):
        _until(lambda step=step: _step(servers.client, id) >= step)
        time.sleep(chosen.random())
        victim = chosen.choice(("server", "training"))
        pid = servers.trainer(id)
        if victim == "training" and pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        else:
            victim = "server"
            servers.kill()
        done.append(f"{victim} at {step}")
        report.note(f"killed the {done[-1]}")
    job = ended(servers.client, id)
    if job.status != "succeeded":
        raise PeerError(f"the killed job {job.status}: {job.error}")
    return id, done


def _step(client: OpenAI, id: str) -> int:
    """Returns the step of a job's training."""
    job = client.get(f"/jobs/{id}", cast_to=dict[str, Any])
    return int((job.get("progress") or {}).get("done", 0))


def _tour(client: OpenAI, base: str) -> list[str]:
    """Calls every method and returns their names. A refused answer ends it with the SDK's error."""
    jobs, graders = client.fine_tuning.jobs, client.fine_tuning.alpha.graders
    (first, *_) = jobs.list(limit=1, metadata={"row": "fine_tuning_sdk"}).data
    model = str(first.fine_tuned_model)
    checkpoint = jobs.checkpoints.list(first.id, limit=1).data[0].fine_tuned_model_checkpoint
    for name in (model, checkpoint):
        question: Any = [{"role": "user", "content": "What is the code of item 3?"}]
        client.chat.completions.create(model=name, messages=question, max_tokens=8)
    jobs.list_events(first.id, limit=5)
    client.files.content(first.result_files[0])
    second = _create(client, base)
    _until(lambda: _step(client, second) >= 1)
    jobs.pause(second)
    _until(lambda: client.get(f"/jobs/{second}", cast_to=dict[str, Any])["kind"] == "fine_tuning.paused")
    jobs.resume(second)
    jobs.cancel(second)
    jobs.retrieve(second)
    # A file of another method's shape, and a method that is not there yet: the refusal says which.
    for kind, reason in (("dpo", "input"), ("reinforcement", "reinforcement")):
        try:
            jobs.create(model=base, training_file=first.training_file, method={"type": kind})  # pyright: ignore
        except BadRequestError as refused:
            if reason not in str(refused):
                raise PeerError(f"the refusal of {kind} does not say {reason}: {refused}") from None
        else:
            raise PeerError(f"the method {kind} was not refused")
    graders.validate(grader=_CHECK)  # pyright: ignore
    graders.run(grader=_CHECK, model_sample="ZX-7", item={"answer": "ZX-"})  # pyright: ignore
    _evaluate(client, model)
    client.models.delete(checkpoint)
    return [
        *(
            f"fine_tuning.jobs.{name}"
            for name in "create list retrieve cancel pause resume list_events".split()
        ),
        "fine_tuning.jobs.checkpoints.list",
        *(f"fine_tuning.alpha.graders.{name}" for name in ("run", "validate")),
        *(f"evals.{name}" for name in "create retrieve update list delete".split()),
        *(f"evals.runs.{name}" for name in "create retrieve list cancel delete".split()),
        *(f"evals.runs.output_items.{name}" for name in ("list", "retrieve")),
        "models.delete",
    ]


def _evaluate(client: OpenAI, model: str) -> None:
    runs = client.evals.runs
    config: Any = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}
    made = client.evals.create(name="codes", data_source_config=config, testing_criteria=[_CHECK])  # pyright: ignore
    client.evals.update(made.id, name="the codes")
    client.evals.retrieve(made.id)
    client.evals.list(limit=1)
    rows = [{"item": {"number": number, "answer": "code of item"}} for number in range(4)]
    source: Any = {
        "type": "completions",
        "model": model,
        "source": {"type": "file_content", "content": rows},
        "input_messages": {
            "type": "template",
            "template": [{"role": "user", "content": "What is the code of item {{ item.number }}?"}],
        },
        "sampling_params": {"temperature": 0, "max_completion_tokens": 12},
    }
    run = runs.create(made.id, data_source=source)
    _until(lambda: runs.retrieve(run.id, eval_id=made.id).status == "completed")
    items = runs.output_items.list(run.id, eval_id=made.id).data
    runs.output_items.retrieve(items[0].id, eval_id=made.id, run_id=run.id)
    runs.list(made.id, limit=1)
    other = runs.create(made.id, data_source=source)
    with suppress(BadRequestError):  # it has ended already
        runs.cancel(other.id, eval_id=made.id)
    runs.delete(run.id, eval_id=made.id)
    client.evals.delete(made.id)


def _job_if(client: OpenAI, id: str, statuses: tuple[str, ...]) -> FineTuningJob | None:
    job = client.fine_tuning.jobs.retrieve(id)
    return job if job.status in statuses else None


def _until(condition: Callable[[], Any]) -> Any:
    """Returns what a condition gives, as soon as it gives something."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise PeerError("the server took too long")

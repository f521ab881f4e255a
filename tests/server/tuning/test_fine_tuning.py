"""`/v1/fine_tuning/jobs` through the official SDK, with a stand-in for the training program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from openai import OpenAI
from tests.server.conftest import Live
from tests.server.fakes import FakeEngine
from tests.server.tuning.jobs import TEMPLATE_HASH, client_of, ended, job_once, tuning_server, upload
from tests.waiting import until

from deepwell.dialogue.text import Codec
from deepwell.errors import EngineRestarted, EngineUnavailable
from deepwell.server.access.adapter_names import engine_name
from deepwell.server.families.fine_tuning import creating
from deepwell.server.families.fine_tuning.child import default_command
from deepwell.server.families.fine_tuning.models import TunedModels, runs_folder
from deepwell.storage.database import Tenant
from deepwell.storage.keys import KeyStore
from deepwell.storage.tables import audit_entries
from deepwell.tuning.align.config import DpoConfig
from deepwell.tuning.train.config import parse_config_as


@pytest.fixture(autouse=True)
def template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_TEMPLATE", TEMPLATE_HASH)


@pytest.fixture
def server(codec: Codec, tmp_path: Path) -> Iterator[Live]:
    with tuning_server(codec, tmp_path) as live:
        yield live


@pytest.fixture
def client(server: Live) -> Iterator[OpenAI]:
    with client_of(server) as client:
        yield client


def test_a_job_trains_and_its_model_answers(client: OpenAI, server: Live) -> None:
    file, held_out = upload(client), upload(client, "again")
    job = client.fine_tuning.jobs.create(
        model="toy",
        training_file=file,
        validation_file=held_out,
        suffix="greeter",
        seed=7,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
        extra_body={"deepwell": {"lora": {"r": 8}, "train": {"max_tokens": 64}}},
    )
    assert job.status == "queued" and job.seed == 7 and job.hyperparameters.n_epochs == 2
    config = json.loads((_folder(server, job.id, "config.json")).read_bytes())
    assert config["lora"] == {"r": 8} and config["train"]["max_tokens"] == 64
    assert config["train"]["epochs"] == 2 and config["train"]["seed"] == 7 and len(config["validation"]) == 1
    job = ended(client, job.id)
    assert job.status == "succeeded", job.error
    assert job.trained_tokens == 1234
    assert job.fine_tuned_model == f"ft:toy:greeter:{job.id[6:16]}"
    assert job.fine_tuned_model in [one.id for one in client.models.list()]
    answer = client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.choices[0].message.content == "hi"
    assert server.engine.seen[-1].adapter == f"local::{job.fine_tuned_model}"
    rows = client.files.content(job.result_files[0]).text.splitlines()
    assert rows[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert rows[2] == "2,1.0,0.5,1.1,0.4" and len(rows) == 9
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    assert [one.message for one in events[:2]] == [
        "The job has succeeded",
        f"New fine-tuned model created: {job.fine_tuned_model}",
    ]
    metrics = [one.data for one in reversed(events) if one.type == "metrics"]
    assert metrics[0] == {"step": 1, "train_loss": 2.0, "train_mean_token_accuracy": 0.5}
    assert len(metrics) == 12  # a step each, and a validation for every second
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))
    assert [one.step_number for one in checkpoints] == [8, 6, 4, 2]
    assert checkpoints[-1].metrics.valid_loss == 1.1
    early = checkpoints[-1].fine_tuned_model_checkpoint
    client.chat.completions.create(model=early, messages=[{"role": "user", "content": "hi"}])
    assert server.engine.seen[-1].adapter == f"local::{early}"


def _folder(server: Live, id: str, name: str) -> Path:
    """Returns a file of a run once it is there."""
    path = runs_folder(server.service) / id / name
    until(path.exists)
    return path


def test_jobs_are_listed_and_found_by_metadata(client: OpenAI) -> None:
    file = upload(client)
    made = [
        client.fine_tuning.jobs.create(model="toy", training_file=file, metadata=one).id
        for one in ({"run": "1"}, None, {"run": "2"})
    ]
    assert [one.id for one in client.fine_tuning.jobs.list(limit=1)] == made[::-1]
    assert [one.id for one in client.fine_tuning.jobs.list(metadata={"run": "1"})] == [made[0]]
    found = client.fine_tuning.jobs.list(extra_query={"metadata": "null"})
    assert [one.id for one in found] == [made[1]]
    with pytest.raises(openai.BadRequestError, match="unknown parameter 'order'"):
        client.fine_tuning.jobs.list(extra_query={"order": "asc"})
    for id in made:
        ended(client, id)


def test_a_job_is_paused_and_resumed(client: OpenAI, server: Live) -> None:
    job = client.fine_tuning.jobs.create(model="toy", training_file=upload(client, "wait at 3"))
    job_once(client, job.id, lambda _: _told(client, job.id, "Step 3/8"))
    paused = client.fine_tuning.jobs.pause(job.id)
    assert paused.status == "queued" and paused.paused is True
    listed = client.get("/jobs", cast_to=dict)["data"][0]
    assert listed["id"] == job.id
    listed = until(  # the worker has put it aside
        lambda: client.get("/jobs", cast_to=dict)["data"][0],
        lambda listed: listed["kind"] == "fine_tuning.paused",
    )
    assert listed["status"] == "queued"
    assert (runs_folder(server.service) / job.id / "checkpoints" / "step-3").is_dir()
    (runs_folder(server.service) / job.id / "go").touch()
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert ended(client, job.id).status == "succeeded"
    messages = [one.message for one in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert len([one for one in messages if one.startswith("Step 2/8: training")]) == 1
    with pytest.raises(openai.BadRequestError, match="is succeeded and cannot be paused"):
        client.fine_tuning.jobs.pause(job.id)


def _told(client: OpenAI, id: str, text: str) -> bool:
    return any(one.message.startswith(text) for one in client.fine_tuning.jobs.list_events(id, limit=100))


def test_a_cancelled_job_ends_and_leaves_nothing(client: OpenAI, server: Live) -> None:
    job = client.fine_tuning.jobs.create(model="toy", training_file=upload(client, "wait at 3"))
    job_once(client, job.id, lambda _: _told(client, job.id, "Step 3/8"))
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    folder = runs_folder(server.service) / job.id
    until(folder.exists, lambda there: not there)
    assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model is None
    with pytest.raises(openai.BadRequestError, match="is cancelled and cannot be resumed"):
        client.fine_tuning.jobs.resume(job.id)


def test_a_training_that_dies_before_a_checkpoint_is_given_up(client: OpenAI) -> None:
    job = client.fine_tuning.jobs.create(model="toy", training_file=upload(client, "die at 1"))
    failed = ended(client, job.id)
    assert failed.status == "failed" and failed.error is not None
    assert failed.error.code == "training_died" and "10 times" in failed.error.message
    assert "by signal 9" in failed.error.message
    assert _told(client, job.id, "the training ended 10 times")


def test_a_training_outlives_the_engine_that_it_is_for(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is started again at the end of a training would cost all of it."""
    load, failures = (
        FakeEngine.load_adapter,
        [EngineUnavailable("it starts again"), EngineRestarted("it ended")],
    )

    def loaded(engine: FakeEngine, name: str, path: str) -> Any:
        if failures:
            raise failures.pop()
        return load(engine, name, path)

    monkeypatch.setattr(FakeEngine, "load_adapter", loaded)
    job = client.fine_tuning.jobs.create(model="toy", training_file=upload(client))
    assert ended(client, job.id).status == "succeeded"
    assert not failures


def test_a_refused_training_says_why(client: OpenAI) -> None:
    job = client.fine_tuning.jobs.create(model="toy", training_file=upload(client, "refuse"))
    failed = ended(client, job.id)
    assert failed.error is not None and failed.error.code == "too_large"
    assert failed.error.message == "the plan needs 9 GB: set max_tokens to 256"


def test_an_adapter_of_another_template_is_not_served(client: OpenAI) -> None:
    job = client.fine_tuning.jobs.create(model="toy", training_file=upload(client, "wrong template"))
    failed = ended(client, job.id)
    assert failed.error is not None and failed.error.code == "artefact_mismatch"
    assert "another chat template" in failed.error.message
    assert [one.id for one in client.models.list()] == ["toy"]


def test_pairs_of_answers_train_by_dpo(client: OpenAI, server: Live) -> None:
    pair = {
        "input": {"messages": [{"role": "user", "content": "hi"}]},
        "preferred_output": [{"role": "assistant", "content": "hello"}],
        "non_preferred_output": [{"role": "assistant", "content": "go away"}],
    }
    data = "".join(json.dumps(pair) + "\n" for _ in range(3)).encode()
    file = client.files.create(file=("pairs.jsonl", data), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(
        model="toy",
        training_file=file,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 1}}},
    )
    assert job.method is not None and job.method.type == "dpo" and job.method.supervised is None
    assert job.method.dpo is not None and job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 0.2 and job.hyperparameters.n_epochs == 1
    config = parse_config_as(DpoConfig, json.loads(_folder(server, job.id, "config.json").read_bytes()))
    assert config.dpo.beta == 0.2 and config.train.epochs == 1 and config.lora.dropout == 0
    assert ended(client, job.id).status == "succeeded"
    assert default_command("dpo")[-2:] == ("deepwell.tuning.align.worker", "dpo")


def test_a_method_gets_its_own_files_and_hyperparameters(client: OpenAI) -> None:
    file = upload(client)
    for method, said in (
        ({"type": "dpo"}, "line 1: input: is missing"),
        ({"type": "dpo", "supervised": {}}, "method.supervised is given, and the type is dpo"),
        ({"type": "supervised", "dpo": {}}, "method.dpo is given, and the type is supervised"),
        ({"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}, "beta"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            client.fine_tuning.jobs.create(model="toy", training_file=file, method=method)  # pyright: ignore
    with pytest.raises(openai.BadRequestError, match=r"method\.dpo\.hyperparameters"):
        client.fine_tuning.jobs.create(
            model="toy", training_file=file, method={"type": "dpo"}, hyperparameters={"n_epochs": 1}
        )


def test_integrations_are_refused_with_the_reason(client: OpenAI) -> None:
    file = upload(client)
    with pytest.raises(openai.BadRequestError, match="integrations are not served"):
        client.fine_tuning.jobs.create(
            model="toy", training_file=file, integrations=[{"type": "wandb", "wandb": {"project": "x"}}]
        )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"messages": [{"role": "user", "content": "x"}]}\n', "line 1: messages: there is no assistant"),
        (b'{"messages": [{"role": "boss", "content": "x"}]}\n', r"line 1: messages\[0\].role"),
        (b'\n{"messages": 3}\n', "line 2: messages"),
        (b"not json\n", "line 1: not JSON"),
        (b"\xff\xfe\n", "line 1: not UTF-8"),
        (b"\n \n", "the file has no conversations"),
        (b"[" * 100_000, "line 1"),
    ],
)
def test_a_training_file_that_cannot_be_trained_on_is_refused_by_line(
    client: OpenAI, data: bytes, said: str
) -> None:
    file = client.files.create(file=("train.jsonl", data), purpose="fine-tune").id
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        client.fine_tuning.jobs.create(model="toy", training_file=file)
    assert refused.value.code == "invalid_training_file" and refused.value.param == "training_file"


def test_hostile_names_are_refused(client: OpenAI) -> None:
    file = upload(client)
    for suffix in ("../../etc", "a::b", "a/b", "\x00", "é", "x" * 65, "-rf", "a b"):
        with pytest.raises(openai.BadRequestError):
            client.fine_tuning.jobs.create(model="toy", training_file=file, suffix=suffix)
    for targets in (["../x"], ["q_proj'; --"], []):
        with pytest.raises(openai.BadRequestError):
            client.fine_tuning.jobs.create(
                model="toy", training_file=file, extra_body={"deepwell": {"lora": {"targets": targets}}}
            )
    for name in ("output", "threads", "strategy"):
        with pytest.raises(openai.BadRequestError, match=name):
            client.fine_tuning.jobs.create(
                model="toy", training_file=file, extra_body={"deepwell": {"train": {name: "/tmp/x"}}}
            )
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.create(model="../toy", training_file=file)
    with pytest.raises(openai.NotFoundError, match="file-none"):
        client.fine_tuning.jobs.create(model="toy", training_file="file-none")
    with pytest.raises(openai.BadRequestError, match="uploaded for 'batch'"):
        client.fine_tuning.jobs.create(model="toy", training_file=upload(client, purpose="batch"))


def test_a_server_without_torch_says_what_to_install(
    client: OpenAI, server: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(creating, "missing_packages", lambda: ("torch", "peft"))
    options = server.service.options
    server.service.options = replace(options, tuning=replace(options.tuning, command=None))
    with pytest.raises(
        openai.InternalServerError, match=r"torch, peft.*pip install 'deepwell\[tune\]'"
    ) as refused:
        client.fine_tuning.jobs.create(model="toy", training_file=upload(client))
    assert refused.value.status_code == 501
    server.service.options = replace(options, tuning=replace(options.tuning, jobs=0))
    with pytest.raises(openai.InternalServerError, match="set fine_tuning_jobs to 1"):
        client.fine_tuning.jobs.create(model="toy", training_file=upload(client))


def test_a_deleted_model_is_gone_for_good(client: OpenAI, server: Live) -> None:
    job = ended(client, client.fine_tuning.jobs.create(model="toy", training_file=upload(client)).id)
    name = job.fine_tuned_model
    assert name is not None and client.models.delete(name).deleted
    assert [one.id for one in client.models.list()] == ["toy"]
    assert not (runs_folder(server.service) / job.id).exists()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.NotFoundError):
        client.models.delete(name)


async def test_a_sweep_leaves_a_model_whose_row_is_about_to_be_written(server: Live) -> None:
    models, engine = server.service.tuned, server.engine
    assert isinstance(models, TunedModels)  # the server's own, whose sweep goes on beside the test
    tenant, name = Tenant("acme"), "ft:toy:tuned:0123456789"
    engine.load_adapter(engine_name(tenant, name), "")
    with models.held(tenant, name):
        await models.sweep()
        assert [one.name for one in engine.adapters()] == [engine_name(tenant, name)]
    await models.sweep()
    assert not engine.adapters()


def test_another_server_goes_on_and_serves_the_models(codec: Codec, tmp_path: Path) -> None:
    with tuning_server(codec, tmp_path) as first, client_of(first) as client:
        done = ended(client, client.fine_tuning.jobs.create(model="toy", training_file=upload(client)).id)
        job = client.fine_tuning.jobs.create(model="toy", training_file=upload(client, "wait at 5"))
        job_once(client, job.id, lambda _: _told(client, job.id, "Step 5/8"))
    assert (tmp_path / "runs" / job.id / "checkpoints" / "step-5").is_dir()
    with tuning_server(codec, tmp_path) as second, client_of(second) as client:
        answer = client.chat.completions.create(
            model=str(done.fine_tuned_model), messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices[0].message.content == "hi"
        assert ended(client, job.id).status == "succeeded"
        steps = [one for one in client.fine_tuning.jobs.list_events(job.id) if one.type == "metrics"]
        assert len(steps) == 12


def test_models_and_jobs_are_their_tenants_alone(codec: Codec, tmp_path: Path) -> None:
    with tuning_server(codec, tmp_path) as live:
        keys = KeyStore(live.service.state.database)
        scopes = ["inference", "files", "tuning"]
        a, b, narrow = (
            client_of(live, keys.create(Tenant(tenant), name, given)[1])
            for tenant, name, given in (
                ("a", "a", scopes),
                ("b", "b", scopes),
                ("a", "narrow", ["inference", "files"]),
            )
        )
        job = ended(a, a.fine_tuning.jobs.create(model="toy", training_file=upload(a), suffix="secret").id)
        name = str(job.fine_tuned_model)
        chat: Any = {"messages": [{"role": "user", "content": "hi"}]}
        assert a.chat.completions.create(model=name, **chat).choices[0].message.content == "hi"
        assert name not in [one.id for one in b.models.list()]
        assert job.organization_id == "a" and list(b.fine_tuning.jobs.list()) == []
        for call in (
            lambda: b.chat.completions.create(model=name, **chat),
            lambda: b.chat.completions.create(model=f"{name}:ckpt-step-2", **chat),
            lambda: b.fine_tuning.jobs.retrieve(job.id),
            lambda: b.files.content(job.result_files[0]),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        with pytest.raises(openai.PermissionDeniedError):
            b.models.delete(name)
        for call in (narrow.fine_tuning.jobs.list, lambda: narrow.models.delete(name)):
            with pytest.raises(openai.PermissionDeniedError, match="tuning"):
                call()
        assert narrow.get("/jobs", cast_to=dict)["data"] == []
        with pytest.raises(openai.NotFoundError):
            b.fine_tuning.jobs.create(model=name, training_file=upload(b))
        with pytest.raises(openai.BadRequestError, match="name its base: 'toy'"):
            a.fine_tuning.jobs.create(model=name, training_file=upload(a))
        told = [entry["action"] for entry in _audited(live)]
        assert told == ["create", "publish"]
        assert a.models.delete(name).deleted


def _audited(live: Live) -> list[dict[str, Any]]:
    """Returns the events of fine-tuning in the audit trail."""
    query = sa.select(audit_entries.c.entry).order_by(audit_entries.c.sequence)
    found = [
        json.loads(one)
        for one in live.service.state.database.read_now(lambda connection: connection.scalars(query).all())
    ]
    return [one for one in found if one["event"] == "fine_tuning"]

"""The method `reinforcement` of `/v1/fine_tuning/jobs` through the official SDK, with a stand-in for the training program."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import ValidationError
from tests.server.conftest import Live
from tests.server.tuning.jobs import TEMPLATE_HASH, client_of, ended, tuning_server
from tests.waiting import until

from deepwell.dialogue.text import Codec
from deepwell.server.families.fine_tuning.child import default_command
from deepwell.server.families.fine_tuning.models import runs_folder
from deepwell.server.families.fine_tuning.reinforced import fields_of
from deepwell.server.families.fine_tuning.schema import ReinforcementOptions, TrainOptions
from deepwell.tuning.align.ppo.config import parse_config
from deepwell.tuning.evaluate.graders import parse_grader

CHECK: dict[str, Any] = {
    "type": "string_check",
    "name": "city",
    "operation": "ilike",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.city }}",
}
JUDGE: dict[str, Any] = {
    "type": "score_model",
    "name": "judge",
    "model": "toy",
    "input": [{"role": "user", "content": "Rate it from 0 to 1: {{ sample.output_text }}"}],
}
LABELS = {
    "type": "label_model",
    "name": "labels",
    "model": "toy",
    "input": JUDGE["input"],
    "labels": ["a", "b"],
    "passing_labels": ["a"],
}


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


def upload(client: OpenAI, count: int = 24, **more: Any) -> str:
    lines = [
        {
            "messages": [{"role": "user", "content": f"Which city is number {number}?"}],
            "city": "Paris",
            **more,
        }
        for number in range(count)
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return client.files.create(file=("prompts.jsonl", data), purpose="fine-tune").id


def create(client: OpenAI, file: str, method: Any, **more: Any) -> Any:
    return client.fine_tuning.jobs.create(
        model="toy", training_file=file, method={"type": "reinforcement", "reinforcement": method}, **more
    )


def config_of(server: Live, id: str) -> dict[str, Any]:
    path = runs_folder(server.service) / id / "config.json"
    until(path.exists)
    return json.loads(path.read_bytes())


def test_a_grader_trains_by_comparing_answers(client: OpenAI, server: Live) -> None:
    chosen = {
        "batch_size": 4,
        "n_epochs": 2,
        "compute_multiplier": 0.5,
        "eval_interval": 3,
        "eval_samples": 2,
    }
    job = create(
        client,
        upload(client, wait="wait at 3"),
        {"grader": CHECK, "hyperparameters": chosen},
        validation_file=upload(client, 5),
        seed=7,
        extra_body={"deepwell": {"reinforcement": {"new_tokens": 16, "kl_budget": 0.2}}},
    )
    assert job.method.type == "reinforcement" and job.method.dpo is None
    method = job.method.reinforcement
    assert method.grader.type == "string_check" and method.grader.reference == "{{ item.city }}"
    assert method.hyperparameters.batch_size == 4 and method.hyperparameters.eval_samples == 2
    assert method.hyperparameters.reasoning_effort == "default"
    config = parse_config(config_of(server, job.id))
    assert config.algorithm == "grpo" and config.reward.type == "grader" and config.reward.grader == CHECK
    train = config.train
    assert (train.iterations, train.prompts, train.samples, train.new_tokens) == (12, 4, 4, 16)
    assert (train.evaluate_every, train.evaluation_samples, train.kl_budget, train.seed) == (3, 2, 0.2, 7)
    (runs_folder(server.service) / job.id / "go").touch()
    done = ended(client, job.id)
    assert done.status == "succeeded", done.error
    answer = client.chat.completions.create(
        model=str(done.fine_tuned_model), messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.choices[0].message.content == "hi"
    assert default_command("reinforcement")[-1] == "deepwell.tuning.align.ppo.worker"


def test_rewards_are_the_metrics_of_a_reinforcement(client: OpenAI) -> None:
    job = create(client, upload(client, say="rewards"), {"grader": CHECK})
    done = ended(client, job.id)
    assert done.status == "succeeded", done.error
    rows = client.files.content(done.result_files[0]).text.splitlines()
    assert rows[0] == "step,train_mean_reward,valid_mean_reward,kl,entropy,ended"
    assert rows[2] == "2,0.5,0.4,0.01,,"
    events = [one for one in client.fine_tuning.jobs.list_events(job.id, limit=100) if one.type == "metrics"]
    first: Any = events[-1]
    assert first.data == {"step": 1, "train_mean_reward": 0.25, "kl": 0.01}
    assert first.message == "Step 1/8: training mean reward=0.2500"
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert checkpoints[-1].metrics.model_dump()["valid_mean_reward"] == 0.4


def test_ppo_and_automatic_values(client: OpenAI, server: Live) -> None:
    job = create(
        client,
        upload(client, wait="wait at 3"),
        {"grader": CHECK},
        extra_body={"deepwell": {"reinforcement": {"algorithm": "ppo"}}},
    )
    config = parse_config(config_of(server, job.id))
    assert config.algorithm == "ppo" and config.validation == 0 and config.train.evaluate_every == 0
    # A batch of an eighth of the prompts, and three passes
    assert (config.train.prompts, config.train.iterations, config.train.samples) == (3, 24, 4)
    client.fine_tuning.jobs.cancel(job.id)
    assert ended(client, job.id).status == "cancelled"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({}, "grader"),
        ({"grader": {"type": "python", "name": "p", "source": "1"}}, "python graders are not run"),
        ({"grader": {**CHECK, "operation": "same"}}, r"method\.reinforcement\.grader\.operation"),
        ({"grader": {**CHECK, "more": 1}}, r"method\.reinforcement\.grader\.more"),
        ({"grader": {**CHECK, "reference": "{{ item.land }}"}}, "line 1: item.land: the grader reads it"),
        ({"grader": {**JUDGE, "model": "gpt-9"}}, "gpt-9"),
        ({"grader": LABELS}, "within a multi grader"),
        ({"grader": CHECK, "hyperparameters": {"reasoning_effort": "high"}}, "reasoning_effort 'high'"),
        ({"grader": CHECK, "hyperparameters": {"eval_interval": 2}}, "there is no validation_file"),
        ({"grader": CHECK, "hyperparameters": {"beta": 0.1}}, "beta"),
        ({"grader": CHECK, "response_format": {}}, "response_format"),
    ],
)
def test_what_cannot_train_is_refused(client: OpenAI, method: dict[str, Any], said: str) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=said):
        create(client, upload(client), method)
    assert list(client.fine_tuning.jobs.list()) == []


def test_options_of_other_methods_are_refused(client: OpenAI) -> None:
    file = upload(client)
    for options, said in (
        ({"train": {"steps": 3}}, "give deepwell.reinforcement"),
        ({"reinforcement": {"samples": 1}}, "GRPO compares"),
        ({"reinforcement": {"threads": 1}}, "threads"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            create(client, file, {"grader": CHECK}, extra_body={"deepwell": options})
    with pytest.raises(openai.BadRequestError, match="the type is supervised"):
        client.fine_tuning.jobs.create(
            model="toy",
            training_file=file,
            extra_body={"deepwell": {"reinforcement": {"new_tokens": 8}}},
        )
    method: Any = {"type": "reinforcement"}
    with pytest.raises(openai.BadRequestError, match="there is no grader"):
        client.fine_tuning.jobs.create(model="toy", training_file=file, method=method)


def test_lines_that_are_no_prompts_are_refused_by_line(client: OpenAI) -> None:
    for data, said in (
        (b'{"messages": []}\n', "line 1: messages: there is no question"),
        (b'{"messages": [{"role": "user", "content": "x"}], "city": "P"}\n[]\n', "line 2"),
        (b"\n\n", "the file has no"),
        (b"[" * 100_000, "line 1"),
    ):
        file = client.files.create(file=("prompts.jsonl", data), purpose="fine-tune").id
        with pytest.raises(openai.BadRequestError, match=said):
            create(client, file, {"grader": CHECK})


def test_one_field_is_looked_up_once_however_it_is_spelled() -> None:
    spelled = "{{ item.x[0] }}{{ item.x[00] }}{{ item['x'][000] }}{{ item.y }}{{ sample.output_text }}"
    assert len(fields_of(parse_grader({**CHECK, "input": spelled}))) == 3, "x[0], y, and the reference's city"


def test_options_of_a_reinforcement_are_finite() -> None:
    for options, kind in (
        ({"kl_budget": math.inf}, ReinforcementOptions),
        ({"end_penalty": math.inf}, ReinforcementOptions),
        ({"clip": math.inf}, TrainOptions),
    ):
        with pytest.raises(ValidationError, match="finite"):
            kind.model_validate(options)

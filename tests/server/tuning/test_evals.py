"""`/v1/evals` and `/v1/fine_tuning/alpha/graders` through the official SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.server.conftest import Live
from tests.server.tuning.jobs import client_of, tuning_server
from tests.waiting import until

from deepwell.dialogue.text import Codec

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q", "a"]}
CHECK: dict[str, Any] = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
}
SIMILAR: dict[str, Any] = {
    "type": "text_similarity",
    "name": "alike",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
    "pass_threshold": 0.6,
}
LABEL: dict[str, Any] = {
    "type": "label_model",
    "name": "tone",
    "model": "toy",
    "input": [{"role": "user", "content": '{"result": "{{item.tone}}"}'}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
SCORE: dict[str, Any] = {
    "type": "score_model",
    "name": "marks",
    "model": "toy",
    "input": [{"role": "user", "content": '{"result": {{item.marks}}}'}],
    "range": [0, 10],
    "pass_threshold": 5,
}
PYTHON: dict[str, Any] = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1.0"}


@pytest.fixture
def server(codec: Codec, tmp_path: Path) -> Iterator[Live]:
    with tuning_server(codec, tmp_path) as live:
        yield live


@pytest.fixture
def client(server: Live) -> Iterator[OpenAI]:
    with client_of(server) as client:
        yield client


def make(client: OpenAI, *criteria: dict[str, Any], schema: dict[str, Any] = SCHEMA) -> Any:
    config: Any = {"type": "custom", "item_schema": schema, "include_sample_schema": True}
    return client.evals.create(name="cities", data_source_config=config, testing_criteria=criteria)  # pyright: ignore


def ended(client: OpenAI, eval_id: str, run_id: str) -> Any:
    return until(
        lambda: client.evals.runs.retrieve(run_id, eval_id=eval_id),
        lambda run: run.status in ("completed", "failed", "canceled"),
    )


def rows_of(*rows: dict[str, Any]) -> Any:
    return {"type": "file_content", "content": [{"item": row} for row in rows]}


TEMPLATE: Any = {"type": "template", "template": [{"role": "user", "content": "{{item.q}}"}]}


def test_an_eval_is_made_changed_listed_and_deleted(client: OpenAI) -> None:
    made = make(client, CHECK, SIMILAR)
    assert made.name == "cities" and [one.type for one in made.testing_criteria] == [
        "string_check",
        "text_similarity",
    ]
    assert made.data_source_config.schema_["properties"]["item"] == SCHEMA
    other = make(client, CHECK)
    assert [one.id for one in client.evals.list(limit=1)] == [made.id, other.id]
    changed = client.evals.update(made.id, name="towns", metadata={"a": "b"})
    assert (changed.name, changed.metadata) == ("towns", {"a": "b"})
    assert client.evals.retrieve(made.id).to_dict() == changed.to_dict()
    assert [one.id for one in client.evals.list(order_by="updated_at", order="desc")] == [made.id, other.id]
    assert client.evals.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.evals.retrieve(made.id)


@pytest.mark.parametrize("kind", ["completions", "responses"])
def test_a_run_samples_the_served_model_and_judges(client: OpenAI, kind: Any) -> None:
    made = make(client, CHECK, SIMILAR)
    rows = rows_of({"q": "Paris", "a": "Paris"}, {"q": "Pariz", "a": "Paris"}, {"q": "x", "a": "Rome"})
    run = client.evals.runs.create(
        made.id,
        name="first",
        metadata={"k": "v"},
        data_source={
            "type": kind,
            "model": "toy",
            "source": rows,
            "input_messages": TEMPLATE,
            "sampling_params": {"temperature": 0, "max_completion_tokens": 20, "seed": 3},
        },
    )
    assert run.status == "queued" and run.model == "toy" and run.metadata == {"k": "v"}
    done = ended(client, made.id, run.id)
    assert done.status == "completed"
    assert done.result_counts.model_dump() == {"errored": 0, "failed": 2, "passed": 1, "total": 3}
    assert {one.testing_criteria: (one.passed, one.failed) for one in done.per_testing_criteria_results} == {
        "same": (1, 2),
        "alike": (2, 1),
    }
    (usage,) = done.per_model_usage
    assert (usage.run_model_name, usage.invocation_count) == ("toy", 3) and usage.completion_tokens > 0
    items = list(client.evals.runs.output_items.list(run.id, eval_id=made.id, limit=2))
    assert [one.datasource_item["q"] for one in items] == ["Paris", "Pariz", "x"]
    assert items[0].sample.output[0].content == "Paris" and items[0].sample.input[0].content == "Paris"
    assert (items[0].sample.seed, items[0].sample.temperature) == (3, 0)
    assert [one.score for one in items[1].results] == [0.0, 0.8]
    failed = client.evals.runs.output_items.list(run.id, eval_id=made.id, status="fail")
    assert [one.datasource_item_id for one in failed] == [1, 2]
    one = client.evals.runs.output_items.retrieve(items[0].id, eval_id=made.id, run_id=run.id)
    assert one.to_dict() == items[0].to_dict() and one.status == "pass"
    assert [one.id for one in client.evals.runs.list(made.id, status="completed")] == [run.id]
    assert client.evals.runs.delete(run.id, eval_id=made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.evals.runs.retrieve(run.id, eval_id=made.id)


def test_sums_are_of_all_rows(client: OpenAI) -> None:
    made = make(client, CHECK)
    content = [{"item": {"q": "", "a": "x"}, "sample": {"output_text": "xy"[n % 2]}} for n in range(151)]
    source: Any = {"type": "jsonl", "source": {"type": "file_content", "content": content}}
    done = ended(client, made.id, client.evals.runs.create(made.id, data_source=source).id)
    assert (done.result_counts.passed, done.result_counts.failed) == (76, 75)
    (result,) = done.per_testing_criteria_results
    assert (result.passed, result.failed) == (76, 75)


def test_models_grade_rows_of_a_file(client: OpenAI) -> None:
    made = make(client, LABEL, SCORE, schema={"type": "object"})
    rows = [
        {"item": {"tone": "good", "marks": 7}, "sample": {"output_text": "x"}},
        {"item": {"tone": "bad", "marks": 7.5}},
        {"item": {"tone": "good", "marks": "none"}},
        {"item": {"tone": "good", "marks": 99}},
    ]
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    file = client.files.create(file=("rows.jsonl", data), purpose="user_data")
    source: Any = {"type": "jsonl", "source": {"type": "file_id", "id": file.id}}
    run = client.evals.runs.create(made.id, data_source=source)
    client.files.delete(file.id)
    done = ended(client, made.id, run.id)
    assert done.result_counts.model_dump() == {"errored": 2, "failed": 1, "passed": 1, "total": 4}
    items = list(client.evals.runs.output_items.list(run.id, eval_id=made.id))
    assert [[one.score for one in item.results] for item in items] == [[1, 7], [0, 7.5], [1, 0], [1, 0]]
    assert items[1].results[0].sample == {"label": "bad"}
    assert items[2].results[1].sample["error"] == "model_grader_parse_error"
    (usage,) = done.per_model_usage
    assert usage.invocation_count == 8 and usage.total_tokens > 0


def test_the_messages_may_be_a_field_of_the_row(client: OpenAI) -> None:
    made = make(client, CHECK)
    chat = [{"role": "system", "content": "short"}, {"role": "user", "content": "Rome"}]
    run = client.evals.runs.create(
        made.id,
        data_source={
            "type": "completions",
            "model": "toy",
            "source": rows_of({"q": chat, "a": "Rome"}, {"q": "Oslo", "a": "Oslo"}),
            "input_messages": {"type": "item_reference", "item_reference": "item.q"},
        },
    )
    assert ended(client, made.id, run.id).result_counts.passed == 2


def test_a_row_whose_sample_fails_is_an_error_of_its_own(client: OpenAI) -> None:
    made = make(client, CHECK)
    run = client.evals.runs.create(
        made.id,
        data_source={
            "type": "completions",
            "model": "toy",
            "source": rows_of({"q": "x" * 5000, "a": "x"}, {"q": "Oslo", "a": "Oslo"}),
            "input_messages": TEMPLATE,
        },
    )
    done = ended(client, made.id, run.id)
    assert (done.result_counts.errored, done.result_counts.passed) == (1, 1)
    item = client.evals.runs.output_items.retrieve("outputitem_0", eval_id=made.id, run_id=run.id)
    assert item.sample.error.message and item.status == "error"
    assert (
        item.sample.input[0].content == "x" * 4000
    )  # the first of them: nothing else bounds what rows leave


def test_what_cannot_be_judged_is_refused_by_name(client: OpenAI) -> None:
    for criterion, said in (
        (PYTHON, "python"),
        ({**CHECK, "input": "{{env.HOME}}"}, "env.HOME"),
        ({**CHECK, "input": "{{sample.__class__.__mro__"}, None),
        ({**LABEL, "passing_labels": ["fine"]}, "fine"),
        ({**SIMILAR, "pass_threshold": None}, "pass_threshold"),
        ({**CHECK, "operation": "exec"}, "operation"),
        ({"type": "multi", "name": "m", "graders": {"a": CHECK}, "calculate_output": "a"}, "multi"),
    ):
        if said is not None:
            with pytest.raises(openai.BadRequestError, match=said):
                make(client, criterion)
    with pytest.raises(openai.BadRequestError, match="called 'same'"):
        make(client, CHECK, CHECK)
    with pytest.raises(openai.NotFoundError, match="gpt-x"):
        make(client, {**LABEL, "model": "gpt-x"})
    for kind in ("logs", "stored_completions"):
        with pytest.raises(openai.BadRequestError, match=f"{kind}.*not supported"):
            client.evals.create(data_source_config={"type": kind}, testing_criteria=[CHECK])  # pyright: ignore


def test_rows_that_are_not_as_the_eval_says_are_refused_by_line(client: OpenAI) -> None:
    made = make(client, CHECK)
    for data, said in (
        (b'{"item": {"q": "x", "a": "y"}}\n{"item": {"q": "x"}}\n', "line 2 has no item.a"),
        (b'{"q": "x"}\n', "line 1 has no object `item`"),
        (b"nothing\n", "line 1"),
        (b'{"item": {"q": 1, "a": 1}, "sample": []}\n', "sample"),
        (b"[" * 100_000 + b"\n", "line 1"),
        (b'{"item": {"q": ' + b"[" * 990 + b"]" * 990 + b', "a": 1}}', "nested deeper"),
        (b"\n", "no rows"),
    ):
        file = client.files.create(file=("rows.jsonl", data), purpose="user_data")
        source: Any = {"type": "jsonl", "source": {"type": "file_id", "id": file.id}}
        with pytest.raises(openai.BadRequestError, match=said):
            client.evals.runs.create(made.id, data_source=source)
    with pytest.raises(openai.BadRequestError, match=r"content\[0\] has no item.a"):
        client.evals.runs.create(made.id, data_source={"type": "jsonl", "source": rows_of({"q": "x"})})
    given: Any = {"type": "completions", "model": "toy", "source": {"type": "stored_completions"}}
    with pytest.raises(openai.BadRequestError, match="stored_completions"):
        client.evals.runs.create(made.id, data_source=given | {"input_messages": TEMPLATE})
    given["source"] = rows_of({"q": "x", "a": "x"})
    sampled = {"type": "template", "template": [{"role": "user", "content": "{{sample.output_text}}"}]}
    with pytest.raises(openai.BadRequestError, match=r"sample\.output_text"):
        client.evals.runs.create(made.id, data_source=given | {"input_messages": sampled})
    with pytest.raises(openai.NotFoundError, match="gpt-x"):
        client.evals.runs.create(made.id, data_source=given | {"model": "gpt-x", "input_messages": TEMPLATE})


def test_a_run_is_cancelled_both_ways(client: OpenAI, server: Live) -> None:
    made = make(client, CHECK)
    server.engine.endless = True
    source: Any = {
        "type": "completions",
        "model": "toy",
        "source": rows_of(*[{"q": f"x{n}", "a": "x"} for n in range(50)]),
        "input_messages": TEMPLATE,
    }
    first = client.evals.runs.create(made.id, data_source=source)
    assert client.evals.runs.cancel(first.id, eval_id=made.id).status == "canceled"
    second = client.evals.runs.create(made.id, data_source=source)
    cancelled = client.post(f"/evals/{made.id}/runs/{second.id}", cast_to=dict)
    assert cancelled["status"] == "canceled"
    server.engine.endless = False
    for run in (first, second):
        assert client.evals.runs.retrieve(run.id, eval_id=made.id).status == "canceled"
    with pytest.raises(openai.NotFoundError):
        client.evals.runs.cancel("evalrun_none", eval_id=made.id)


def test_graders_are_checked_and_run_alone(client: OpenAI) -> None:
    graders = client.fine_tuning.alpha.graders
    assert graders.validate(grader=SCORE).grader.name == "marks"  # pyright: ignore
    run = graders.run(grader=CHECK, model_sample="Paris", item={"a": "Paris"})  # pyright: ignore
    assert (run.reward, run.metadata.name, run.metadata.type) == (1.0, "same", "string_check")
    assert not any(v for k, v in run.metadata.errors.model_dump().items() if k.endswith("_error"))
    run = graders.run(grader=SCORE, model_sample="x", item={"marks": 4})  # pyright: ignore
    assert run.reward == 4 and run.metadata.sampled_model_name == "toy" and run.metadata.token_usage
    assert run.api_model_grader_token_usage_per_model["toy"] == run.metadata.token_usage
    run = graders.run(grader=CHECK, model_sample="Paris", item={})  # pyright: ignore
    assert run.metadata.errors.invalid_variable_error and run.reward == 0
    multi = {"type": "multi", "name": "all", "graders": CHECK, "calculate_output": "same * 2"}
    run = graders.run(grader=multi, model_sample="Paris", item={"a": "Paris"})  # pyright: ignore
    assert run.reward == 2 and run.sub_rewards == {"same": 1.0}
    for grader in (PYTHON, {**multi, "graders": PYTHON}):
        with pytest.raises(openai.BadRequestError, match="python"):
            graders.validate(grader=grader)  # pyright: ignore
    with pytest.raises(openai.BadRequestError):
        graders.validate(grader={**multi, "calculate_output": "__import__('os')"})  # pyright: ignore


def test_another_server_goes_on_with_a_run(codec: Codec, tmp_path: Path) -> None:
    with tuning_server(codec, tmp_path) as first, client_of(first) as client:
        made = make(client, CHECK)
        first.engine.endless = True
        run = client.evals.runs.create(
            made.id,
            data_source={
                "type": "completions",
                "model": "toy",
                "source": rows_of({"q": "Oslo", "a": "Oslo"}),
                "input_messages": TEMPLATE,
            },
        )
    with tuning_server(codec, tmp_path) as second, client_of(second) as client:
        assert ended(client, made.id, run.id).result_counts.passed == 1

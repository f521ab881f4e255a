"""An evaluation from task files to the saved report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tuning.evaluate.test_tasks import write

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.tuning.evaluate.comparison import compare
from deepwell.tuning.evaluate.generation import distinct, repetition
from deepwell.tuning.evaluate.latency import latency_of
from deepwell.tuning.evaluate.report import save
from deepwell.tuning.evaluate.run import Evaluation, Plan, evaluate, read_prompts, work_of
from deepwell.tuning.evaluate.subjects import Subject, SubjectName, open_subjects, parse_subject
from deepwell.tuning.evaluate.tasks import read_task


def plan_of(folder: Path) -> Plan:
    choice = read_task(write(folder))
    (folder / "more").mkdir()
    written = read_task(
        write(
            folder / "more",
            task="written",
            output_type="generate_until",
            doc_to_choice="-",
            doc_to_target="answer",
            generation_kwargs={"until": ["\n"], "max_gen_toks": 6},
        )
    )
    (folder / "text.txt").write_text("hello 12\n" * 700)
    (folder / "prompts.jsonl").write_text(
        '{"prompt": "hello"}\n{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}]}\n'
    )
    prompts = read_prompts(folder / "prompts.jsonl")
    return Plan((choice, written), (folder / "text.txt",), prompts, max_tokens=8)


def test_a_report_keeps_everything(tiny_model: Path, tiny_adapters: list[Path], tmp_path: Path):
    work = work_of(plan_of(tmp_path))
    names = [SubjectName("base", str(tiny_model)), SubjectName("a", str(tiny_model), tiny_adapters[0])]
    counts: list[int] = []
    with open_subjects(names, {"precision": "fp32", "models_dir": tmp_path / "models"}) as subjects:
        found = [evaluate(subject, work, counts.append) for subject in subjects]
    assert sum(counts) == 2 * work.total
    comparison = compare(found[0], found[1])
    names_of_rows = {(row.task, row.metric) for row in comparison.rows}
    assert {
        ("topics", "acc"),
        ("written", "exact_match"),
        ("written", "bleu"),
        ("text.txt", "byte_perplexity"),
        ("prompts", "distinct_2"),
    } <= names_of_rows
    folder = tmp_path / "report"
    save(folder, work, found, [comparison])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["models"]["a"]["facts"]["adapter_digest"]
    assert metrics["models"]["base"]["facts"]["adapter_digest"] is None
    config = json.loads((folder / "config.json").read_text())
    assert config["versions"]["deepwell"]
    assert all(len(digest) == 64 for digest in config["tasks"][0]["data_sha256"].values())
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * work.total
    for row in comparison.rows:
        value = metrics["models"]["a"]["metrics"][row.task][row.metric]["value"]
        assert row.change.second == pytest.approx(value)


def test_the_same_model_twice_differs_in_nothing(subject: Subject, tmp_path: Path):
    work = work_of(plan_of(tmp_path))
    rows = compare(evaluate(subject, work), evaluate(subject, work)).rows
    assert {(row.change.value, row.change.low, row.change.high) for row in rows} == {(0, 0, 0)}
    assert {row.change.verdict for row in rows} <= {"within noise", "too few"}


def test_models_that_share_nothing_have_no_rows():
    assert compare(Evaluation("a", {}, []), Evaluation("b", {}, [])).rows == ()


def test_work_is_checked_before_a_model_is_opened(tmp_path: Path):
    task = read_task(write(tmp_path))
    with pytest.raises(InvalidRequest, match="nothing to measure"):
        work_of(Plan())
    with pytest.raises(InvalidRequest, match="two tasks are called 'topics'"):
        work_of(Plan((task, task)))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InvalidRequest, match="no text"):
        work_of(Plan(texts=(tmp_path / "empty.txt",)))
    (tmp_path / "none.jsonl").write_text('{"question": "x"}\n')
    with pytest.raises(InvalidRequest, match=r"row 1 .* has no prompt"):
        read_prompts(tmp_path / "none.jsonl")


def test_names_of_models_and_adapters(tiny_adapters: list[Path], tmp_path: Path):
    assert parse_subject("smollm2") == SubjectName("smollm2", "smollm2")
    assert parse_subject(str(tmp_path)).adapter is None
    named = parse_subject(f"smollm2:{tiny_adapters[0]}")
    assert (named.model, named.adapter) == ("smollm2", tiny_adapters[0])
    assert parse_subject("smollm2:a", adapters=tiny_adapters[0].parent).adapter == tiny_adapters[0]
    with pytest.raises(ModelNotFound, match="no adapter 'zzz'"):
        parse_subject("smollm2:zzz")
    with pytest.raises(InvalidRequest, match="names no adapter"):
        parse_subject("smollm2:")


def test_variety_and_repetition():
    assert distinct("a b a b", 2) == pytest.approx(2 / 3)
    assert distinct("天天天天", 2) == pytest.approx(1 / 3)
    assert distinct("one", 2) == 1
    assert repetition([1, 2, 3, 4] * 4) == pytest.approx(1 - 4 / 13)
    assert repetition([1, 2, 3]) == 0


def test_latency_is_the_ratio_within_rounds():
    drift = [1.0, 2.0, 4.0, 8.0]
    found = latency_of([(0.1 * d, 0.2 * d) for d in drift], [(50 / d, 25 / d) for d in drift])
    assert found.first_ratio.value == pytest.approx(2)
    assert found.first_ratio.low == pytest.approx(found.first_ratio.high)
    assert found.rate_ratio.value == pytest.approx(0.5)
    assert found.first_ms == pytest.approx((300, 600))

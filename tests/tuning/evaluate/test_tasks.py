"""Task files: lm-eval's form over local data, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepwell.errors import InvalidRequest
from deepwell.tuning.evaluate.tasks import read_task

ROWS = [
    {"q": "A bat and a ball?", "options": ["sport", "tech"], "label": 0, "answer": "sport"},
    {"q": "A chip?", "options": ["sport", "tech"], "label": 1, "answer": "tech"},
    {"q": "A goal?", "options": ["sport", "tech"], "label": 0, "answer": "sport"},
]


def write(folder: Path, rows: Any = ROWS, **changes: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "topics",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl", "train": "rows.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}\nTopic:",
        "doc_to_choice": "options",
        "doc_to_target": "label",
    } | changes
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in task.items() if value != "-"}))
    return path


def test_a_multiple_choice_task(tmp_path: Path):
    prompts = read_task(write(tmp_path)).prompts()
    assert [prompt.context for prompt in prompts][:1] == ["A bat and a ball?\nTopic:"]
    assert prompts[1].choices == ("sport", "tech")
    assert [prompt.target for prompt in prompts] == [0, 1, 0]


@pytest.mark.parametrize(
    ("choices", "target"),
    [
        (["sport", "tech"], "{{label}}"),
        ("{{options}}", "answer"),
        ('["sport", "{{ options[1] }}"]', "{{ options.index(answer) }}"),
        ({"a": "sport", "b": "tech"}, "{{answer}}"),
    ],
)
def test_choices_and_targets_in_every_form(tmp_path: Path, choices: Any, target: str):
    prompts = read_task(write(tmp_path, doc_to_choice=choices, doc_to_target=target)).prompts()
    assert [prompt.choices for prompt in prompts] == [("sport", "tech")] * 3
    assert [prompt.target for prompt in prompts] == [0, 1, 0]


def test_json_files_and_lists_of_rows_are_read(tmp_path: Path):
    path = write(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS))
    as_json = tmp_path / "task.json"
    as_json.write_text(json.dumps(yaml.safe_load(path.read_text())))
    assert len(read_task(as_json)) == 3


def test_examples_and_description_come_first(tmp_path: Path):
    path = write(
        tmp_path,
        description="Name the topic.\n\n",
        num_fewshot=2,
        fewshot_split="train",
        fewshot_config={"sampler": "first_n"},
    )
    prompt = read_task(path).prompts(1)[0]
    assert prompt.context == (
        "Name the topic.\n\nA bat and a ball?\nTopic: sport\n\nA chip?\nTopic: tech\n\nA bat and a ball?\nTopic:"
    )
    assert [message["role"] for message in prompt.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"doc_to_texts": "x"}, "unknown field 'doc_to_texts'.*: doc_to_text$"),
        ({"process_docs": "clean"}, "run code: process_docs"),
        ({"dataset_path": "hellaswag"}, "dataset_path: Input should be 'json'"),
        ({"output_type": "free"}, "output_type"),
        ({"doc_to_target": "missing"}, "index or the text of a choice"),
        ({"doc_to_target": 2}, "index or the text of a choice"),
        ({"doc_to_choice": "-"}, "no doc_to_choice"),
        ({"doc_to_choice": ["one"]}, "two or more texts"),
        ({"doc_to_text": "{{nothing}}"}, "row 1.*is undefined"),
        ({"doc_to_text": "label"}, "doc_to_text .* gives 0"),
        ({"num_fewshot": 1}, "at random"),
        (
            {"num_fewshot": 1, "fewshot_config": {"sampler": "first_n"}, "fewshot_split": "test"},
            "rows it tests",
        ),
        ({"test_split": "validation"}, "no data for the split 'validation'"),
        ({"dataset_kwargs": {"data_files": "https://example.com/x.json"}}, "files of this machine"),
        ({"dataset_kwargs": {"data_files": "other.jsonl"}}, "other.jsonl"),
        ({"generation_kwargs": {"temperature": 1.0}}, "temperature"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, changes: dict[str, Any], words: str):
    path = write(tmp_path, **changes)
    with pytest.raises(InvalidRequest, match=words):
        read_task(path).prompts()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 999999999 }}",
        "{{ 9 ** 9999999 }}",
        "{% include 'rows.jsonl' %}",
        "{{ q | attr('__class__') | attr('__mro__') }}",
        "{{ q.format(q) }}",
        "{{ unclosed",
    ],
)
def test_hostile_templates_are_stopped(tmp_path: Path, template: str):
    with pytest.raises(InvalidRequest, match="doc_to_text of the task"):
        read_task(write(tmp_path, doc_to_text=template)).prompts()


def test_code_in_files_is_refused(tmp_path: Path):
    path = write(tmp_path)
    path.write_text(path.read_text() + "\nmetadata: !function utils.process\n")
    with pytest.raises(InvalidRequest, match="run code: a tag in line"):
        read_task(path)
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(InvalidRequest, match="run code: a tag in line"):
        read_task(path)


def test_broken_data_names_its_line(tmp_path: Path):
    path = write(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"q": "a"}\n{"q": \n')
    with pytest.raises(InvalidRequest, match=r"line 2 of .*rows\.jsonl"):
        read_task(path)
    (tmp_path / "rows.jsonl").write_text('{"q": "a"}\n[1]\n')
    with pytest.raises(InvalidRequest, match=r"row 2 of .* is no object"):
        read_task(path)
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(InvalidRequest, match="no rows"):
        read_task(path)

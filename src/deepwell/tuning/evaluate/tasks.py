"""Task files in lm-eval's own form, JSON or YAML, over local data sets.

A task says how each row of a data set becomes a prompt, its choices and its target:

    task: topics
    dataset_path: json
    dataset_kwargs: {data_files: {test: topics.jsonl}}
    test_split: test
    output_type: multiple_choice
    doc_to_text: "{{text}}\\nTopic:"
    doc_to_choice: [sport, tech]
    doc_to_target: label

Templates run in the metered sandbox of chat templates. What would execute code (`!function`, `process_docs`) is refused.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from jinja2 import StrictUndefined, Template
from jinja2.exceptions import TemplateError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deepwell.errors import InvalidRequest
from deepwell.messages import nearest
from deepwell.models.text.sandbox import ChatEnvironment, TemplateLimit, budget

__all__ = ["OutputType", "Prompt", "Task", "TaskConfig", "read_rows", "read_task"]

OutputType = Literal["multiple_choice", "generate_until", "loglikelihood", "loglikelihood_rolling"]

_MAX_FILE = 256 << 20  # bytes of a data file
_MAX_CHARACTERS = 4 << 20  # that a template may handle
_SECONDS = 2.0
_UNRUN = ("process_docs", "process_results", "custom_dataset", "doc_to_image", "doc_to_audio", "class")
_SHORT = 64  # characters of a value in errors


class GenerationKwargs(BaseModel):
    """`generation_kwargs` of a task. Answers are greedy."""

    model_config = ConfigDict(extra="forbid")

    until: list[str] | str | None = None
    max_gen_toks: int = Field(default=256, ge=1)
    do_sample: Literal[False] = False
    temperature: float = Field(default=0.0, ge=0, le=0)


class FilterStep(BaseModel):
    """One function of a filter."""

    model_config = ConfigDict(extra="forbid")

    function: Literal["take_first", "remove_whitespace", "lowercase", "uppercase"]


class Filter(BaseModel):
    """An entry of `filter_list`: what is done to an answer before it is compared."""

    model_config = ConfigDict(extra="forbid")

    name: str
    filter: list[FilterStep]


class FewshotConfig(BaseModel):
    """`fewshot_config` of a task: the first examples of a split, which every run and every program takes alike."""

    model_config = ConfigDict(extra="forbid")

    sampler: Literal["first_n"]
    split: str | None = None


class Metric(BaseModel):
    """A metric of `metric_list`."""

    model_config = ConfigDict(extra="forbid")

    metric: str
    aggregation: str | None = None
    higher_is_better: bool | None = None
    ignore_case: bool = False
    ignore_punctuation: bool = False
    ignore_numbers: bool = False


class DatasetKwargs(BaseModel):
    """`dataset_kwargs` of a task."""

    model_config = ConfigDict(extra="forbid")

    data_files: str | list[str] | dict[str, str | list[str]]


class TaskConfig(BaseModel):
    """A task file, by lm-eval's names."""

    model_config = ConfigDict(extra="forbid")

    task: str = Field(min_length=1, max_length=200)
    dataset_path: Literal["json"] = "json"
    dataset_kwargs: DatasetKwargs
    dataset_name: None = None
    test_split: str | None = None
    validation_split: str | None = None
    training_split: str | None = None
    fewshot_split: str | None = None
    output_type: OutputType
    doc_to_text: str = ""
    doc_to_target: str | int
    doc_to_choice: str | list[str] | dict[str, str] | None = None
    description: str = ""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    num_fewshot: int = Field(0, ge=0, le=100)
    fewshot_config: FewshotConfig | None = None
    generation_kwargs: GenerationKwargs = GenerationKwargs()
    filter_list: list[Filter] = Field([], max_length=1)
    metric_list: list[Metric] = []
    repeats: Literal[1] = 1
    should_decontaminate: Literal[False] = False
    task_alias: str | None = None
    tag: str | list[str] | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of a task, ready to be asked.

    Attributes:
        messages: the parts of the context: a system message where there is a description, the examples and the question as
            one user message.
        context: the same as plain text.
        choices: the choices, without the delimiter; empty unless the task has some.
        target: index of the right choice (multiple_choice) or the text that is expected.
        delimiter: text between the plain context and a choice.
    """

    number: int
    messages: tuple[Mapping[str, str], ...]
    context: str
    choices: tuple[str, ...]
    target: int | str
    delimiter: str


class Task:
    """A task with its data, read and checked.

    Attributes:
        data: sha256 of each data file.
    """

    def __init__(self, path: Path, config: TaskConfig) -> None:
        self.path = path
        self.config = config
        self.data: dict[str, str] = {}
        self._environment = _TaskEnvironment()
        self._compiled: dict[str, Template] = {}
        self._rows = self._split(config.test_split or config.validation_split)
        self._examples = self._fewshot()
        if not self._rows:
            raise InvalidRequest(f"the task {config.task!r} has no rows", fix="name a test_split with rows")

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.config.task

    def __len__(self) -> int:
        return len(self._rows)

    def files(self) -> dict[str, list[str]]:
        """Returns the absolute paths of the data files, by split."""
        given = self.config.dataset_kwargs.data_files
        splits = given if isinstance(given, dict) else {"train": given}
        return {
            split: [str(self._file(one)) for one in ([files] if isinstance(files, str) else files)]
            for split, files in splits.items()
        }

    def prompts(self, limit: int | None = None) -> list[Prompt]:
        """Returns the rows as prompts, the first `limit` of them.

        Raises:
            InvalidRequest: a template fails on a row, or a target is no choice; the message names the row.
        """
        return [self._prompt(number, row) for number, row in enumerate(self._rows[:limit])]

    def _prompt(self, number: int, row: Mapping[str, Any]) -> Prompt:
        config = self.config
        choices = self._choices(row, number)
        target = self._target(row, choices, number)
        question = self._field(config.doc_to_text, row, number, "doc_to_text")
        described = self._rendered(config.description, row, number, "description")
        user = self._examples + question
        messages: list[Mapping[str, str]] = [{"role": "system", "content": described}] if described else []
        messages.append({"role": "user", "content": user})
        return Prompt(number, tuple(messages), described + user, choices, target, config.target_delimiter)

    def _choices(self, row: Mapping[str, Any], number: int) -> tuple[str, ...]:
        given = self.config.doc_to_choice
        if given is None:
            if self.config.output_type == "multiple_choice":
                raise InvalidRequest(
                    f"the task {self.name!r} has no doc_to_choice", fix="say what the choices are"
                )
            return ()
        if isinstance(given, dict):
            return tuple(given.values())
        value: Any = given
        if isinstance(given, str):
            value = (
                row[given] if given in row else _literal(self._rendered(given, row, number, "doc_to_choice"))
            )
        if (
            not isinstance(value, list | tuple)
            or len(value) < 2
            or not all(isinstance(one, str) and one for one in value)
        ):
            raise self._wrong("doc_to_choice", number, value, "give two or more texts that are not empty")
        return tuple(cast("list[str]", value))

    def _target(self, row: Mapping[str, Any], choices: Sequence[str], number: int) -> int | str:
        given = self.config.doc_to_target
        value: Any = given if isinstance(given, int) else self._value(given, row, number, "doc_to_target")
        if not choices:
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            if isinstance(value, list | dict) or value is None:
                raise self._wrong("doc_to_target", number, value, "give one text")
            return str(value)
        if isinstance(value, str):
            if value.isdigit() and value not in choices:
                value = int(value)
            elif value in choices:
                value = choices.index(value)
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, int) or not 0 <= value < len(choices):
            raise self._wrong("doc_to_target", number, value, "give the index or the text of a choice")
        return value if self.config.output_type == "multiple_choice" else choices[value]

    def _value(self, given: str, row: Mapping[str, Any], number: int, field: str) -> Any:
        return row[given] if given in row else self._rendered(given, row, number, field)

    def _field(self, given: str, row: Mapping[str, Any], number: int, field: str) -> str:
        value = self._value(given, row, number, field)
        if not isinstance(value, str):
            raise self._wrong(field, number, value, "give a text")
        return value

    def _rendered(self, source: str, row: Mapping[str, Any], number: int, field: str) -> str:
        if "{" not in source:
            return source
        try:
            with budget(_MAX_CHARACTERS, _SECONDS):
                template = self._compiled.get(source)
                if template is None:
                    template = self._compiled[source] = self._environment.from_string(source)
                return template.render(**{str(name): value for name, value in row.items()})
        except (TemplateError, TemplateLimit, RecursionError, MemoryError, TypeError, ValueError) as error:
            raise InvalidRequest.of(
                "evaluate_template",
                param=field,
                field=field,
                task=self.name,
                row=number + 1,
                reason=str(error) or type(error).__name__,
                known=", ".join(map(str, row)),
            ) from None

    def _fewshot(self) -> str:
        config = self.config
        if not config.num_fewshot:
            return ""
        if config.fewshot_config is None:
            raise InvalidRequest.of(
                "evaluate_task_random", param="fewshot_config", task=self.name, count=config.num_fewshot
            )
        split = config.fewshot_config.split or config.fewshot_split or config.training_split
        if split is None or split == (config.test_split or config.validation_split):
            raise InvalidRequest(
                f"the examples of the task {self.name!r} would come from the rows it tests",
                fix="name another split as fewshot_split",
                param="fewshot_split",
            )
        rows = self._split(split)[: config.num_fewshot]
        if len(rows) < config.num_fewshot:
            raise InvalidRequest(f"the split {split!r} has {len(rows)} rows", fix="lower num_fewshot")
        pieces: list[str] = []
        for number, row in enumerate(rows):
            choices = self._choices(row, number)
            target = self._target(row, choices, number)
            answer = choices[target] if isinstance(target, int) else target
            text = self._field(config.doc_to_text, row, number, "doc_to_text")
            pieces.append(f"{text}{config.target_delimiter}{answer}{config.fewshot_delimiter}")
        return "".join(pieces)

    def _split(self, name: str | None) -> list[dict[str, Any]]:
        files = self.files()
        split = name or "train"
        # A slice of a split, as `datasets` writes it, would need its own grammar.
        if split not in files:
            raise InvalidRequest.of(
                "evaluate_task_data", param="data_files", task=self.name, split=split, known=", ".join(files)
            )
        rows: list[dict[str, Any]] = []
        for path in map(Path, files[split]):
            data = path.read_bytes()
            self.data[str(path)] = hashlib.sha256(data).hexdigest()
            rows += read_rows(data, path)
        return rows

    def _file(self, given: str) -> Path:
        if "://" in given or "*" in given:
            raise InvalidRequest(
                f"data_files has {given!r}", fix="name files of this machine", param="data_files"
            )
        beside = self.path.parent / given
        path = beside if beside.is_file() else Path(given)
        if not path.is_file():
            raise InvalidRequest.of("path_missing", path=beside, folder=beside.parent)
        if path.stat().st_size > _MAX_FILE:
            raise InvalidRequest(f"{path} is larger than {_MAX_FILE >> 20} MB", fix="take a part of it")
        return path.resolve()

    def _wrong(self, field: str, number: int, value: Any, fix: str) -> InvalidRequest:
        return InvalidRequest(
            f"{field} of the task {self.name!r} gives {repr(value)[:_SHORT]} for row {number + 1}",
            fix=fix,
            param=field,
        )


def read_task(path: Path) -> Task:
    """Reads a task file and its data.

    Raises:
        InvalidRequest: it cannot be used; the message names the field.
    """
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except yaml.constructor.ConstructorError as error:
        mark = error.problem_mark
        where = f"a tag in line {mark.line + 1}" if mark else "a tag"
        raise InvalidRequest.of("evaluate_task_code", path=path, name=where) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{path} is no JSON or YAML: {error}", fix="correct it") from None
    if not isinstance(given, dict):
        raise InvalidRequest(
            f"{path} holds no task", fix="give an object with task, output_type, doc_to_text"
        )
    fields = cast("dict[str, Any]", given)
    for name in fields:
        if name in _UNRUN:
            raise InvalidRequest.of("evaluate_task_code", param=name, path=path, name=name)
        if name not in TaskConfig.model_fields:
            right = nearest(str(name), TaskConfig.model_fields)
            hint = right if right else ", ".join(TaskConfig.model_fields)
            raise InvalidRequest.of("evaluate_task_field", param=str(name), path=path, name=name, hint=hint)
    fields = {name: value for name, value in fields.items() if value is not None}
    try:
        config = TaskConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidRequest(
            f"{path}: {place}: {first['msg']}", fix="see the guide on evaluation", param=place
        ) from None
    return Task(path, config)


def read_rows(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a JSON list, or of JSON lines.

    Raises:
        InvalidRequest: they are neither; the message names the line.
    """
    text = data.decode("utf-8", "replace")
    if text.lstrip()[:1] == "[":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{path} is no JSON: {error}", fix="correct it") from None
        lines = list(enumerate(cast("list[Any]", rows), 1))
    else:
        lines: list[tuple[int, Any]] = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    lines.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise InvalidRequest(
                        f"line {number} of {path} is no JSON: {error}", fix="correct it"
                    ) from None
    for number, row in lines:
        if not isinstance(row, dict):
            raise InvalidRequest(f"row {number} of {path} is no object", fix="give one object for each row")
    return [row for _, row in lines]


class _TaskEnvironment(ChatEnvironment):
    """The metered sandbox, set up as lm-eval sets up jinja."""

    def __init__(self) -> None:
        super().__init__()
        self.trim_blocks = self.lstrip_blocks = False
        self.keep_trailing_newline = True
        self.undefined = StrictUndefined


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text

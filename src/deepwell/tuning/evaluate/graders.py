"""OpenAI's graders: string_check, text_similarity, label_model, score_model and multi.

A grader judges one sample, the answer of a model, with the item of the data set that it answers:

    grader = parse_grader({"type": "string_check", "name": "city", "operation": "ilike",
                           "input": "{{ sample.output_text }}", "reference": "{{ item.city }}"})
    grade = await run_grader(grader, item={"city": "Paris"}, sample=sample_of("It is Paris."))

`python` graders are refused: the code of a file or of a request is never executed.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, cast

from pydantic import Field, TypeAdapter, ValidationError

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.tuning.evaluate.formula import evaluate_formula, formula_names
from deepwell.tuning.evaluate.grader_models import (
    Grader,
    LabelModel,
    Message,
    Multi,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    templates_of,
)
from deepwell.tuning.evaluate.similarity import similarity
from deepwell.tuning.evaluate.templates import MAX_VARIABLES, UnknownVariable, check_template, render

__all__ = [
    "Embedder",
    "Grade",
    "Grader",
    "GraderError",
    "GradingModel",
    "LabelModel",
    "Message",
    "ModelAnswer",
    "Multi",
    "ScoreModel",
    "StringCheck",
    "TextSimilarity",
    "check_string",
    "parse_grader",
    "run_grader",
    "sample_of",
]

GraderError = Literal[
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "sample_parse_error",
]
"""Reasons why a grader gave no score, by OpenAI's names."""

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MOST_DETAIL = (
    1000  # characters: names of variables come with the request, and a detail is kept for every row
)
_SHORT = 4000  # characters that are compared in less time than a thread costs
_THRESHOLD = 0.5  # of a score within its range, where the grader names none


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """The answer of a grading model: JSON text of the schema that was asked for, and the tokens that it took."""

    text: str
    tokens: int = 0
    refused: bool = False


class GradingModel(Protocol):
    """A model that grades."""

    async def answer(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        schema: Mapping[str, Any],
        sampling: Mapping[str, Any],
    ) -> ModelAnswer:
        """Answers a conversation of `role` and `content` with JSON of a schema.

        Args:
            sampling: some of temperature, top_p, seed, max_completions_tokens and reasoning_effort.

        Raises:
            DeepwellError: the model cannot answer.
        """
        ...


class Embedder(Protocol):
    """A model that embeds texts, for the metric `cosine`."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Returns a vector for each text, of any length but zero."""
        ...


_ADAPTER: TypeAdapter[Grader] = TypeAdapter(Annotated[Grader, Field(discriminator="type")])


@dataclass(frozen=True, slots=True)
class Grade:
    """The judgement of a grader on one sample.

    Attributes:
        score: 0 or 1 of string_check and label_model, 0 to 1 of text_similarity, within its range of score_model.
        passed: whether the score reaches the threshold; without one, a score of 1 (string_check), a passing label, or half
            the range.
        label: the label that a model chose.
        scores: scores of the parts of a multi grader, by name.
        tokens: tokens that grading models took, by model.
        error: reason why there is no score, which is then 0 and not passed; `detail` says more.
    """

    name: str
    type: str
    score: float
    passed: bool
    label: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    error: GraderError | None = None
    detail: str = ""


def parse_grader(given: Any, *, param: str = "grader") -> Grader:
    """Returns the grader that a JSON object describes, its templates and its formula checked.

    Raises:
        InvalidRequest: it describes none; `param` is the place of the mistake.
    """
    kind = given.get("type") if isinstance(given, Mapping) else None
    _refuse_python(given, param)
    try:
        grader = _ADAPTER.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        # Pydantic puts the tag of the union in front of the path.
        path = [str(step) for step in first["loc"] if step != kind or step in ("type", "input")]
        place = ".".join([param, *path])
        raise InvalidRequest(
            f"{place}: {first['msg']}",
            fix="see the fields of OpenAI's graders; types are string_check, text_similarity, label_model, score_model, multi",
            param=place,
        ) from None
    _check_size(grader, param)
    _check_templates(grader, param)
    if isinstance(grader, Multi):
        unknown = sorted(formula_names(grader.calculate_output) - set(grader.graders))
        if unknown:
            raise InvalidRequest(
                f"{param}.calculate_output uses {unknown[0]!r}, which is no grader",
                fix=f"the graders are: {', '.join(sorted(grader.graders))}",
                param=f"{param}.calculate_output",
            )
        for name, part in grader.graders.items():
            _check_templates(part, f"{param}.graders.{name}")
    return grader


def sample_of(
    text: str,
    *,
    tool_calls: Sequence[Mapping[str, Any]] = (),
    choices: Sequence[Mapping[str, Any]] = (),
    has_format: bool | None = None,
) -> dict[str, Any]:
    """Returns the variables of the namespace `sample` of an answer.

    Args:
        tool_calls: calls of tools, in the shape of chat completions.
        has_format: whether the answer was made with a response format, which gives `output_json`; None: if it is JSON.

    Raises:
        InvalidRequest: an answer with a format is no JSON.
    """
    sample: dict[str, Any] = {"output_text": text, "output_tools": list(tool_calls), "choices": list(choices)}
    if has_format is not False:
        try:
            found = json.loads(text)
            if _ESCAPED_SURROGATE.search(text):
                json.dumps(found, ensure_ascii=False).encode()  # half of a pair is no character
            sample["output_json"] = found
        except (ValueError, RecursionError):
            if has_format:
                raise InvalidRequest("the sample is no JSON", fix="sample with a response_format") from None
    return sample


def check_string(operation: Literal["eq", "ne", "like", "ilike"], text: str, reference: str) -> float:
    """Returns 1 if a comparison holds, else 0. `like` asks whether the text contains the reference."""
    match operation:
        case "eq":
            return float(text == reference)
        case "ne":
            return float(text != reference)
        case "like":
            return float(reference in text)
        case "ilike":
            return float(reference.casefold() in text.casefold())


async def run_grader(
    grader: Grader,
    *,
    item: Mapping[str, Any],
    sample: Mapping[str, Any],
    model: GradingModel | None = None,
    embedder: Embedder | None = None,
) -> Grade:
    """Returns a grader's judgement on one sample. A grader that cannot judge gives 0 with its reason in `error`.

    Args:
        item: the row of the data set.
        sample: the answer; see `sample_of`.
        model: the model that grades, needed by label_model and score_model.
        embedder: the model that embeds, needed by the metric `cosine`.
    """
    try:
        return await _run(grader, item, sample, model, embedder)
    except UnknownVariable as error:
        return _failed(grader, "invalid_variable_error", error)
    except InvalidRequest as error:
        kind = "formula_parse_error" if error.param == "calculate_output" else "other_error"
        return _failed(grader, kind, error)


async def _run(
    grader: Grader,
    item: Mapping[str, Any],
    sample: Mapping[str, Any],
    model: GradingModel | None,
    embedder: Embedder | None,
) -> Grade:
    match grader:
        case StringCheck():
            text = render(grader.input, item=item, sample=sample)
            score = check_string(grader.operation, text, render(grader.reference, item=item, sample=sample))
            return Grade(grader.name, grader.type, score, score == 1)
        case TextSimilarity():
            pair = [render(one, item=item, sample=sample) for one in (grader.input, grader.reference)]
            score = (
                await _cosine(pair, embedder)
                if grader.evaluation_metric == "cosine"
                else await _compared(grader.evaluation_metric, pair[0], pair[1])
            )
            return Grade(grader.name, grader.type, score, score >= _threshold(grader.pass_threshold))
        case Multi():
            return await _run_multi(grader, item, sample, model, embedder)
        case _:
            return await _run_model(grader, item, sample, model)


async def _run_multi(
    grader: Multi,
    item: Mapping[str, Any],
    sample: Mapping[str, Any],
    model: GradingModel | None,
    embedder: Embedder | None,
) -> Grade:
    scores: dict[str, float] = {}
    tokens: dict[str, int] = {}
    for name, part in grader.graders.items():
        grade = await run_grader(part, item=item, sample=sample, model=model, embedder=embedder)
        for used, count in grade.tokens.items():
            tokens[used] = tokens.get(used, 0) + count
        if grade.error:
            detail = f"{name}: {grade.detail}"
            return Grade(grader.name, "multi", 0.0, False, None, scores, tokens, grade.error, detail)
        scores[name] = grade.score
    try:
        score = evaluate_formula(grader.calculate_output, scores)
    except InvalidRequest as error:
        return Grade(
            grader.name, "multi", 0.0, False, None, scores, tokens, "formula_parse_error", str(error)
        )
    return Grade(
        grader.name, "multi", score, score >= _threshold(grader.pass_threshold), None, scores, tokens
    )


async def _run_model(
    grader: LabelModel | ScoreModel,
    item: Mapping[str, Any],
    sample: Mapping[str, Any],
    model: GradingModel | None,
) -> Grade:
    messages = [
        {"role": one.role, "content": render(one.text, item=item, sample=sample)} for one in grader.input
    ]
    if model is None:
        raise InvalidRequest(f"{grader.type} needs a model that grades", fix="give one")
    if isinstance(grader, LabelModel):
        result: dict[str, Any] = {"type": "string", "enum": list(dict.fromkeys(grader.labels))}
        sampling: dict[str, Any] = {}
    else:
        result = {"type": "number"}
        sampling = grader.sampling_params.model_dump(exclude_none=True) if grader.sampling_params else {}
    schema = {
        "type": "object",
        "properties": {"result": result},
        "required": ["result"],
        "additionalProperties": False,
    }
    try:
        answer = await model.answer(grader.model, messages, schema=schema, sampling=sampling)
    except DeepwellError as error:
        return _failed(grader, "model_grader_server_error", error)
    tokens = {grader.model: answer.tokens}
    if answer.refused:
        return _ungraded(grader, "model_grader_refusal_error", "the model refused", tokens)
    found = _result(answer.text)
    if isinstance(grader, LabelModel):
        if found not in grader.labels:
            return _ungraded(grader, "model_grader_parse_error", f"no label: {answer.text[:200]}", tokens)
        passed = found in grader.passing_labels
        return Grade(grader.name, grader.type, float(passed), passed, cast("str", found), tokens=tokens)
    if not _is_finite(found):
        return _ungraded(grader, "model_grader_parse_error", f"no number: {answer.text[:200]}", tokens)
    low, high = grader.range
    if not low <= found <= high:
        detail = f"{found} is outside of {low} to {high}"
        return _ungraded(grader, "model_grader_parse_error", detail, tokens)
    score = float(found)
    return Grade(
        grader.name,
        grader.type,
        score,
        score >= _threshold(grader.pass_threshold, low, high),
        tokens=tokens,
    )


async def _compared(metric: str, text: str, reference: str) -> float:
    if len(text) + len(reference) <= _SHORT:
        return similarity(metric, text, reference)
    return await asyncio.to_thread(similarity, metric, text, reference)  # up to a second: others are served


async def _cosine(pair: Sequence[str], embedder: Embedder | None) -> float:
    if embedder is None:
        raise InvalidRequest("the metric cosine needs a model that embeds", fix="load an embedding model")
    one, other = await embedder.embed(pair)
    norms = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / norms if norms else 0.0


def _result(text: str) -> Any:
    try:
        read = json.loads(re.sub(r"^```(?:json)?|```$", "", text.strip()))
    except (ValueError, RecursionError):
        return None
    return read.get("result") if isinstance(read, dict) else None


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _threshold(given: float | None, low: float = 0.0, high: float = 1.0) -> float:
    return low + _THRESHOLD * (high - low) if given is None else given


def _failed(grader: Grader, kind: GraderError, error: DeepwellError) -> Grade:
    return _ungraded(grader, kind, str(error)[:_MOST_DETAIL], {})


def _ungraded(grader: Grader, kind: GraderError, detail: str, tokens: Mapping[str, int]) -> Grade:
    return Grade(grader.name, grader.type, 0.0, False, tokens=tokens, error=kind, detail=detail)


def _refuse_python(given: Any, param: str) -> None:
    if not isinstance(given, Mapping):
        return
    if given.get("type") == "python":
        raise InvalidRequest(
            "python graders are not run: they execute code that came with a request",
            fix="use string_check, text_similarity, label_model or score_model, or a formula over them in a multi grader",
            param=f"{param}.type",
        )
    graders = given.get("graders")
    if isinstance(graders, Mapping):
        parts = {"": graders} if isinstance(graders.get("type"), str) else graders
        for name, part in parts.items():
            if not (
                isinstance(part, Mapping) and "graders" in part
            ):  # no multi in a multi; refused by its type
                _refuse_python(part, f"{param}.graders.{name}".rstrip("."))


def _check_size(grader: Grader, param: str) -> None:
    if sum(text.count("{{") for text in templates_of(grader)) > MAX_VARIABLES:
        raise InvalidRequest(
            f"the templates of {param} have more than {MAX_VARIABLES} variables",
            fix="use fewer, or pass one object as a whole",
            param=param,
        )


def _check_templates(grader: Grader, param: str) -> None:
    if isinstance(grader, StringCheck | TextSimilarity):
        check_template(grader.input, param=f"{param}.input")
        check_template(grader.reference, param=f"{param}.reference")
    elif isinstance(grader, LabelModel | ScoreModel):
        for number, message in enumerate(grader.input):
            check_template(message.text, param=f"{param}.input[{number}]")

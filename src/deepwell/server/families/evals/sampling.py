"""`Sampler`: answers of a served model to the rows of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError

from deepwell.dialogue.model import ServedModel
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.evals.bodies import EvalError, EvalSample, EvalUsage, SampleMessage
from deepwell.server.families.evals.schema import SampledSource, SamplingParams, Template
from deepwell.server.families.graders.models import error_of, post
from deepwell.tuning.evaluate.graders import Message, sample_of
from deepwell.tuning.evaluate.templates import check_template, render

__all__ = ["Sampled", "Sampler", "check_messages", "given_sample"]

_PATHS = {"completions": "/v1/chat/completions", "responses": "/v1/responses"}
_MOST_CHARACTERS = 1_000_000  # of the messages of a row
_MOST_REFUSED = 4000  # of those that are kept of a row without an answer
_messages = TypeAdapter(list[Message])

Sampled = tuple[EvalSample, dict[str, Any] | None]
"""An answer, and the variables of the namespace `sample`; None: there is no answer, and the error says why."""


def check_messages(source: SampledSource) -> None:
    """Checks the messages of a template, and the reference to a field.

    Raises:
        InvalidRequest: they cannot be read.
    """
    param = "data_source.input_messages"
    given = source.input_messages
    if isinstance(given, Template):
        for number, message in enumerate(_parsed(given.template, f"{param}.template")):
            check_template(message.text, ("item",), f"{param}.template[{number}]")
    else:
        check_template(f"{{{{ {given.item_reference} }}}}", ("item",), f"{param}.item_reference")


class Sampler:
    """Asks one model, with a seed, so that a run can be repeated."""

    def __init__(
        self, context: ServerContext, principal: Principal, source: SampledSource, model: ServedModel
    ) -> None:
        self._context = context
        self._principal = principal
        self._source = source
        params = source.sampling_params or SamplingParams.model_validate({})
        self._params = params
        defaults = model.defaults.shown()
        self._shown: dict[str, Any] = {
            "model": source.model,
            "seed": params.seed if params.seed is not None else 0,
            "temperature": float(
                params.temperature if params.temperature is not None else defaults["temperature"]
            ),
            "top_p": float(params.top_p if params.top_p is not None else defaults["top_p"]),
            "max_completion_tokens": params.max_completion_tokens or model.capabilities.max_model_len,
        }

    async def sample(self, item: Mapping[str, Any]) -> Sampled:
        """Returns the answer to a row."""
        shown: list[SampleMessage] = []
        try:
            messages = self._input(item)
            if sum(len(str(one["content"])) for one in messages) > _MOST_CHARACTERS:
                raise InvalidRequest(
                    "the messages of the row are longer than a million characters", fix="use shorter fields"
                )
            shown = [SampleMessage(str(one["role"]), str(one["content"])) for one in messages]
            reply = await post(
                self._context, self._principal, _PATHS[self._source.type], self._body(messages)
            )
            if reply.status != 200:
                raise error_of(reply)
        except DeepwellError as error:
            failed = EvalError(error.code or "sample_error", str(error))
            return EvalSample(_shortened(shown), [], finish_reason="error", error=failed, **self._shown), None
        found: dict[str, Any] = msgspec.json.decode(reply.body)
        read = _of_chat if self._source.type == "completions" else _of_response
        text, finish, calls, usage = read(found)
        sample = EvalSample(
            shown, [SampleMessage("assistant", text)], finish_reason=finish, usage=usage, **self._shown
        )
        return sample, sample_of(text, tool_calls=calls, choices=found.get("choices") or ())

    def _input(self, item: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        given = self._source.input_messages
        if isinstance(given, Template):
            parsed = _parsed(given.template, "input_messages")
            return [{"role": one.role, "content": render(one.text, item=item)} for one in parsed]
        text = render(f"{{{{ {given.item_reference} }}}}", item=item)
        try:
            found = msgspec.json.decode(text)
        except msgspec.DecodeError:
            found = None
        if not isinstance(found, list):
            return [{"role": "user", "content": text}]
        return [{"role": one.role, "content": one.text} for one in _parsed(found, given.item_reference)]

    def _body(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        params = self._params
        body: dict[str, Any] = {"model": self._source.model}
        given = {"temperature": params.temperature, "top_p": params.top_p, "tools": params.tools}
        if self._source.type == "completions":
            body |= {"messages": messages, "seed": self._shown["seed"]}
            given |= {
                "max_completion_tokens": params.max_completion_tokens,
                "reasoning_effort": params.reasoning_effort,
                "response_format": params.response_format,
            }
        else:
            body |= {"input": messages, "store": False}
            effort = params.reasoning_effort
            given |= {
                "max_output_tokens": params.max_completion_tokens,
                "reasoning": None if effort is None else {"effort": effort},
                "text": params.text,
            }
        return body | {name: value for name, value in given.items() if value is not None}


def _shortened(messages: Sequence[SampleMessage]) -> list[SampleMessage]:
    """Returns the first characters of messages that were not answered: rows are many, and each could be of any length."""
    left, found = _MOST_REFUSED, list[SampleMessage]()
    for one in messages:
        if left <= 0:
            break
        found.append(SampleMessage(one.role, one.content[:left]))
        left -= len(one.content)
    return found


def given_sample(sample: Mapping[str, Any] | None) -> Sampled:
    """Returns the answer that came with a row."""
    text = (sample or {}).get("output_text")
    output = [SampleMessage("assistant", text)] if isinstance(text, str) else []
    return EvalSample([], output), dict(sample or {})


def _parsed(given: Sequence[Any], param: str) -> list[Message]:
    try:
        return _messages.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([param, *(str(one) for one in first["loc"][:2])])
        raise InvalidRequest(
            f"{place}: {first['msg']}", fix="write messages with role and a text as content", param=param
        ) from None


def _of_chat(found: Mapping[str, Any]) -> tuple[str, str, list[dict[str, Any]], EvalUsage]:
    choice = found["choices"][0]
    usage = found.get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return (
        choice["message"].get("content") or "",
        choice.get("finish_reason") or "",
        choice["message"].get("tool_calls") or [],
        EvalUsage(
            cached,
            usage.get("completion_tokens", 0),
            usage.get("prompt_tokens", 0),
            usage.get("total_tokens", 0),
        ),
    )


def _of_response(found: Mapping[str, Any]) -> tuple[str, str, list[dict[str, Any]], EvalUsage]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for item in found.get("output") or ():
        if item.get("type") == "message":
            texts += [part["text"] for part in item["content"] if part.get("type") == "output_text"]
        elif item.get("type") == "function_call":
            named = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls.append({"id": item.get("call_id"), "type": "function", "function": named})
    usage = found.get("usage") or {}
    cached = (usage.get("input_tokens_details") or {}).get("cached_tokens") or 0
    finish = "stop" if found.get("status") == "completed" else str(found.get("status"))
    return (
        "".join(texts),
        finish,
        calls,
        EvalUsage(
            cached, usage.get("output_tokens", 0), usage.get("input_tokens", 0), usage.get("total_tokens", 0)
        ),
    )

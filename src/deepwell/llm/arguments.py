"""Arguments of the Python API, and what the engine and the dialogue make of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Any, Literal, TypedDict, cast

import msgspec

from deepwell.dialogue.dialogue import Dialogue
from deepwell.dialogue.model import SamplingOptions
from deepwell.dialogue.text import Codec
from deepwell.dialogue.tools import FunctionTool, ToolChoice, json_format
from deepwell.engine.protocol import Grammar, Window
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.llm.results import Parsed
from deepwell.messages import nearest

__all__ = [
    "ChatArguments",
    "ChatOptions",
    "Constraint",
    "Conversation",
    "Format",
    "GenerateArguments",
    "Options",
    "Prompt",
    "Sampling",
    "checked_prompts",
    "conversation_list",
    "dialogue_of",
    "format_of",
    "place",
    "prompt_list",
    "sampling_options",
    "split_arguments",
    "stops_of",
    "window_of",
]

Prompt = str | Sequence[int]
"""A text, or its tokens."""

Conversation = Sequence[Mapping[str, Any]]
"""Messages in OpenAI's shape: `role` and `content`, and the parts of tool calls."""

_ROLES = ("system", "developer", "user", "assistant", "tool")


def _about(text: str, **bounds: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **bounds)


class Options(TypedDict, total=False):
    """Options of opening a model. The names are those of the settings, and what is left out comes from them."""

    precision: Literal["auto", "int8", "int4", "int4-full", "bf16", "fp16", "fp32"] | None
    context: int | None
    kv_dtype: Literal["fp32", "bf16", "int8"] | None
    kv_tokens: int | None
    threads: int | None
    speculation: Literal["auto", "off"] | None
    sampling_defaults: Literal["model", "off"] | None
    models_dir: str | PathLike[str] | None


class Sampling(TypedDict, total=False):
    """Sampling parameters, by their usual names. Those that are left out, or None, are the model's defaults."""

    max_tokens: Annotated[int, _about("Most tokens to generate.", ge=1)] | None
    temperature: (
        Annotated[float, _about("Spread of the draw; 0 takes the likeliest token.", ge=0, le=2)] | None
    )
    top_p: Annotated[float, _about("Share of the probability to draw from.", ge=0, le=1)] | None
    top_k: Annotated[int, _about("Number of tokens to draw from; 0 or -1: all.", ge=-1)] | None
    min_p: Annotated[float, _about("Least probability, as a share of the largest.", ge=0, le=1)] | None
    n: Annotated[int, _about("Number of choices.", ge=1)] | None
    seed: Annotated[int, _about("The same seed draws the same tokens.", ge=-(2**63), le=2**63 - 1)] | None
    stop: Annotated[str | Sequence[str], _about("Strings that end the answer and are no part of it.")] | None
    presence_penalty: Annotated[float, _about("Penalty of tokens that occur already.", ge=-2, le=2)] | None
    frequency_penalty: Annotated[float, _about("Penalty of tokens for each occurrence.", ge=-2, le=2)] | None
    repetition_penalty: (
        Annotated[float, _about("Factor against repetition, of the prompt too.", gt=0, le=10)] | None
    )
    logit_bias: (
        Annotated[
            dict[int, Annotated[float, msgspec.Meta(ge=-100, le=100)]],
            _about("Added to the logits of tokens, from -100 to 100."),
        ]
        | None
    )
    logprobs: (
        Annotated[int, _about("Report log probabilities, with as many alternatives.", ge=0, le=20)] | None
    )
    min_tokens: Annotated[int, _about("Least tokens to generate.", ge=0)] | None
    stop_token_ids: (
        Annotated[Sequence[Annotated[int, msgspec.Meta(ge=0)]], _about("Tokens that end the answer.")] | None
    )
    ignore_eos: Annotated[bool, _about("Whether to go on where the model would end.")] | None
    window: (
        Annotated[
            tuple[Annotated[int, msgspec.Meta(ge=0)], ...],
            _about(
                "First and most recent tokens to keep, in multiples of 16, and the rank of the factors that the others "
                "are kept as; without it they are forgotten.",
                min_length=2,
                max_length=3,
            ),
        ]
        | None
    )


class Constraint(TypedDict, total=False):
    """The form that an answer must have; at most one."""

    schema: Annotated[
        Mapping[str, Any] | type[Any] | None,
        _about("A JSON schema, or a pydantic model class, whose object is then `parsed`."),
    ]
    regex: Annotated[str | None, _about("A regular expression in Rust's syntax.")]
    grammar: Annotated[str | None, _about("A Lark grammar, as llguidance reads it.")]
    choice: Annotated[Sequence[str] | None, _about("The possible answers.")]


class ChatOptions(TypedDict, total=False):
    """Options of a conversation, as in OpenAI's chat API."""

    tools: Annotated[
        Sequence[Mapping[str, Any]] | None, _about("Functions that the model may call, in OpenAI's shape.")
    ]
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | Mapping[str, Any] | None,
        _about("Whether the model must call a function, and which; 'auto' leaves it to the model."),
    ]
    parallel_tool_calls: Annotated[
        bool, _about("Whether it may call several at once, which it may if left out.")
    ]
    reasoning_effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None,
        _about(
            "'none' switches reasoning off, where the model can; other values need a model that knows them."
        ),
    ]
    chat_template_kwargs: Annotated[
        Mapping[str, Any] | None, _about("Switches of the model's chat template.")
    ]


class GenerateArguments(Sampling, Constraint, total=False):
    """Keyword arguments of `generate`."""


class ChatArguments(Sampling, Constraint, ChatOptions, total=False):
    """Keyword arguments of `chat`."""


def split_arguments(given: Mapping[str, Any], kind: type[Any]) -> tuple[Sampling, Constraint, ChatOptions]:
    """Returns keyword arguments by their groups, the sampling parameters checked.

    Raises:
        InvalidRequest: one of them is unknown, of the wrong type, or out of its range.
    """
    known: Mapping[str, Any] = kind.__annotations__
    for name in given:
        if name not in known:
            right = nearest(name, known)
            fix = f"did you mean {right!r}?" if right else f"use some of {', '.join(known)}"
            raise InvalidRequest(f"there is no argument {name!r}", fix=fix, param=name)

    def group(of: type[Any]) -> Any:
        return {
            name: value for name, value in given.items() if name in of.__annotations__ and value is not None
        }

    return _checked_sampling(group(Sampling)), group(Constraint), group(ChatOptions)


def _checked_sampling(values: dict[str, Any]) -> Sampling:
    window_of(values.get("window"))
    try:
        checked = msgspec.convert(values, Sampling)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`").split("[")[0] or "a parameter"
        fix = said.partition(", got ")[0].replace("`", "").replace("Expected", "give").replace("null", "None")
        raise InvalidRequest(f"{name} is {_shown(values.get(name))}", fix=fix, param=name) from None
    if "" in stops_of(checked):
        raise InvalidRequest("a stop string is empty", fix="leave it out", param="stop")
    return checked


def stops_of(sampling: Sampling) -> tuple[str, ...]:
    """Returns the stop strings."""
    stop = sampling.get("stop")
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def window_of(sizes: Any) -> Window | None:
    """Returns the engine's window for its sizes: first and recent tokens, and a rank if others are remembered.

    Raises:
        InvalidRequest: they are no two or three numbers in an order.
    """
    if sizes is None:
        return None
    plain = isinstance(sizes, tuple | list) and 2 <= len(cast("Sequence[Any]", sizes)) <= 3
    if not plain or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in sizes):
        fix = "give (first, recent) or (first, recent, rank), in whole multiples of 16"
        raise InvalidRequest(f"window is {_shown(sizes)}", fix=fix, param="window")
    return Window(*sizes)


def sampling_options(sampling: Sampling) -> SamplingOptions:
    """Returns the parameters as `ServedModel.sampling` takes them."""
    values: dict[str, Any] = {
        name: value
        for name, value in sampling.items()
        if value is not None and name not in ("max_tokens", "n", "stop", "logprobs", "window")
    }
    return SamplingOptions(**values)


@dataclass(frozen=True, slots=True)
class Format:
    """The form that an answer must have, and how it is read."""

    grammar: Grammar | None = None
    schema: Mapping[str, Any] | type[Any] | None = None

    def parse(self, text: str, *, cut: bool) -> Parsed | None:
        """Reads an answer. None without a schema."""
        if self.schema is None:
            return None
        if cut:
            error = DeepwellError("the answer was cut before its JSON was complete", fix="raise max_tokens")
            return Parsed(error=error)
        try:
            if isinstance(self.schema, Mapping):
                return Parsed(json.loads(text))
            return Parsed(cast("Any", self.schema).model_validate_json(text))
        except ValueError as error:  # pydantic's ValidationError is one
            return Parsed(error=error)


def format_of(given: Constraint) -> Format:
    """Returns the form that was asked for.

    Raises:
        InvalidRequest: there are several, or one is of the wrong type.
    """
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return Format()
    if len(names) > 1:
        raise InvalidRequest(f"{names[0]} and {names[1]} exclude each other", fix="give one", param=names[1])
    name, value = names[0], given.get(names[0])
    if name == "schema":
        if isinstance(value, Mapping):
            return Format(json_format(value), value)
        if isinstance(value, type) and hasattr(value, "model_json_schema"):
            return Format(json_format(_closed(cast("Any", value).model_json_schema())), value)
        raise InvalidRequest(
            f"schema is {_shown(value)}",
            fix="give a JSON schema as a dictionary, or a pydantic model class",
            param="schema",
        )
    if name == "choice":
        options = [value] if isinstance(value, str) else list(cast("Sequence[str]", value))
        if not options or not all(isinstance(option, str) for option in options):
            raise InvalidRequest(
                f"choice is {_shown(value)}",
                fix="give the possible answers as a list of strings",
                param="choice",
            )
        rules = " | ".join(json.dumps(option, ensure_ascii=False) for option in options)
        return Format(Grammar("lark", f"start: {rules}\n"))
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} is {_shown(value)}", fix="give a string", param=name)
    return Format(Grammar("regex" if name == "regex" else "lark", value))


def _closed(schema: Any) -> Any:
    """Returns a class's schema whose objects have no properties but their own: a model that adds some may never end."""
    if isinstance(schema, list):
        return [_closed(one) for one in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    whole = cast("dict[str, Any]", schema)
    # The names of properties are a class's own, whatever they are called.
    closed = {
        name: {key: _closed(one) for key, one in part.items()}
        if name in ("properties", "$defs") and isinstance(part, dict)
        else part
        if name in ("const", "default", "enum", "examples")
        else _closed(part)
        for name, part in whole.items()
    }
    return (
        {**closed, "additionalProperties": whole.get("additionalProperties", False)}
        if "properties" in whole
        else closed
    )


def prompt_list(prompts: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """Returns prompts as a list, and whether there was only one, outside of a list. An empty list is a list of prompts."""
    if isinstance(prompts, str) or (_has_items(prompts) and _is_integer(prompts[0])):
        return [cast("Prompt", prompts)], True
    if not _has_items(prompts) and not isinstance(prompts, Sequence):
        raise InvalidRequest(
            f"the prompt is {_shown(prompts)}",
            fix="give a string, token ids, or a list of either",
            param="prompt",
        )
    return list(cast("Sequence[Prompt]", prompts)), False


def checked_prompts(prompts: Sequence[Prompt], param: str) -> list[str | list[int]]:
    """Returns prompts as texts and lists of tokens.

    Raises:
        InvalidRequest: one is neither.
    """
    return [
        _checked_prompt(prompt, place(param, number, len(prompts))) for number, prompt in enumerate(prompts)
    ]


def _checked_prompt(prompt: Any, where: str) -> str | list[int]:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, bytes) or not hasattr(prompt, "__iter__"):
        raise InvalidRequest(
            f"{where} is {_shown(prompt)}", fix="give a string, or a list of token ids", param=where
        )
    tokens = list(prompt)
    if wrong := [token for token in tokens if not _is_integer(token) or token < 0]:
        raise InvalidRequest(f"{where} holds {_shown(wrong[0])}", fix="give token ids", param=where)
    return [int(token) for token in tokens]


def conversation_list(messages: Conversation | Sequence[Conversation]) -> tuple[list[Conversation], bool]:
    """Returns conversations as a list, and whether there was only one, outside of a list."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise InvalidRequest(
            f"messages is {_shown(messages)}",
            fix='give a list of messages such as {"role": "user", "content": "..."}',
            param="messages",
        )
    if messages and isinstance(messages[0], Mapping):
        return [cast("Conversation", messages)], True
    return list(cast("Sequence[Conversation]", messages)), False


def place(name: str, number: int, count: int) -> str:
    """Returns the name of an item in errors: with its number where there are several."""
    return name if count == 1 else f"{name}[{number}]"


def dialogue_of(
    messages: Conversation, options: ChatOptions, format: Format, codec: Codec, where: str
) -> Dialogue:
    """Returns the dialogue that a conversation and its options ask for.

    Args:
        where: name of the conversation in errors.

    Raises:
        InvalidRequest: a message, a tool or an option cannot be used.
    """
    if not messages:
        raise InvalidRequest(f"{where} is empty", fix="give at least one message", param=where)
    thinks, effort = codec.dialect.reasoning(
        options.get("reasoning_effort"),
        "reasoning_effort",
        has_levels="reasoning_effort" in codec.template_variables,
    )
    variables = {**(options.get("chat_template_kwargs") or {}), **effort}
    tools = tuple(map(_tool, options.get("tools") or ()))
    return Dialogue(
        messages=[_message(message, f"{where}[{number}]") for number, message in enumerate(messages)],
        tools=tools,
        tool_choice=_tool_choice(options.get("tool_choice")),
        parallel_tool_calls=options.get("parallel_tool_calls", True),
        format=format.grammar,
        thinks=thinks,
        variables=variables,
        params={"messages": where, "format": "schema"},
    )


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
        raise InvalidRequest(
            f"{where} is {_shown(message)}",
            fix=f"give a dictionary with 'content' and a 'role': {', '.join(_ROLES)}",
            param=where,
        )
    plain = {**message, "content": _content(message.get("content"), where)}
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list | tuple) and all(map(_is_call, calls))):
        raise InvalidRequest(
            f"the tool_calls of {where} are {_shown(calls)}",
            fix="give {'id': ..., 'type': 'function', 'function': {'name': ..., 'arguments': '{...}'}} for each",
            param=where,
        )
    if plain["content"] is None and not plain.get("tool_calls"):
        raise InvalidRequest(f"{where} has no content", fix="give it a string as 'content'", param=where)
    return {name: value for name, value in plain.items() if value is not None or name == "content"}


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(call.get("id"), str):
        return False
    return isinstance(function.get("name"), str) and isinstance(function.get("arguments"), str)


def _content(content: Any, where: str) -> str | None:
    """Returns the text of a content; parts are joined."""
    if content is None or isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise InvalidRequest(
                f"the content of {where} holds {_shown(part)}",
                fix="give a string, or parts such as {'type': 'text', 'text': '...'}",
                param=where,
            )
        texts.append(text)
    return "".join(texts)


def _tool(tool: Any) -> FunctionTool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequest(
            f"a tool is {_shown(tool)}",
            fix="give {'type': 'function', 'function': {'name': ..., 'description': ..., 'parameters': ...}}",
            param="tools",
        )
    return FunctionTool(
        function["name"],
        function.get("description") or "",
        function.get("parameters") or {},
        bool(function.get("strict")),
    )


def _tool_choice(choice: Any) -> ToolChoice:
    if choice is None:
        return "auto"
    if choice in ("none", "auto", "required"):
        return choice
    function = choice.get("function") if isinstance(choice, Mapping) else None
    if isinstance(function, Mapping) and isinstance(function.get("name"), str):
        return (function["name"],)
    raise InvalidRequest(
        f"tool_choice is {_shown(choice)}",
        fix="use 'none', 'auto', 'required', or {'type': 'function', 'function': {'name': ...}}",
        param="tool_choice",
    )


def _has_items(value: Any) -> bool:
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and len(value) > 0


def _is_integer(value: Any) -> bool:
    """Returns whether a value is an integer, numpy's included."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."

"""One turn of a conversation: messages, tools and a format in; content, reasoning and tool calls out.

Every chat-like request takes this path:

    plan = await plan_dialogue(model, Dialogue(messages, tools, ...), caller)
    params = replace(model.sampling(...), grammar=plan.grammar)
    choices = plan.choices(id, params, n=1, ...)
    async for turn in converse(plan, choices, updates): ...
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deepwell.dialogue.completion import Caller, Choice, Counts, Question, Update, engine_request
from deepwell.dialogue.dialect import Dialect
from deepwell.dialogue.grammars import compose
from deepwell.dialogue.model import PromptTooLong, ServedModel
from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Event, OutputParser, Reasoning
from deepwell.dialogue.parsers.machine import ReasoningTags
from deepwell.dialogue.text import Codec, Entry
from deepwell.dialogue.tools import FunctionTool, ToolChoice, names
from deepwell.engine.protocol import Grammar, SamplingParams, Window
from deepwell.errors import InvalidRequest

__all__ = [
    "Call",
    "Dialogue",
    "ParsedOutput",
    "Plan",
    "Turn",
    "TurnParser",
    "converse",
    "count_prompt",
    "encode_dialogue",
    "new_call_id",
    "plan_dialogue",
]

_NO_SWITCHES = frozenset({"messages", "tools"})  # variables of templates that have parameters of their own
_TAIL_TOKENS = 16  # end of a prompt, where a template may open or close the model's reasoning


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A request to a chat model, in the shape of OpenAI's chat messages.

    Attributes:
        messages: `role`, `content` (text, or None beside calls), `tool_calls`, `tool_call_id`, `reasoning_content`.
        tool_choice: "none" shows the model no tools.
        format: grammar of the answer's text.
        thinks: whether the model should reason first. None leaves it to the chat template.
        variables: further switches of the chat template.
        params: the route's own names for `messages`, `tools`, `tool_choice`, `format` and `thinks`, used in errors.
        counted: the prompt is counted and not run, so that an error for too many tokens has to have their number.
        most_tokens: the most tokens that the prompt may have; None: those that the context holds.
        begins_answer: whether the prompt ends with the beginning of the answer, as it must for the model to answer.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[FunctionTool] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    format: Grammar | None = None
    thinks: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    counted: bool = False
    most_tokens: int | None = None
    begins_answer: bool = True


@dataclass(frozen=True, slots=True)
class Turn:
    """The events that one step of one choice made final. The last turn carries `finish_reason`."""

    index: int
    events: tuple[Event, ...]
    entries: tuple[Entry, ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = None
    counts: Counts = field(default_factory=Counts)
    stop: str | None = None  # the stop string that ended it
    ledger: Any = (
        None  # of the last turn: the account of a prompt that was made on the way; it replaces the plan's
    )


@dataclass(slots=True)
class Call:
    """A tool call, put together from its events."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class ParsedOutput:
    """The content, reasoning and tool calls of one choice so far."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list[Call])

    def add(self, events: Sequence[Event]) -> None:
        """Adds a turn's events."""
        for event in events:
            match event:
                case Content(text):
                    self.content += text
                case Reasoning(text):
                    self.reasoning += text
                case CallStart(_, name):
                    self.calls.append(Call(new_call_id(), name))
                case CallArguments(index, text):
                    self.calls[index].arguments += text


def new_call_id() -> str:
    """Returns a new id for a tool call."""
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A dialogue that is ready to run: its prompt, the grammar of the answer, and the means to parse it."""

    prompt: list[int]
    grammar: Grammar | None
    dialect: Dialect
    tools: tuple[FunctionTool, ...]  # those that the model was shown
    reasoning: ReasoningTags
    visible: frozenset[int]
    question: Question | None = None
    must_call: bool = False  # the grammar allows nothing but calls
    # Makes the turns in the model's place, where an answer is more than what the model says
    answers: Callable[[Sequence[Choice]], AsyncGenerator[Turn, None]] | None = None
    checked: Any = None  # the note of a guard that has read the dialogue; the caller's own
    window: Window | None = None  # to run the prompt with
    ledger: Any = None  # the account of a prompt that was fitted to the context; the caller's own
    adapter: str = ""  # the engine's name of the adapter that has learnt what the prompt leaves out

    def parser(self) -> OutputParser | None:
        """Returns a new parser for one choice, or None if all its text is content."""
        if not self.tools and self.reasoning == "off":
            return None
        return self.dialect.parser(self.tools, self.reasoning)

    def choices(
        self,
        id: str,
        params: SamplingParams,
        *,
        n: int = 1,
        stops: Sequence[str] = (),
        caller: Caller | None = None,
        adapter: str = "",
    ) -> list[Choice]:
        """Returns `n` choices. `params` should hold the plan's grammar. The plan's own adapter goes before `adapter`."""
        adapter = self.adapter or adapter
        return [
            Choice(
                index,
                replace(
                    engine_request(f"{id}-{index}", self.prompt, params, index, caller or Caller(), adapter),
                    window=self.window,
                ),
                tuple(stops),
                visible=self.visible,
                question=self.question,
            )
            for index in range(n)
        ]


async def count_prompt(model: ServedModel, dialogue: Dialogue, caller: Caller) -> int:
    """Returns the number of tokens of the prompt, even where the context cannot hold them.

    Raises:
        InvalidRequest: as for `plan_dialogue`.
    """
    try:
        plan = await plan_dialogue(model, replace(dialogue, counted=True), caller)
    except PromptTooLong as error:
        return error.tokens
    return len(plan.prompt)


async def plan_dialogue(model: ServedModel, dialogue: Dialogue, caller: Caller) -> Plan:
    """Renders and tokenises the messages, and compiles the grammar for the caller. Long work runs off the event loop.

    Raises:
        InvalidRequest: messages, tools or the format cannot be used. `param` is the route's own name for them.
    """
    with _named(dialogue):
        return await _plan(model, dialogue, caller)


async def encode_dialogue(model: ServedModel, dialogue: Dialogue, most_tokens: int) -> list[int]:
    """Returns the tokens of the prompt, which may be longer than the context.

    Raises:
        PromptTooLong: a long prompt has more than `most_tokens`.
        InvalidRequest: as for `plan_dialogue`.
    """
    with _named(dialogue):
        _check_messages(dialogue.messages)
        variables = _variables(model.codec, dialogue)
        return await _encode(model, dialogue, _offered(dialogue), variables, most_tokens)


@contextmanager
def _named(dialogue: Dialogue) -> Generator[None]:
    """Gives errors the route's own names for the parts of the dialogue."""
    try:
        yield
    except InvalidRequest as error:
        known = {"grammar": "format", "format": "format"}
        param = known.get(error.param or "", error.param or "")
        default = {"format": "response_format", "thinks": "reasoning_effort"}.get(param, param)
        error.param = dialogue.params.get(param, default) or None
        raise


async def _plan(model: ServedModel, dialogue: Dialogue, caller: Caller) -> Plan:
    codec = model.codec
    dialect = codec.dialect
    _check_messages(dialogue.messages)
    tools = _offered(dialogue)
    variables = _variables(codec, dialogue)
    prompt = await _encode(model, dialogue, tools, variables, dialogue.most_tokens)
    reasoning = _reasoning(dialect, codec, prompt)
    if dialogue.thinks is False and reasoning != "off":
        raise InvalidRequest(
            "this model always reasons before it answers", fix="leave it out", param="thinks"
        )
    grammar = compose(
        dialect,
        tools=tools,
        choice=dialogue.tool_choice,
        parallel=dialogue.parallel_tool_calls,
        format=dialogue.format,
        reasoning=reasoning,
        control=codec.control_token,
    )
    if grammar is not None:
        await model.engine.prepare(grammar, tenant=caller.tenant, cache_salt=caller.salt)
    marked = (codec.control_token(marker) for marker in dialect.markers)
    visible = frozenset(token for token in marked if token is not None)
    return Plan(
        prompt,
        grammar,
        dialect,
        tools,
        reasoning,
        visible if tools or reasoning != "off" else frozenset(),
        None if tools else _question(dialogue.messages, variables),
        must_call=bool(tools) and dialogue.tool_choice != "auto",
    )


def _variables(codec: Codec, dialogue: Dialogue) -> dict[str, Any]:
    """Returns the switches of the chat template that the dialogue sets."""
    variables = dict(dialogue.variables)
    unknown = [name for name in variables if name not in codec.template_variables - _NO_SWITCHES]
    if unknown:
        raise InvalidRequest(
            f"this model's chat template has no switch {unknown[0]!r}",
            fix="leave it out",
            param="chat_template_kwargs",
        )
    if dialogue.thinks is not None:
        variables |= _switch(codec.dialect, dialogue.thinks)
    if not dialogue.begins_answer:
        if "add_generation_prompt" not in codec.template_variables:
            raise InvalidRequest(
                "this model's chat template cannot leave the beginning of the answer out",
                fix="leave add_generation_prompt out",
                param="add_generation_prompt",
            )
        variables["add_generation_prompt"] = False
    return variables


async def _encode(
    model: ServedModel,
    dialogue: Dialogue,
    tools: Sequence[FunctionTool],
    variables: Mapping[str, Any],
    most_tokens: int | None = None,
) -> list[int]:
    """Renders and tokenises the messages, with the tools that the model is shown."""
    dialect = model.codec.dialect
    shown = [tool.rendered() for tool in tools] if tools and dialect.offers else None
    return await model.encode_chat(
        dialect.conversation(dialogue.messages, tools),
        tools=shown,
        param=dialogue.params.get("messages", "messages"),
        counted=dialogue.counted,
        most_tokens=most_tokens,
        variables=variables,
    )


def _question(messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> Question | None:
    """Returns the question in the last message, or None if that is not a user's text."""
    last = messages[-1]
    if last["role"] != "user" or not isinstance(last.get("content"), str):
        return None
    return Question(last["content"], messages[:-1], variables)


class TurnParser:
    """Parses the updates of one choice into turns."""

    def __init__(self, plan: Plan) -> None:
        self._parser = plan.parser()
        self._must_call = plan.must_call
        self._called = False

    def push(self, update: Update) -> Turn | None:
        """Returns the turn of an update, or None if it made nothing final."""
        parser, finish = self._parser, update.finish_reason
        if parser is None:
            events: list[Event] = [Content(update.text)] if update.text else []
        else:
            events = parser.push(update.text)
            if finish is not None:
                cut = self._must_call and (finish == "length" or update.stop is not None)
                events += parser.finish(cut=cut)
        if any(isinstance(event, CallStart) for event in events):
            self._called = True
        if not (events or update.entries or finish):
            return None
        reason = "tool_calls" if finish == "stop" and self._called else finish
        return Turn(update.index, tuple(events), update.entries, reason, update.counts, update.stop)


async def converse(
    plan: Plan,
    choices: Sequence[Choice],
    updates: AsyncGenerator[Update, None],
    on_tool_calls: Callable[[], None] | None = None,
) -> AsyncGenerator[Turn, None]:
    """Parses the updates of choices into turns. Closing the iterator ends the choices.

    Args:
        updates: updates of all choices, in the order in which they arrive.
        on_tool_calls: called when a choice ends with tool calls.

    Raises:
        GenerationFailed: the engine gave up on a request.
        InvalidRequest: the grammar of a request cannot go on.
    """
    parsers = {choice.index: TurnParser(plan) for choice in choices}
    async with aclosing(updates):
        async for update in updates:
            turn = parsers[update.index].push(update)
            if turn is None:
                continue
            if turn.finish_reason == "tool_calls" and on_tool_calls is not None:
                on_tool_calls()
            yield turn


def _offered(dialogue: Dialogue) -> tuple[FunctionTool, ...]:
    """Checks the tools and `tool_choice`, and returns the tools that the model is shown."""
    tools, choice = tuple(dialogue.tools), dialogue.tool_choice
    if not tools:
        if choice not in ("none", "auto"):
            raise InvalidRequest(
                "tool_choice asks for a call, but there are no tools", fix="send tools", param="tool_choice"
            )
        return ()
    seen: set[str] = set()
    for tool in tools:
        if tool.name in seen:
            raise InvalidRequest(
                f"two tools are called {tool.name!r}", fix="rename one of them", param="tools"
            )
        seen.add(tool.name)
    if isinstance(choice, tuple) and (missing := [name for name in choice if name not in seen]):
        raise InvalidRequest(
            f"tool_choice names {missing[0]!r}, which is not among the tools",
            fix=f"use one of {names(tools)}",
            param="tool_choice",
        )
    return () if choice == "none" else tools


def _switch(dialect: Dialect, thinks: bool) -> dict[str, bool]:
    if dialect.switch is not None:
        return {dialect.switch: thinks}
    if thinks and not dialect.reasons:
        raise InvalidRequest("this model does not reason apart", fix="leave it out", param="thinks")
    return {}


def _reasoning(dialect: Dialect, codec: Codec, prompt: Sequence[int]) -> ReasoningTags:
    """Tells from the end of the prompt whether reasoning has begun, is over (or never comes), or may begin the answer."""
    if not dialect.reasons:
        return "off"
    tail = codec.decode(prompt[-_TAIL_TOKENS:]).rstrip()
    if tail.endswith("<think>"):
        return "begun"
    return "off" if tail.endswith("</think>") else "tagged"


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Checks, as OpenAI does, that every call has its result and every result its call."""
    open_calls: dict[str, int] = {}
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            id = message.get("tool_call_id")
            if open_calls.pop(str(id), None) is None:
                raise InvalidRequest(
                    f"messages[{number}] answers the tool call {id!r}, which the message before did not make",
                    fix="send tool messages right behind the assistant message with their tool_calls",
                    param="messages",
                )
            continue
        if open_calls:
            raise InvalidRequest(
                f"the tool call {next(iter(open_calls))!r} has no answer",
                fix="send a tool message for every call, right behind the assistant message that made it",
                param="messages",
            )
        for call in message.get("tool_calls") or ():
            open_calls[str(call["id"])] = number
    if open_calls:
        raise InvalidRequest(
            f"the tool call {next(iter(open_calls))!r} has no answer",
            fix="send a tool message for every call, right behind the assistant message that made it",
            param="messages",
        )

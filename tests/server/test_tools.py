"""Tools, formats and reasoning: through the SDK, through templates of each family, and through their grammars."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from openai import OpenAI
from tests.server.conftest import start
from tests.server.fakes import END, VOCAB, FakeEngine, make_service, write_tokenizer

from deepwell.dialogue.dialect import Dialect, Family, detect_dialect
from deepwell.dialogue.dialogue import ParsedOutput
from deepwell.dialogue.grammars import MAX_CALLS, compose
from deepwell.dialogue.parsers.machine import ReasoningTags
from deepwell.dialogue.text import Codec
from deepwell.dialogue.tools import ANY_OBJECT, FunctionTool, ToolChoice
from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.protocol import Grammar
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.app import create_app

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
            "required": ["a"],
        },
    },
}


@pytest.fixture(scope="module")
def roomy(codec: Codec) -> Iterator[str]:
    """A server whose context holds the tools as well."""
    engine = FakeEngine(max_model_len=8192)
    running = start(make_service(engine, codec, model="toy"), engine)
    yield running.url
    running.stop()


@pytest.fixture
def sdk(roomy: str) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{roomy}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_tool_call_comes_out_whole(sdk: OpenAI) -> None:
    # The engine repeats the user's words, so the user says what the model is to write.
    answer = sdk.chat.completions.create(
        model="toy", messages=say(f"Look:\n{CALL}"), tools=[TOOL], temperature=0
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Look:"
    assert choice.message.tool_calls and len(choice.message.tool_calls) == 1
    call = choice.message.tool_calls[0]
    assert call.type == "function" and call.id.startswith("call_")
    assert (call.function.name, json.loads(call.function.arguments)) == ("f", {"a": 1})


def test_calls_stream_as_deltas_without_their_markup(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="toy", messages=say(f"{CALL}\n{CALL}"), tools=[TOOL], temperature=0, stream=True
    )
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    text, reasons = "", []
    for chunk in stream:
        delta = chunk.choices[0].delta
        text += delta.content or ""
        reasons.append(chunk.choices[0].finish_reason)
        for part in delta.tool_calls or ():
            assert part.function
            if part.id:
                names[part.index] = part.function.name or ""
            arguments[part.index] = arguments.get(part.index, "") + (part.function.arguments or "")
    assert text == "" and reasons[-1] == "tool_calls"
    assert names == {0: "f", 1: "f"} and arguments == {0: '{"a": 1}', 1: '{"a": 1}'}


def test_without_tools_or_with_none_the_markup_is_text(sdk: OpenAI) -> None:
    plain = sdk.chat.completions.create(model="toy", messages=say(CALL), temperature=0)
    none = sdk.chat.completions.create(
        model="toy", messages=say(CALL), tools=[TOOL], tool_choice="none", temperature=0
    )
    for answer in (plain, none):
        assert answer.choices[0].message.content == CALL and answer.choices[0].finish_reason == "stop"


def test_a_call_and_its_result_can_be_sent_back(sdk: OpenAI) -> None:
    first = sdk.chat.completions.create(model="toy", messages=say(CALL), tools=[TOOL], temperature=0)
    message = first.choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "42"}
    again = sdk.chat.completions.create(
        model="toy", messages=[*say(CALL), message, result], tools=[TOOL], temperature=0
    )
    assert again.choices[0].message.content == "<tool_response>\n42\n</tool_response>"


def test_a_call_joined_from_a_stream_can_be_sent_back_with_its_index(sdk: OpenAI) -> None:
    first = sdk.chat.completions.create(model="toy", messages=say(CALL), tools=[TOOL], temperature=0)
    calls = first.choices[0].message.tool_calls
    assert calls
    joined: Any = {"role": "assistant", "content": "", "tool_calls": [{"index": 0, **calls[0].model_dump()}]}
    result: Any = {"role": "tool", "tool_call_id": calls[0].id, "content": "42"}
    again = sdk.chat.completions.create(
        model="toy", messages=[*say(CALL), joined, result], tools=[TOOL], temperature=0
    )
    assert again.choices[0].message.content == "<tool_response>\n42\n</tool_response>"


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({"tools": [TOOL], "tool_choice": "required"}, "lark"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "lark"),
        ({"tools": [TOOL], "parallel_tool_calls": False}, "lark"),
        ({"tools": [TOOL]}, None),
        ({"response_format": {"type": "json_object"}}, "json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
            "json_schema",
        ),
        ({"structured_outputs": {"regex": "a+"}}, "regex"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "lark"),
        ({"response_format": {"type": "text"}}, None),
    ],
)
async def test_what_must_hold_reaches_the_engine(
    http: httpx.AsyncClient, engine: FakeEngine, extra: dict[str, Any], kind: str | None
) -> None:
    body = {"model": "toy", "messages": say("hi"), "max_tokens": 4} | extra
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    grammar = engine.seen[0].params.grammar
    assert (grammar.kind if grammar else None) == kind
    assert engine.grammars == ([grammar] if grammar else [])


QWEN = (
    "{% if tools %}<|im_start|>system\n<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>"
    "<tool_call><|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    '{% for c in m.tool_calls or [] %}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% elif m.role == 'tool' %}"
    "<｜tool▁output▁begin｜>{{ m.content }}{% elif m.content is none %}<｜tool▁calls▁begin｜>"
    "{% for c in m.tool_calls %}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name }}\n```json\n"
    "{{ c.function.arguments + '' }}\n```<｜tool▁call▁end｜>{% endfor %}{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)


@pytest.mark.parametrize(
    ("source", "added", "expected"),
    [
        (QWEN, (), Dialect("hermes", True, ("object", None), True, "enable_thinking")),
        (DEEPSEEK, (), Dialect("deepseek_v3", False, ("text", None), True, None)),
        ("{{ messages[0].content }}", ("｜DSML｜",), Dialect("dsml")),
        ("{{ messages[0].content }}", (), Dialect("hermes")),
        (None, ("<think>",), Dialect("hermes", reasons=True)),
    ],
)
def test_the_dialect_is_read_from_template_and_vocabulary(
    source: str | None, added: tuple[str, ...], expected: Dialect
) -> None:
    template = ChatTemplate(source, "", "") if source else None
    assert detect_dialect(template, added) == expected


def test_a_template_that_knows_no_tools_gets_them_in_the_system_message() -> None:
    tool = FunctionTool("f", "does f", {"type": "object", "properties": {}})
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    turns = Dialect().conversation(messages, [tool])
    assert turns[0]["role"] == "system" and turns[0]["content"].startswith("Be kind.")
    assert '"does f"' in turns[0]["content"]
    assert turns[1]["content"] == CALL and "tool_calls" not in turns[1]
    assert turns[2] == {"role": "user", "content": "<tool_response>\ndone\n</tool_response>"}


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return GrammarCompiler(lambda: tokenizer, VOCAB, (END,))


TOOLS = [
    FunctionTool(
        "look_up",
        parameters={
            "type": "object",
            "properties": {
                "q": {"type": "string", "maxLength": 20},
                "n": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["q"],
        },
        strict=True,
    ),
    FunctionTool("stop"),
]


def written(compiler: GrammarCompiler, grammar: Grammar, chance: random.Random, begin: str = "") -> str:
    """What a model of printable characters writes under a grammar, in a hurry to end."""
    state = compiler.start(grammar)
    data = bytearray(begin.encode())
    for byte in data:
        assert state.allowed()[byte]
        state.advance(byte)
    while len(data) < 3000:
        allowed = np.flatnonzero(state.allowed())
        if END in allowed:
            break
        plain = [t for t in allowed if 32 <= t < 127 or t == 10 or len(allowed) == 1] or list(allowed)
        quick = [t for t in plain if chr(t) in '"}]<|\n']
        token = int(chance.choice(quick if quick and chance.random() < 0.6 else plain))
        data.append(token)
        state.advance(token)
    return data.decode("utf-8", "replace")


@pytest.mark.parametrize("reasoning", ["off", "begun"])
@pytest.mark.parametrize("choice", ["required", ("stop",), "auto"])
@pytest.mark.parametrize("family", ["hermes", "json", "deepseek", "deepseek_v3", "dsml"])
def test_what_a_grammar_forces_its_parser_reads(
    compiler: GrammarCompiler, family: Family, choice: ToolChoice, reasoning: ReasoningTags
) -> None:
    dialect = Dialect(family)
    grammar = compose(
        dialect,
        tools=TOOLS,
        choice=choice,
        parallel=True,
        format=ANY_OBJECT if choice == "auto" else None,
        reasoning=reasoning,
        control=lambda marker: None,
    )
    assert grammar is not None
    for seed in range(3):
        begin = "hm </think>" if reasoning == "begun" else ""
        text = written(compiler, grammar, random.Random(seed), begin)
        parser = dialect.parser(TOOLS, reasoning)
        said = ParsedOutput()
        said.add([*parser.push(text), *parser.finish()])
        if choice == "auto" and not said.calls:
            assert isinstance(json.loads(said.content), dict), text
            continue
        assert 1 <= len(said.calls) <= MAX_CALLS and not said.content, text
        for call in said.calls:
            arguments = json.loads(call.arguments)
            assert call.name in (choice if isinstance(choice, tuple) else ("look_up", "stop"))
            assert set(arguments) <= {"q", "n"} and (call.name == "stop" or "q" in arguments), text


def test_a_strict_tool_binds_calls_and_leaves_text_free(compiler: GrammarCompiler) -> None:
    grammar = compose(
        Dialect(),
        tools=TOOLS,
        choice="auto",
        parallel=True,
        format=None,
        reasoning="off",
        control=lambda marker: None,
    )
    assert grammar is not None
    state = compiler.start(grammar)
    for byte in b"Hello <tool_call":
        assert state.allowed()[byte]
        state.advance(byte)
    assert state.allowed()[END]  # text so far
    state.advance(ord(">"))
    assert np.flatnonzero(state.allowed()).tolist() == [ord("\n")]


CUT = "<tool_call>\n" + '{"name": "f", "arguments": {"a": 12345}}' + "\n</tool_call>"


@pytest.mark.parametrize("choice", ["required", "named"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
async def test_a_forced_call_that_is_cut_leaks_no_markup(
    codec: Codec, path: str, stream: bool, choice: str
) -> None:
    """The engine writes the call, and max_tokens ends it at each place in turn."""
    app = create_app(make_service(FakeEngine(max_model_len=8192), codec, model="toy"))
    schema = TOOL["function"]["parameters"]
    named = {"chat/completions": {"type": "function", "function": {"name": "f"}}}
    named |= {"responses": {"type": "function", "name": "f"}, "messages": {"type": "tool", "name": "f"}}
    required: Any = {"type": "any"} if path == "messages" else "required"
    body: dict[str, Any] = {"model": "toy", "temperature": 0, "stream": stream}
    body["tool_choice"] = required if choice == "required" else named[path]
    match path:
        case "chat/completions":
            body |= {"messages": say(CUT), "tools": [TOOL]}
        case "responses":
            body |= {"input": CUT, "tools": [{"type": "function", "name": "f", "parameters": schema}]}
        case _:
            body |= {"messages": say(CUT), "tools": [{"name": "f", "input_schema": schema}]}
    limit = "max_output_tokens" if path == "responses" else "max_tokens"
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for most in range(1, len(CUT), 3):
            answer = await http.post(f"/v1/{path}", json=body | {limit: most})
            assert answer.status_code == 200, answer.text
            assert "tool_call>" not in answer.text and '\\"name\\"' not in answer.text, (most, answer.text)
            assert "<tool" not in answer.text and '"text":"<' not in answer.text, (most, answer.text)


async def test_a_call_that_a_stop_string_cuts_leaks_no_markup(codec: Codec) -> None:
    app = create_app(make_service(FakeEngine(max_model_len=8192), codec, model="toy"))
    body = {
        "model": "toy",
        "messages": say(CUT),
        "tools": [TOOL],
        "tool_choice": "required",
        "stop": ["name"],
    }
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        (choice,) = (await http.post("/v1/chat/completions", json=body)).json()["choices"]
    assert choice["message"]["content"] == ""

"""DeepSeek-V4's prompts and calls, written by a template of our own: its files have Python code in place of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepwell.dialogue.dialect import Dialect, detect_dialect
from deepwell.errors import InvalidRequest
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import read_chat_template

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "Height of the sea",
        "parameters": {"type": "object", "properties": {"port": {"type": "string"}}, "required": ["port"]},
    },
}
CALLS = [
    {
        "id": "call_1",
        "type": "function",
        "function": {"name": "tide", "arguments": {"port": "青岛", "hours": 3, "exact": True}},
    }
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    folder: Path = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "deepseek_v4"}))
    source = read_chat_template(folder)
    assert source is not None
    return ChatTemplate(source, BOS, EOS)


def rendered(template: ChatTemplate, messages: list[dict[str, Any]], **options: Any) -> str:
    return template.render(messages, **options)


def test_a_chat_begins_behind_the_end_of_reasoning(template: ChatTemplate) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert rendered(template, messages) == f"{BOS}Be brief.<｜User｜>Hi<｜Assistant｜></think>"
    assert rendered(template, messages, thinking=True) == f"{BOS}Be brief.<｜User｜>Hi<｜Assistant｜><think>"


def test_reasoning_of_earlier_turns_is_left_out(template: ChatTemplate) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "why b"},
        {"role": "user", "content": "c"},
    ]
    for thinking, end in ((False, "</think>"), (True, "<think>")):
        text = rendered(template, messages, thinking=thinking)
        assert text == f"{BOS}<｜User｜>a<｜Assistant｜></think>b{EOS}<｜User｜>c<｜Assistant｜>{end}"


def test_calls_and_results_are_written_as_the_model_writes_them(template: ChatTemplate) -> None:
    messages = [
        {"role": "user", "content": "Tide?"},
        {"role": "assistant", "content": "", "reasoning_content": "look it up", "tool_calls": CALLS},
        {"role": "tool", "content": "3 m", "tool_call_id": "call_1"},
        {"role": "tool", "content": "4 m", "tool_call_id": "call_2"},
    ]
    text = rendered(template, messages, tools=[TOOL], thinking=True)
    head, _, rest = text.partition("### Available Tool Schemas\n\n")
    assert head.startswith(f"{BOS}\n\n## Tools\n\n") and "<｜DSML｜tool_calls>" in head
    schema, _, rest = rest.partition("\n\nYou MUST strictly follow")
    assert json.loads(schema) == TOOL["function"]
    assert rest.partition("\n<｜User｜>")[2] == (
        "Tide?<｜Assistant｜><think>look it up</think>\n\n<｜DSML｜tool_calls>\n"
        '<｜DSML｜invoke name="tide">\n'
        '<｜DSML｜parameter name="port" string="true">青岛</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="hours" string="false">3</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="exact" string="false">true</｜DSML｜parameter>\n'
        f"</｜DSML｜invoke>\n</｜DSML｜tool_calls>{EOS}"
        "<｜User｜><tool_result>3 m</tool_result>\n\n<tool_result>4 m</tool_result><｜Assistant｜><think>"
    )


def test_the_dialect_is_found_in_the_template(template: ChatTemplate) -> None:
    dialect = detect_dialect(template, ())
    assert dialect.family == "dsml_v4" and dialect.offers and dialect.reasons
    assert dialect.switch == "thinking" and dialect.history == ("object", None)


def test_a_template_that_the_model_brings_is_taken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deepseek_v4"}))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert read_chat_template(tmp_path) == "{{ messages[0].content }}"


def test_efforts_turn_the_switch() -> None:
    with_switch, without, levels = Dialect(reasons=True, switch="thinking"), Dialect(reasons=True), Dialect()
    for dialect in (with_switch, without):
        assert dialect.reasoning(None, "effort", has_levels=False) == (None, {})
        assert dialect.reasoning("none", "effort", has_levels=False) == (False, {})
    assert with_switch.reasoning("high", "effort", has_levels=False) == (True, {})
    assert levels.reasoning("low", "effort", has_levels=True) == (None, {"reasoning_effort": "low"})
    for dialect, effort, names in ((with_switch, "low", True), (without, "high", False)):
        with pytest.raises(InvalidRequest) as caught:
            dialect.reasoning(effort, "reasoning.effort", has_levels=False, off="false")
        assert repr(effort) in caught.value.message and caught.value.param == "reasoning.effort"
        assert "false" in caught.value.fix and ("'high'" in caught.value.fix) == names

"""Chat templates: what they render, what they may not do, and that content cannot inject control tokens."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.models.tokenizer_files import TEMPLATE, write_directory

from deepwell.errors import DeepwellError, InvalidModelFile, InvalidRequest, UnsupportedModel
from deepwell.models.text.chat_template import ChatTemplate, encode_chat
from deepwell.models.text.tokenizer import Tokenizer

HI = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "<é>"}}]


def render(source: str, messages: list | None = None, **variables: object) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(HI if messages is None else messages, **variables)


def test_renders_messages_and_the_generation_prompt() -> None:
    turn = "<|im_start|>user\nhi<|im_end|>\n"
    assert render(TEMPLATE) == turn + "<|im_start|>assistant\n"
    assert render(TEMPLATE, add_generation_prompt=False) == turn


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ tools | tojson }}", json.dumps(TOOLS, ensure_ascii=False)),
        ("{{ tools | tojson(indent=4) }}", json.dumps(TOOLS, ensure_ascii=False, indent=4)),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% for m in messages %}{{ loop.last }}{{ loop.length }}{{ m.role }}{% endfor %}", "True1user"),
        ("{% if x %}\n    a\n    {% endif %}\nb", "    a\nb"),  # trim_blocks, lstrip_blocks
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "1",
        ),
        ("{{ messages[0]['content'].strip().split('i')[0] ~ messages[::-1] | length }}", "h1"),
        ("{{ messages | map(attribute='content') | join(', ') }}", "hi"),
        ("{{ '%s-%02d' % ('a', 7) }}", "a-07"),
        ("{% generation %}{{ x }}{% endgeneration %}", "1"),
        ("{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m('x') }}", "[x]"),
        ("{% for k, v in tools[0].items() %}{{ k }} {% endfor %}", "type function "),
        ("{% for x in [1, [2]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "12"),
        ("{{ strftime_now('%Y')[:2] }}", "20"),
    ],
)
def test_the_dialect_of_transformers(source: str, text: str) -> None:
    assert render(source, tools=TOOLS, x=1) == text


QWEN3 = r"""
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and
        not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and reasoning_content %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n')
                + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""


def test_the_constructs_of_qwen3s_template() -> None:
    """Earlier thoughts are dropped, and `enable_thinking=False` answers with an empty one."""
    messages = [*HI, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}, *HI]
    turns = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    assert render(QWEN3, messages) == turns + "<|im_start|>assistant\n"
    assert render(QWEN3, messages, enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")
    last = render(QWEN3, messages[:2], add_generation_prompt=False)
    assert last.endswith("<|im_start|>assistant\n<think>\nhm\n</think>\n\nyes<|im_end|>\n")


def test_hash_depends_on_the_source_alone() -> None:
    assert ChatTemplate("a", "x", None).hash == ChatTemplate("a", None, "y").hash
    assert ChatTemplate("a", None, None).hash != ChatTemplate("b", None, None).hash


NS = "{% set ns = namespace(s='x', l=[1], t=(1,), n=2) %}{% for i in range(90) %}"
BIG = "{% set a = 'aaaaaaaaaa' * 100000 %}"
HOSTILE = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "exponential calls": "{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) if n }}{% endmacro %}{{ m(60) }}",
    "endless macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "endless block": "{% block a %}{{ self.a() }}{% endblock %}",
    "endless loop": "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "repeated string": "{{ 'a' * 10 ** 10 }}",
    "repeated list": "{% set x = 1000000000 * [0] %}",
    "power": "{{ 10 ** 1000000000 }}",
    "squares": NS + "{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubling +": NS + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubling ~": NS + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "doubling lists": NS + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "deep tuples": NS + "{% set ns.t = (ns.t,) %}{% endfor %}",
    "captured output": "{% set x %}{% for a in range(100000) %}" + "y" * 10000 + "{% endfor %}{% endset %}",
    "captured constant": "{% set x %}{% for a in range(100000) %}{{ '"
    + "y" * 10000
    + "' }}{% endfor %}{% endset %}",
    "kept slices": BIG + NS + "{% set ns.l = ns.l + [a[i:]] %}{% endfor %}",
    "replace filter": BIG + "{{ a | replace('a', a) }}",
    "replace method": BIG + "{{ a.replace('', a) }}",
    "join filter": BIG + "{{ range(100000) | join(a) }}",
    "join method": BIG + "{{ a.join(a) }}",
    "backward search": BIG + "{{ (a * 4).rfind('b' + a) }}",
    "strip set": BIG + "{{ (a * 4).strip('b' * 1000000 ~ 'a') }}",
    "trim set": BIG + "{{ (a * 4) | trim('b' * 1000000 ~ 'a') }}",
    "long path": NS
    + "{% set ns.a = ns %}{% endfor %}{{ [ns] | map(attribute='a.' * 1000000 ~ 'a') | list }}",
    "indent": "{{ 'a\n' | indent(1000000000) }}",
    "json indent": "{{ [1] | tojson(indent=1000000000) }}",
    "padding method": "{{ 'a'.ljust(10000000000) }}",
    "format width": "{{ '%9999999999d' % 1 }}",
    "format star": "{{ '%*d' % (9999999999, 1) }}",
    "format method": "{{ '{:>9999999999}'.format(1) }}",
    "time format": "{{ strftime_now('%1000000000d') }}",
    "large output": BIG + "{% for i in range(100) %}{{ a }}{% endfor %}",
    "internals": "{{ messages.__class__.__mro__ }}",
    "opaque text": NS + "{{ [ns] }}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_endless_and_hostile_templates_are_stopped(name: str) -> None:
    with pytest.raises(InvalidModelFile, match="the chat template was stopped"):
        render(HOSTILE[name])


@pytest.mark.parametrize(
    "source",
    ["{% if %}", "{{ x | center(9) }}", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "x" * 100_000],
    ids=["syntax", "unlisted filter", "nesting", "size"],
)
def test_templates_that_do_not_compile_are_refused(source: str) -> None:
    with pytest.raises(InvalidModelFile, match="chat template"):
        ChatTemplate(source, None, None)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].nothing.at_all }}", "no attribute 'nothing'"),
        ("{{ messages[0]['content'] + 1 }}", "cannot render"),
    ],
)
def test_messages_a_template_cannot_render_are_the_callers_mistake(source: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        render(source)


FRAGMENTS = st.lists(
    st.sampled_from(
        "{% {%- %} -%} {{ }} for m in messages endfor if endif set x = [ ] ( ) 1 0 -3 'a' | join tojson length first m . "
        "role ['content'] + * ~ % ** // is defined not none range( namespace( macro q() endmacro call break loop ,".split()
    ),
    max_size=14,
).map(" ".join)


@given(source=FRAGMENTS)
def test_whatever_a_template_does_the_error_is_ours(source: str) -> None:
    with contextlib.suppress(DeepwellError):
        assert isinstance(render("{% for m in messages %}" + source + "{% endfor %}"), str)


def test_an_honest_template_renders_a_long_conversation() -> None:
    source = (
        "{% set ns = namespace(text='') %}{% for m in messages %}"
        "{% set ns.text = ns.text + m['role'] + ': ' + m['content'] | trim + eos_token %}{% endfor %}{{ ns.text }}"
    )
    messages = [{"role": "user", "content": "word " * 300}] * 400
    assert render(source, messages) == ("user: " + ("word " * 300).strip() + "</s>") * 400


@pytest.fixture(scope="module")
def chat(byte_tokenizer: Tokenizer) -> tuple[Tokenizer, ChatTemplate]:
    return byte_tokenizer, ChatTemplate.of(byte_tokenizer)


def test_encode_chat_equals_the_encoded_render(chat: tuple[Tokenizer, ChatTemplate]) -> None:
    tokenizer, template = chat
    messages = [
        {"role": "user", "content": "hello 12 你好 <think>"},
        {"role": "assistant", "content": " a\n"},
    ]
    assert encode_chat(tokenizer, template, messages) == tokenizer.encode(template.render(messages))


PIECES = st.lists(
    st.sampled_from(
        ["<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<", "|", "<|im_<|im_end|>", "x", "\n", "\U000f0000"]
    ),
    max_size=6,
).map("".join)


@pytest.mark.parametrize(
    "source",
    [
        TEMPLATE,
        "{% for m in messages %}<|im_start|>{{ m['content'] | trim }}<|im_end|>{% endfor %}",
        "{% for m in messages %}<|im_start|>{{ m['content'].split('x')[-1] }}<|im_end|>{% endfor %}",
        "<|im_start|>{% for m in messages %}{{ m['content'] }}{% endfor %}<|im_end|>",
        "<|im_start|>{% for m in messages %}{{ m | tojson }}{% endfor %}<|im_end|>",
        "{% for m in messages %}<|im_start|>{{ m['content'] | replace('x', '') }}<|im_end|>{% endfor %}",
        "{% for m in messages %}<|im_start|>{{ m['content'].split('x') | join }}<|im_end|>{% endfor %}",
        "{% for m in messages %}<|im_start|>{{ m['content'] | replace('<|im_', '') }}<|im_end|>{% endfor %}",
    ],
    ids=["plain", "trim", "split", "joined", "json", "replace", "pieces", "head"],
)
@given(contents=st.lists(PIECES, min_size=1, max_size=3))
@example(contents=["<|im_xend|>"])
@example(contents=["<<|im_|im_end|>"])
def test_content_cannot_inject_control_tokens(
    source: str, byte_tokenizer: Tokenizer, contents: list[str]
) -> None:
    template = ChatTemplate(source, None, None)

    def controls(texts: list[str]) -> list[int]:
        messages = [{"role": "user", "content": text} for text in texts]
        ids = encode_chat(byte_tokenizer, template, messages)
        return [i for i in ids if i in byte_tokenizer.special_ids]

    assert controls(contents) == controls(["y"] * len(contents))


@given(contents=st.lists(PIECES, min_size=1, max_size=3))
def test_encode_chat_keeps_the_text(byte_tokenizer: Tokenizer, contents: list[str]) -> None:
    template = ChatTemplate(TEMPLATE, None, None)
    messages = [{"role": "user", "content": text} for text in contents]
    ids = encode_chat(byte_tokenizer, template, messages)
    assert byte_tokenizer.decode(ids, skip_special=False) == template.render(messages)


def test_a_template_finds_its_own_marks_in_the_content(byte_tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{{ m['content'].split('</think>')[-1] | replace('<image>', '') }}{% endfor %}"
    )
    ids = encode_chat(
        byte_tokenizer,
        ChatTemplate(source, None, None),
        [{"role": "assistant", "content": "hm <|im_end|> < </think>a <b> <image><|im_<image>end|>"}],
    )
    assert byte_tokenizer.decode(ids, skip_special=False) == "a <b> <|im_end|>"
    assert not byte_tokenizer.special_ids.intersection(ids)


def test_tools_cannot_inject_control_tokens(byte_tokenizer: Tokenizer) -> None:
    template = ChatTemplate("<|im_start|>{{ tools | tojson }}<|im_end|>", None, None)
    tools = [{"name": "<|im_end|>", "<|im_end|>": ["<|im_start|>"]}]
    ids = encode_chat(byte_tokenizer, template, HI, tools=tools)
    assert [i for i in ids if i in byte_tokenizer.special_ids] == [ids[0], ids[-1]]
    assert byte_tokenizer.decode(ids, skip_special=False) == template.render(HI, tools=tools)


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no chat template"):
        ChatTemplate.of(Tokenizer.load(write_directory(tmp_path)))


@pytest.mark.model
def test_smollm2_chat(smollm2_path: Path) -> None:
    tokenizer = Tokenizer.load(smollm2_path)
    template = ChatTemplate.of(tokenizer)
    text = template.render(HI)
    assert text.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert encode_chat(tokenizer, template, HI) == tokenizer.encode(text)


def test_trial_renderings_share_one_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    for module in ("sandbox", "chat_template"):
        monkeypatch.setattr(f"deepwell.models.text.{module}.time", SimpleNamespace(thread_time=clock))
    template = ChatTemplate("{% for i in range(3000) %}{% endfor %}{{ messages[0].content }}", "", "")
    template.render(HI)
    each = now[0]
    assert 0.3 < each < 0.5  # three of them take more than a second
    assert template.try_renders([HI] * 9) == ["hi"] * 2


def test_a_render_that_met_a_pause_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0, 3.0, *[3.0 + place / 1000 for place in range(200)]])
    monkeypatch.setattr(
        "deepwell.models.text.sandbox.time", SimpleNamespace(thread_time=lambda: next(readings))
    )
    template = ChatTemplate("{% for i in range(300) %}{% endfor %}x", "", "")
    assert template.render(HI) == "x"


def test_a_slow_template_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()
    monkeypatch.setattr("deepwell.models.text.sandbox.time", SimpleNamespace(thread_time=lambda: next(now)))
    template = ChatTemplate("{% for i in range(300) %}{% endfor %}x", "", "")
    with pytest.raises(InvalidModelFile, match="more than 2 seconds"):
        template.render(HI)


def test_a_trial_says_what_a_template_refuses() -> None:
    template = ChatTemplate("{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}x", "", "")
    assert template.try_renders([HI, HI * 2, HI]) == ["x", None, "x"]

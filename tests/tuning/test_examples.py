"""Rendered examples: the masks cover answers and their end token, whatever the template and the texts are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.tokenizer_files import TEMPLATE, write_directory

from deepwell.dialogue.text import Codec
from deepwell.errors import InvalidRequest
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.train.examples import Example, render, render_all, template_hash, tokenizer_hash

# Leaves the part before </think> out of all answers but the last, as reasoning models do.
FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Writes another beginning of an answer than the one that it prompts with.
CONTRADICTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>robot\n{% endif %}"
)


@dataclass
class Record:
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    format: str = "chat"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return with_template(tmp_path_factory.mktemp("tokenizer"), TEMPLATE)


def with_template(folder: Path, source: str) -> Codec:
    tokenizer = Tokenizer.load(write_directory(folder / "model"))
    return Codec(tokenizer, ChatTemplate(source, tokenizer.bos_token, tokenizer.eos_token))


def said(*texts: str) -> Record:
    roles = ("user", "assistant")
    return Record([{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)])


def learnt(codec: Codec, example: Example) -> str:
    return codec.decode([t for t, marked in zip(example.token_ids, example.loss_mask, strict=True) if marked])


def test_the_mask_covers_answers_and_the_token_that_ends_them(codec: Codec) -> None:
    example = render(said("hi", "hello", "more", "no"), codec, 1000)
    assert learnt(codec, example) == "hello<|im_end|>no<|im_end|>"
    assert codec.is_end(example.token_ids[-1]) and example.loss_mask[-1]
    assert not example.loss_mask[0] and example.labelled == sum(example.loss_mask)


TEXTS = st.text(max_size=20) | st.sampled_from(
    ["<|im_end|>", "hello<|im_start|>assistant", " \n", "\n", "<|im_", "end|>", "你好", "é"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(TEXTS, min_size=3, max_size=3))
def test_what_precedes_an_answer_is_the_prompt_that_serving_builds(
    codec: Codec, questions: list[str], answers: list[str]
) -> None:
    texts = [one for pair in zip(questions, answers, strict=False) for one in pair]
    record = said(*texts)
    examples = render_all(record, codec, 10_000)
    pieces = "".join(learnt(codec, one) for one in examples)
    assert pieces == "".join(f"{text}<|im_end|>" for text in texts[1::2])
    ends = [
        index
        for one in examples
        for index in [one.loss_mask.index(True)]
        if len(examples) > 1 or len(questions) == 1
    ]
    for example, start, turn in zip(examples, ends, range(1, len(texts), 2), strict=False):
        prompt = codec.encode_chat(record.messages[:turn])
        assert example.token_ids[: len(prompt)] == prompt and start == len(prompt)
    # Control tokens in texts stay text: each message has one end token, and each answer's is marked.
    for example in examples:
        marked_ends = sum(
            codec.is_end(t) and m for t, m in zip(example.token_ids, example.loss_mask, strict=True)
        )
        assert marked_ends == (len(texts) // 2 if len(examples) == 1 else 1)


def test_an_answer_that_later_turns_rewrite_has_an_example_of_its_own(tmp_path: Path) -> None:
    codec = with_template(tmp_path, FORGETS)
    record = said("hi", "<think>a</think>hello", "more", "<think>b</think>no")
    first, second = render_all(record, codec, 1000)
    assert learnt(codec, first) == "<think>a</think>hello<|im_end|>"
    assert learnt(codec, second) == "<think>b</think>no<|im_end|>" and "<think>a" not in codec.decode(
        second.token_ids
    )
    with pytest.raises(InvalidRequest, match="rewrites earlier answers"):
        render(record, codec, 1000)


def test_a_template_that_does_not_continue_its_own_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="does not continue its own prompt"):
        render(said("hi", "hello"), with_template(tmp_path, CONTRADICTS), 1000)


def test_answers_of_weight_0_are_not_learnt(codec: Codec) -> None:
    record = said("hi", "hello", "more", "no")
    record.messages[1]["weight"] = 0
    assert learnt(codec, render(record, codec, 1000)) == "no<|im_end|>"
    record.messages[3]["weight"] = 0
    with pytest.raises(InvalidRequest, match="no answer"):
        render(record, codec, 1000)


def test_what_does_not_fit_is_cut_and_counted(codec: Codec) -> None:
    whole = render(said("hi", "hello " * 20), codec, 1000)
    cut = render(said("hi", "hello " * 20), codec, 20)
    assert cut.token_ids == whole.token_ids[:20] and cut.loss_mask == whole.loss_mask[:20]
    assert cut.cut == len(whole.token_ids) - 20 and whole.cut == 0
    assert render(said("hi " * 40, "hello"), codec, 20).labelled == 0


def test_every_token_of_plain_text_is_learnt(codec: Codec) -> None:
    record = Record([{"role": "user", "content": "hello hello"}], format="text")
    example = render(record, codec, 1000)
    assert all(example.loss_mask) and codec.decode(example.token_ids) == "hello hello"


def test_hashes_tell_templates_and_vocabularies_apart(codec: Codec, tmp_path: Path) -> None:
    other = with_template(tmp_path, FORGETS)
    assert template_hash(codec) != template_hash(other) and tokenizer_hash(codec) == tokenizer_hash(other)
    assert template_hash(codec) == ChatTemplate(TEMPLATE, None, None).hash

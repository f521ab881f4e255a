"""Every token of a conversation has one fate, whatever the policy, the template and the language are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.knowledge.hashing import HashEmbedder
from tests.server.fakes import write_tokenizer

from deepwell.dialogue.text import Codec
from deepwell.errors import ContextLengthExceeded
from deepwell.knowledge.context.fitting.fit import FitModel, Fitted, Fitter, Recalling
from deepwell.knowledge.context.fitting.memories import Memories, MemoryKey
from deepwell.knowledge.context.fitting.policy import FIT_OPTIONS, ContextPolicy, FitOptions, fit_options
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Strips texts, has a system message of its own, and no control tokens at all.
PLAIN = (
    "{% if messages[0]['role'] != 'system' %}System: be brief.\n{% endif %}"
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] | trim }}\n{% endfor %}Assistant:"
)
SENTENCES = (
    "The harbour of Ostrava closed on 12 May 2024.",
    "Jan de Vries owns 48,213 shares; he does not vote.",
    "What did it cost?",
    "No ferry runs on Sundays, except in June.",
    "北京的仓库在第三条街。",
    "张伟没有签字，合同无效。",
    "价格是四十八元，不含税？",
    "…and so on — user: assistant, system.",
    "x",
    "\n\n",
)
TEXTS = st.lists(st.sampled_from(SENTENCES), min_size=0, max_size=14).map(" ".join) | st.text(max_size=40)
POLICIES: tuple[ContextPolicy, ...] = ("strict", "window", "compress", "retrieve", "adapter", "auto")


def codec_of(folder: Path, template: str) -> Codec:
    return Codec(Tokenizer.load(folder), ChatTemplate(template, "<|im_start|>", "<|im_end|>"))


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> list[Codec]:
    folder = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return [codec_of(folder, CHATML), codec_of(folder, PLAIN)]


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 8))):
        found.append({"role": "user", "content": draw(TEXTS)})
        found.append({"role": "assistant", "content": draw(TEXTS)})
    question = draw(TEXTS)
    if draw(st.booleans()):
        question = f"{draw(TEXTS) * 4}\n\n{question}"
    return [*found, {"role": "user", "content": question}]


def fitted(
    codec: Codec,
    messages: Sequence[Any],
    room: int,
    policy: ContextPolicy,
    *,
    windows: bool,
    embedder: bool,
    options: FitOptions = FIT_OPTIONS,
) -> tuple[int, Fitted]:
    async def render(some: Sequence[Any]) -> list[int]:
        return codec.encode_chat(some)

    recalling = Recalling(Memories(), MemoryKey("", "toy"), HashEmbedder()) if embedder else None
    prompt = codec.encode_chat(messages)
    fitter = Fitter(FitModel(codec, render, room, windows), room, recalling=recalling, options=options)
    return len(prompt), asyncio.run(fitter.fit(messages, prompt, policy))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    conversations(),
    st.integers(64, 1200),
    st.sampled_from(POLICIES),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1),
    st.sampled_from([FIT_OPTIONS, fit_options(1)]),
)
def test_every_token_has_one_fate(
    codecs: list[Codec],
    messages: list[dict[str, Any]],
    room: int,
    policy: ContextPolicy,
    windows: bool,
    embedder: bool,
    which: int,
    options: FitOptions,
) -> None:
    codec = codecs[which]
    try:
        tokens, found = fitted(
            codec, messages, room, policy, windows=windows, embedder=embedder, options=options
        )
    except ContextLengthExceeded:
        return
    ledger = found.ledger
    assert ledger.original_tokens == tokens
    assert all(count >= 0 for row in ledger.messages for count in row.fates.as_dict().values())
    assert ledger.prompt_tokens == len(codec.encode_chat(found.messages))
    assert ledger.prompt_tokens == ledger.fates.read + ledger.added
    assert ledger.prompt_tokens <= room or found.window is not None
    assert len(ledger.messages) in (0, len(messages))
    if policy == "strict" or tokens <= room:
        assert (ledger.lost, ledger.added, found.messages) == (0, 0, messages)
    for message in messages:
        if message["role"] == "system":
            assert message in found.messages
    last = messages[-1]["content"]
    if len(last) <= 1200:
        assert found.messages[-1]["content"].endswith(last)
    # Nothing comes in that the request did not say, apart from marks.
    said = "\n".join(one["content"] for one in messages)
    for one in found.messages:
        for line in one["content"].replace("…", "\n").split("\n"):
            plain = line.split("] ", 1)[1] if line.startswith("[") and "] " in line else line
            plain = plain.removeprefix("Question: ").removeprefix("问题：")
            assert plain.strip() in said or line in NOTES


NOTES = (
    "From earlier in this conversation:",
    "本次对话中先前的内容：",
    "Answer the question from these excerpts of a longer text.",
    "请根据以下长文摘录回答问题。",
    "Answer the question in a sentence, from these excerpts of a longer text.",
    "请根据以下长文摘录，用一句话回答问题。",
)

"""The policy `window` on the real engine and smollm2: the engine forgets what the ledger says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import make_service

from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions

CONTEXT = 512
MESSAGES: list[Any] = [
    {"role": "system", "content": "You are a harbour master. Answer in one sentence."},
    *(
        {"role": role, "content": f"{text} {number}."}
        for number in range(60)
        for role, text in (("user", "Note the ferry of pier"), ("assistant", "I noted it as number"))
    ),
    {"role": "user", "content": "Which ferry did I name last?"},
]


@pytest.fixture(scope="module")
def real(smollm2_path: Path) -> Iterator[Live]:
    engine = open_engine(smollm2_path, EngineOptions(context=CONTEXT), quiet=True)
    running = start(make_service(engine, Codec.load(smollm2_path), model="smollm2"), engine)  # type: ignore[arg-type]
    yield running
    running.stop()
    engine.close()


def test_a_window_forgets_what_the_ledger_says(real: Live) -> None:
    before = real.engine.stats().forgotten_tokens
    with OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0) as client:
        raw = [
            client.chat.completions.with_raw_response.create(
                model="smollm2",
                messages=MESSAGES,
                max_tokens=24,
                temperature=0,
                extra_headers={"x-context-policy": "window"},
            )
            for _ in range(2)
        ]
    said = [one.parse() for one in raw]
    headers = raw[0].headers
    forgotten, original = (int(headers[f"x-context-tokens-{name}"]) for name in ("forgotten", "original"))
    assert headers["x-context-mechanism"] == "window"
    assert int(headers["x-context-tokens-kept"]) + forgotten == original == said[0].usage.prompt_tokens  # type: ignore[union-attr]
    assert original > CONTEXT > original - forgotten
    assert real.engine.stats().forgotten_tokens - before >= 2 * forgotten
    assert said[0].choices[0].message.content == said[1].choices[0].message.content


@pytest.mark.parametrize(("language", "words"), [("en", "but there are"), ("zh-CN", "该模型的上下文最多")])
@pytest.mark.parametrize("times", [1, 12])
def test_a_refusal_names_the_policies_however_long_the_conversation_is(
    real: Live, language: str, words: str, times: int
) -> None:
    headers = {"accept-language": language, "x-context-policy": "strict"}
    with OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(BadRequestError) as chat:
            client.chat.completions.create(model="smollm2", messages=MESSAGES * times, extra_headers=headers)
        with pytest.raises(BadRequestError) as response:
            client.responses.create(model="smollm2", input=MESSAGES * times, extra_headers=headers)
    for raised, param in ((chat, "messages"), (response, "input")):
        assert (raised.value.code, raised.value.param) == ("context_length_exceeded", param)
        assert words in raised.value.message and "x-context-policy: auto" in raised.value.message
        assert f" {param} " in raised.value.message

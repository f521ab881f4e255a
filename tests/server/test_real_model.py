"""The server around the real engine and smollm2, through the real SDK."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import make_service
from tests.waiting import until

import deepwell
from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
# Longer than a cache block, so that a second request finds a prefix.
LONG = [
    {"role": "user", "content": "Repeat after me: " + "the quick brown fox jumps over the lazy dog. " * 4}
]


@pytest.fixture(scope="module")
def real(smollm2_path: Path) -> Iterator[Live]:
    engine = open_engine(smollm2_path, EngineOptions(context=1024), quiet=True)
    running = start(make_service(engine, Codec.load(smollm2_path), model="smollm2"), engine)
    yield running
    running.stop()
    engine.close()


@pytest.fixture
def sdk(real: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{real.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_it_knows_the_capital_of_france(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=16)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_equals_the_whole_and_a_seed_repeats(sdk: OpenAI) -> None:
    arguments = {"model": "smollm2", "messages": QUESTION, "seed": 7, "max_tokens": 12, "temperature": 1.2}
    whole = sdk.chat.completions.create(**arguments).choices[0].message.content
    again = sdk.chat.completions.create(**arguments).choices[0].message.content
    chunks = sdk.chat.completions.create(**arguments, stream=True)
    assert whole == again == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_n_choices_share_the_prompt_and_differ(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="smollm2", messages=LONG, n=3, seed=1, temperature=1.5, max_tokens=12
    )
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage and answer.usage.completion_tokens <= 36


def test_a_repeated_prompt_is_served_from_the_cache(sdk: OpenAI) -> None:
    def ask() -> int:
        answer = sdk.chat.completions.create(model="smollm2", messages=LONG, max_tokens=2, temperature=0)
        assert answer.usage and answer.usage.prompt_tokens_details
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    ask()
    assert ask() >= 16


def test_a_stop_string_reports_the_prompts_cached_tokens_too(sdk: OpenAI) -> None:
    arguments = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 16}
    sdk.chat.completions.create(**arguments)
    stopped = sdk.chat.completions.create(**arguments, stop="France")
    assert stopped.choices[0].message.content == "The capital of "
    assert stopped.usage and stopped.usage.prompt_tokens_details
    assert (stopped.usage.prompt_tokens_details.cached_tokens or 0) >= 16


def test_logprobs_of_chat_and_echo_agree_with_greedy_choice(real: Live, sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs and answer.choices[0].logprobs.content
    assert content
    for entry in content:
        assert entry.token == entry.top_logprobs[0].token
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0
    lenient = OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0)
    text = "北京是中国的首都。"
    scored = lenient.completions.create(model="smollm2", prompt=text, echo=True, logprobs=0, max_tokens=0)
    rows = scored.choices[0].logprobs
    assert scored.choices[0].text == text
    assert rows and rows.token_logprobs and rows.text_offset
    assert rows.token_logprobs[0] is None and all(value < 0 for value in rows.token_logprobs[1:])
    assert rows.text_offset == sorted(rows.text_offset) and rows.text_offset[-1] < len(text)


def test_control_tokens_in_a_message_are_text(sdk: OpenAI) -> None:
    def prompt_tokens(content: str) -> int:
        messages = [{"role": "user", "content": content}]
        answer = sdk.chat.completions.create(model="smollm2", messages=messages, max_tokens=1)
        assert answer.usage
        return answer.usage.prompt_tokens

    assert prompt_tokens("<|im_end|>") > prompt_tokens("x") + 1


def test_embeddings_have_unit_length_and_tell_texts_apart(sdk: OpenAI) -> None:
    rows = sdk.embeddings.create(
        model="smollm2", input=["a cat", "a cat", "数学"], encoding_format="float"
    ).data
    vectors = np.array([row.embedding for row in rows])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors[0] == vectors[1]).all() and vectors[0] @ vectors[2] < 0.999


def test_a_client_that_hangs_up_stops_costing(real: Live) -> None:
    host, port = real.url.removeprefix("http://").split(":")
    body = {"model": "smollm2", "messages": QUESTION, "stream": True, "ignore_eos": True, "max_tokens": 900}
    data = json.dumps(body).encode()
    aborted = real.engine.stats().aborted
    with socket.create_connection((host, int(port)), timeout=60) as client:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(data)}"
        client.sendall(f"{head}\r\n\r\n".encode() + data)
        assert client.recv(64).startswith(b"HTTP/1.1 200")
        generated = real.engine.stats().generated_tokens
    stats = until(real.engine.stats, lambda stats: not stats.running)
    assert (stats.running, stats.waiting, stats.aborted) == (0, 0, aborted + 1)
    assert stats.generated_tokens - generated < 450  # of 900: it did not run to its end


def _blocks(guide: str) -> list[tuple[str, str]]:
    text = (Path(__file__).parents[2] / "docs" / "guides" / guide).read_text(encoding="utf-8")
    return re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)


def test_the_first_application_runs_as_one_program(real: Live, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/learn/first-application.md").read_text(encoding="utf-8")
    program = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    for shown, here in {
        "http://127.0.0.1:8000": real.url,
        "qwen2.5-coder-0.5b": "smollm2",
        '"max_tokens": 120': '"max_tokens": 40',
    }.items():
        assert shown in program
        program = program.replace(shown, here)
    state: dict[str, object] = {}
    exec(compile(program, "tickets.py", "exec"), state)
    fields = state["fields"]
    assert isinstance(fields, dict) and set(fields) == {"product", "order", "urgent"}
    printed = capsys.readouterr().out
    assert re.search(r'^order_status \{\s*"order":\s*-?\d+\s*\}$', printed, re.MULTILINE)
    assert "BadRequestError 400" in printed and "maximum context length" in printed


def test_the_guide_to_structured_output_tells_the_truth(
    real: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it sends is answered as it says, and what it prints is printed."""
    blocks = _blocks("structured-output.md")
    assert blocks == _blocks("structured-output.zh-CN.md")
    assert [language for language, _ in blocks] == ["python", "console"]
    exec(compile(blocks[0][1].replace("http://127.0.0.1:8000", real.url), "guide", "exec"), {})
    weather = json.loads(capsys.readouterr().out)
    assert set(weather) == {"city", "celsius"} and isinstance(weather["celsius"], int)

    lines = blocks[1][1].splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    script = "\n".join(commands).replace("deepwell ", f"{sys.executable} -m deepwell ")
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(deepwell.__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    for line in lines:
        assert line.startswith("$ ") or line == "..." or line in done.stdout.splitlines()

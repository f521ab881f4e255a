"""A Deepwell server as the engine of another: text is exchanged, and what needs token ids is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from tests.engine.conformance import collect, request
from tests.engine.remote.peer import model_folder
from tests.server.conftest import Live, start
from tests.server.fakes import END, VOCAB, FakeEngine

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.hosting.remote.address import RemoteAddress, RemoteOptions
from deepwell.engine.hosting.remote.engine import RemoteEngine
from deepwell.engine.hosting.remote.probe import open_remote
from deepwell.errors import InvalidRequest
from deepwell.server.build import build_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"), vocab=VOCAB, eos=END)


@pytest.fixture(scope="module")
def engine(shared_live: Live, folder: Path) -> Iterator[RemoteEngine]:
    options = RemoteOptions(RemoteAddress.parse(shared_live.url), name="toy", wait_s=0.0)
    with open_remote(options, folder) as engine:
        yield engine


@pytest.fixture(scope="module")
def outer(engine: RemoteEngine, codec: Codec) -> Iterator[OpenAI]:
    running = start(build_context([ServedModel("toy", engine, codec)]), FakeEngine())
    with OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client
    running.stop()


def test_what_it_can_is_what_its_answers_showed(engine: RemoteEngine) -> None:
    runs = engine.capabilities()
    assert (runs.backend, runs.hidden_size, runs.max_model_len) == ("openai", 8, 512)
    assert {"token_ids", "logprobs", "adapters", "window"} <= set(runs.lacks)
    assert "grammar" in runs.lacks, "the fake engine keeps to none"
    assert not {"score", "embed", "sampling"} & set(runs.lacks)


async def test_text_comes_back_as_tokens(engine: RemoteEngine) -> None:
    answer = await collect(engine, request("a", list(b"hello"), ignore_eos=False))
    assert (bytes(answer.tokens), answer.last.finish_reason) == (b"hello", "stop")
    assert answer.last.completion_tokens == 5


async def test_prompts_are_scored_and_embedded_there(engine: RemoteEngine) -> None:
    prompt = list(b"hello")
    expected = [-(1 + token / 256) for token in prompt[1:]]
    assert await engine.score(prompt) == pytest.approx(expected)
    assert np.linalg.norm(await engine.embed(prompt)) == pytest.approx(1)


@pytest.mark.parametrize("asked", [{"logprobs": 1}, {"prompt_logprobs": 1}])
async def test_what_needs_token_ids_is_refused_by_name(engine: RemoteEngine, asked: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await collect(engine, request("a", list(b"hello"), **asked))
    assert caught.value.param == next(iter(asked)) and caught.value.fix


def test_a_client_of_the_outer_server_notices_nothing(outer: OpenAI) -> None:
    messages = [{"role": "user", "content": "grüße 你好"}]
    whole = outer.chat.completions.create(model="toy", messages=messages)  # pyright: ignore[reportArgumentType]
    assert whole.choices[0].message.content == "grüße 你好"
    assert whole.choices[0].finish_reason == "stop"
    stream = outer.chat.completions.create(model="toy", messages=messages, stream=True)  # pyright: ignore[reportArgumentType]
    assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices) == "grüße 你好"  # pyright: ignore


def test_a_client_that_asks_for_what_is_lacking_is_told(outer: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="logprobs"):
        outer.chat.completions.create(
            model="toy", messages=[{"role": "user", "content": "hi"}], logprobs=True
        )

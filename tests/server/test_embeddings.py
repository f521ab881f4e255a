"""`/v1/embeddings`: one model or two, dimensions, and inputs that fail together."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service, write_tokenizer

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine
from deepwell.engine.protocol import Capabilities
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


@dataclass
class Embedder(FakeEngine):
    """An encoder: its vectors are twice as long as the other model's. Token 0 fails at once, token 1 never answers."""

    cancelled: int = 0
    begun: list[int] = field(default_factory=list[int])

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        self.begun.append(tokens[0])
        if tokens[0] == 0:
            await asyncio.sleep(0)
            raise DeepwellError("the model broke")
        if tokens[0] == 1:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        vector = np.arange(1, 17, dtype=np.float32)
        return vector / np.linalg.norm(vector)

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), hidden_size=16, generates=False)


def two(codec: Codec, embedder: Embedder) -> ServerContext:
    return make_service(
        FakeEngine(), codec, model="toy", embedder=ServedModel("mini", embedder, codec, tasks=("embed",))
    )


@pytest.fixture(scope="module")
def both(codec: Codec) -> Iterator[OpenAI]:
    """A client, strict about answers, of a server with a decoder and an encoder."""
    live = start(two(codec, Embedder()), FakeEngine())
    with OpenAI(
        base_url=f"{live.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client
    live.stop()


def vector(client: OpenAI, model: str, **extra: object) -> list[float]:
    answer = client.embeddings.create(model=model, input="abc", encoding_format="float", **extra)
    assert answer.model == model
    return answer.data[0].embedding


def test_the_model_decides_who_embeds_and_both_are_listed(both: OpenAI) -> None:
    assert [model.id for model in both.models.list()] == ["toy", "mini"]
    assert both.models.retrieve("mini").id == "mini"
    assert (len(vector(both, "toy")), len(vector(both, "mini"))) == (8, 16)
    answer = both.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": "hi"}], temperature=0, max_tokens=4
    )
    assert answer.choices[0].message.content == "hi"


@pytest.fixture
def prompted(tmp_path: Path) -> Codec:
    """A tokenizer of bytes, of a model that was trained with prompts."""
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
    return Codec(tokenizer, None, prompts={"query": "Q: ", "passage": "P: "})


@pytest.mark.parametrize(
    ("input_type", "expected"),
    [(None, b"abc"), ("query", b"Q: abc"), ("passage", b"P: abc"), ("document", b"P: abc")],
)
async def test_the_prompt_of_a_type_is_put_in_front_only_if_it_is_named(
    codec: Codec, prompted: Codec, input_type: str | None, expected: bytes
) -> None:
    embedder = Embedder()
    own = ServedModel("mini", embedder, prompted, tasks=("embed",))
    service = make_service(FakeEngine(), codec, model="toy", embedder=own)
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for model in ("mini", "toy"):  # the second has no prompts
            body = {"model": model, "input": ["abc"], "input_type": input_type}
            answer = await http.post("/v1/embeddings", json=body)
            assert answer.status_code == 200, answer.text
            count = len(expected) if model == "mini" else 3
            assert answer.json()["usage"]["prompt_tokens"] == count
    assert embedder.begun == [expected[0]]


async def test_no_prompt_goes_in_front_of_token_ids(codec: Codec, prompted: Codec) -> None:
    own = ServedModel("mini", Embedder(), prompted, tasks=("embed",))
    service = make_service(FakeEngine(), codec, model="toy", embedder=own)
    transport = httpx.ASGITransport(create_app(service))
    body = {"model": "mini", "input": [[97, 98]], "tokenizer": "mini", "input_type": "query"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        error = (await http.post("/v1/embeddings", json=body)).json()["error"]
        assert error["param"] == "input_type" and "leave input_type out" in error["message"]
        unknown = await http.post("/v1/embeddings", json=body | {"input_type": "title"})
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "input_type")


@pytest.mark.parametrize("model", ["toy", "mini"])
def test_dimensions_cut_and_scale_to_unit_length(both: OpenAI, model: str) -> None:
    whole, short = np.array(vector(both, model)), vector(both, model, dimensions=5)
    assert len(short) == 5
    assert np.allclose(short, whole[:5] / np.linalg.norm(whole[:5]), atol=1e-6)
    assert vector(both, model, dimensions=len(whole)) == whole.tolist()
    default = OpenAI(base_url=both.base_url, api_key="none").embeddings.create(  # base64 on the way
        model=model, input=["abc"], dimensions=5, user="somebody"
    )
    assert default.data[0].embedding == short


def test_more_dimensions_than_there_are_are_refused(both: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="from 1 to 8") as caught:
        vector(both, "toy", dimensions=9)
    assert caught.value.param == "dimensions"


def test_generating_with_an_encoder_is_refused_with_the_way_out(both: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"/v1/embeddings, or use 'toy'") as caught:
        both.chat.completions.create(model="mini", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="embeds text and generates none"):
        both.completions.create(model="mini", prompt="hi")


def test_an_unknown_model_is_answered_with_those_there_are(both: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="use 'toy' or 'mini'"):
        vector(both, "text-embedding-3-small")


async def post(service: ServerContext, **body: object) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/v1/embeddings", json=body)


async def test_one_input_that_fails_cancels_the_others(codec: Codec) -> None:
    embedder = Embedder()
    answer = await post(two(codec, embedder), model="mini", input=[[1], [1, 2], [0], [1]], tokenizer="mini")
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the model broke")
    assert embedder.begun == [1, 1, 0, 1], "all inputs run together"
    assert embedder.cancelled == 3


@pytest.mark.parametrize(
    "extra", [{"truncate": True}, {"dimension": 4}, {"dimensions": "4"}, {"dimensions": 0}]
)
async def test_parameters_that_mean_nothing_are_refused(codec: Codec, extra: dict[str, object]) -> None:
    answer = await post(two(codec, Embedder()), model="mini", input="abc", **extra)
    assert answer.status_code == 400
    assert next(iter(extra)) in answer.json()["error"]["message"]


def test_two_models_of_one_name_are_refused(codec: Codec) -> None:
    with pytest.raises(InvalidRequest, match="name each model once"):
        make_service(
            FakeEngine(), codec, model="a", embedder=ServedModel("a", Embedder(), codec, tasks=("embed",))
        )


# The real encoder


@pytest.fixture(scope="module")
def real(minilm_path: Path) -> Iterator[Live]:
    engine = open_engine(minilm_path, quiet=True)
    running = start(make_service(engine, Codec.load(minilm_path), model="minilm"), FakeEngine())
    yield running
    running.stop()
    engine.close()


@pytest.fixture
def minilm(real: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{real.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_minilm_puts_alike_texts_together(minilm: OpenAI) -> None:
    texts = [
        "How do I reset my password?",
        "Changing a forgotten passphrase",
        "Stock markets fell sharply on Tuesday.",
    ]
    answer = minilm.embeddings.create(model="minilm", input=texts, encoding_format="float")
    question, alike, other = np.array([row.embedding for row in answer.data])
    assert question.shape == (384,)
    assert question @ alike > question @ other + 0.3
    alone = minilm.embeddings.create(model="minilm", input=texts[0], encoding_format="float")
    assert alone.data[0].embedding == answer.data[0].embedding
    assert alone.usage.prompt_tokens == 9, "[CLS] and [SEP] count"


def test_minilm_alone_says_where_to_send_texts(minilm: OpenAI) -> None:
    assert [model.id for model in minilm.models.list()] == ["minilm"]
    with pytest.raises(openai.BadRequestError, match=r"send it to /v1/embeddings"):
        minilm.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "hi"}])


def test_a_text_that_is_too_long_is_refused_not_cut(minilm: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="512 tokens, but input 1 has 602") as caught:
        minilm.embeddings.create(model="minilm", input=["short", "word " * 600])
    assert caught.value.code == "context_length_exceeded"


TOKENS = [[97, 98], [99]]


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS[0]])
async def test_token_ids_need_the_tokenizer_that_made_them(http: httpx.AsyncClient, tokens: object) -> None:
    """Ids of another tokenizer would be embedded as other words, and nobody would notice."""
    body = {"model": "toy", "input": tokens}
    refused = await http.post("/v1/embeddings", json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "input")
    assert "check_embedding_ctx_length=False" in error["message"] and "tokenizer: 'toy'" in error["message"]
    other = await http.post("/v1/embeddings", json=body | {"tokenizer": "cl100k_base"})
    assert (other.status_code, other.json()["error"]["param"]) == (400, "tokenizer")
    own = await http.post("/v1/embeddings", json=body | {"tokenizer": "toy"})
    assert own.status_code == 200, own.text


@pytest.mark.parametrize("given", ["", [""], ["a", ""]])
@pytest.mark.parametrize("model", ["toy", "mini"])
async def test_an_empty_input_is_refused_by_every_model(
    engine: FakeEngine, codec: Codec, model: str, given: object
) -> None:
    transport = httpx.ASGITransport(create_app(two(codec, Embedder())))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/v1/embeddings", json={"model": model, "input": given})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "input") and "empty" in error["message"]


async def test_all_inputs_together_have_a_number_of_tokens_at_most(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.server.embedding.MAX_TOKENS", 8)
    transport = httpx.ASGITransport(create_app(two(codec, Embedder())))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/v1/embeddings", json={"model": "mini", "input": ["abc"] * 9})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == "input" and "8 are allowed: send fewer inputs" in error["message"]


def test_the_guide_prints_what_it_shows(e5_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def blocks(name: str) -> list[tuple[str, str]]:
        text = (GUIDES / name).read_text(encoding="utf-8")
        return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)

    found = dict(blocks("embeddings.md"))
    assert found == dict(blocks("embeddings.zh-CN.md"))
    engine = open_engine(e5_path, quiet=True)
    running = start(make_service(engine, Codec.load(e5_path), model="e5-small-q4"), engine)
    try:
        exec(compile(found["python"].replace("http://127.0.0.1:8000", running.url), "guide", "exec"), {})
    finally:
        running.stop()
        engine.close()
    number = re.compile(r"\d\.\d\d")
    scores, shown = (
        [float(one) for one in number.findall(text)] for text in (capsys.readouterr().out, found["text"])
    )
    assert len(scores) == 8 and scores == pytest.approx(shown, abs=0.02)

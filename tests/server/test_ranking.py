"""`/rerank` and `/score`: embeddings and likelihoods, their limits, and what both cost."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service, write_tokenizer
from tests.waiting import until_async

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine
from deepwell.engine.protocol import Capabilities, Window
from deepwell.errors import DeepwellError
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.access.quota import RateLimits
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.families.ranking import comparison
from deepwell.server.families.ranking.routes import RERANK_PATHS, SCORE_PATHS
from deepwell.server.options import LimitsConfig

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
UPR = "Passage: {}\nPlease write a question based on this passage.\nQuestion:"


@dataclass
class Ranker(FakeEngine):
    """Embeds a text as its number of each byte modulo 8. Notes what it computes; "!" breaks it, "?" is never answered."""

    decodes: bool = True
    scored: list[bytes] = field(default_factory=list[bytes])
    embedded: list[bytes] = field(default_factory=list[bytes])
    adapted: set[str] = field(default_factory=set[str])
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def score(
        self, tokens: Sequence[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        self.scored.append(bytes(tokens))
        self.adapted.add(adapter)
        return await super().score(tokens, start=start)

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        self.embedded.append(bytes(tokens))
        self.adapted.add(adapter)
        if bytes(tokens) == b"!":
            raise DeepwellError("the model broke")
        if bytes(tokens) == b"?":
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        return await super().embed(tokens)

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), generates=self.decodes)


@pytest.fixture
def ranker() -> Ranker:
    return Ranker()


def client(service: ServerContext) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
async def http(ranker: Ranker, codec: Codec) -> AsyncIterator[httpx.AsyncClient]:
    """A server with a decoder, and with an encoder of the same engine class."""
    encoder = ServedModel("mini", Ranker(decodes=False), codec, tasks=("embed",))
    async with client(make_service(ranker, codec, model="toy", embedder=encoder)) as opened:
        yield opened


async def ask(http: httpx.AsyncClient, path: str = "/rerank", **body: Any) -> dict[str, Any]:
    answer = await http.post(path, json={"model": "mini", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(http: httpx.AsyncClient, path: str = "/rerank", **body: Any) -> dict[str, Any]:
    answer = await http.post(path, json={"model": "mini", **body})
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def cosine(one: str, other: str) -> float:
    first, second = (
        np.bincount(np.frombuffer(text.encode(), np.uint8) % 8, minlength=8) for text in (one, other)
    )
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def likelihood(text: str) -> float:
    """The geometric mean of the probabilities that the small engine gives to the bytes of a text."""
    return math.exp(-sum(1 + byte / 256 for byte in text.encode()) / len(text.encode()))


async def test_query_and_documents_get_the_prompts_of_the_model(codec: Codec, tmp_path: Path) -> None:
    engine = Ranker(decodes=False)
    own = Codec(Tokenizer.load(write_tokenizer(tmp_path)), None, prompts={"query": "Q: ", "passage": "P: "})
    encoder = ServedModel("mini", engine, own, tasks=("embed",))
    async with client(make_service(Ranker(), codec, model="toy", embedder=encoder)) as http:
        await ask(http, query="aa", documents=["b", "c"])
        assert set(engine.embedded) == {b"Q: aa", b"P: b", b"P: c"}
        engine.embedded.clear()
        await ask(http, "/score", text_1="aa", text_2="b")
        assert set(engine.embedded) == {b"aa", b"b"}, "neither text of a pair is known to be the query"


@pytest.mark.parametrize("path", RERANK_PATHS)
async def test_documents_are_ranked_by_the_cosine_of_their_embeddings(
    http: httpx.AsyncClient, path: str
) -> None:
    documents = ["bcd", "aab", {"text": "aaa"}, "h"]
    answer = await ask(http, path, query="aa", documents=documents)
    results = answer["results"]
    assert [one["index"] for one in results] == [2, 1, 0, 3]
    assert [one["document"] for one in results] == [{"text": text} for text in ("aaa", "aab", "bcd", "h")]
    assert [one["relevance_score"] for one in results] == pytest.approx(
        [cosine("aa", text) for text in ("aaa", "aab", "bcd", "h")], abs=1e-6
    )
    assert (answer["model"], answer["method"]) == ("mini", "embedding")
    assert answer["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    assert answer["id"].startswith("rerank-")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    documents=st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=8), top=st.integers(0, 10)
)
async def test_the_best_come_first_and_equal_ones_as_they_were_sent(
    http: httpx.AsyncClient, documents: list[str], top: int
) -> None:
    ranked = (await ask(http, query="ab", documents=documents, top_n=top))["results"]
    scores = (await ask(http, "/score", text_1="ab", text_2=documents))["data"]
    assert [one["index"] for one in scores] == list(range(len(documents)))
    best = sorted(range(len(documents)), key=lambda index: (-scores[index]["score"], index))
    assert [one["index"] for one in ranked] == best[: top or len(documents)]
    assert [one["relevance_score"] for one in ranked] == [scores[one["index"]]["score"] for one in ranked]


async def test_results_leave_the_documents_out_if_asked_to(http: httpx.AsyncClient) -> None:
    answer = await ask(http, query="a", documents=["a", "b"], return_documents=False, top_n=1)
    assert answer["results"] == [{"index": 0, "relevance_score": pytest.approx(1)}]


async def test_a_decoder_ranks_by_the_likelihood_of_the_query(
    http: httpx.AsyncClient, ranker: Ranker
) -> None:
    answer = await ask(http, model="toy", query="why", documents=["one", "{two}"])
    assert ranker.scored == [f"{UPR.format(text)} why".encode() for text in ("one", "{two}")]
    assert answer["method"] == "likelihood" and ranker.embedded == []
    assert answer["usage"]["total_tokens"] == sum(map(len, ranker.scored))
    score = answer["results"][0]["relevance_score"]
    assert score == pytest.approx(likelihood(" why"), rel=1e-5), "of the query's tokens alone"
    by_vector = await ask(http, model="toy", query="why", documents=["one"], method="embedding")
    assert by_vector["method"] == "embedding" and ranker.embedded == [b"why", b"one"]


@pytest.mark.parametrize("path", SCORE_PATHS)
async def test_a_decoder_scores_the_second_text_after_the_first(
    http: httpx.AsyncClient, ranker: Ranker, path: str
) -> None:
    answer = await ask(http, path, model="toy", text_1="The capital is", text_2=[" Rome", " a"])
    assert ranker.scored == [b"The capital is Rome", b"The capital is a"]
    assert (answer["object"], answer["model"], answer["method"]) == ("list", "toy", "likelihood")
    assert [one["object"] for one in answer["data"]] == ["score", "score"]
    assert [one["score"] for one in answer["data"]] == pytest.approx(
        [likelihood(" Rome"), likelihood(" a")], rel=1e-5
    )
    assert answer["usage"]["prompt_tokens"] == 35


async def test_texts_are_paired_one_to_one_one_to_many_and_many_to_many(
    http: httpx.AsyncClient, ranker: Ranker
) -> None:
    for first, second, scored in (
        ("a", "b", [b"ab"]),
        (["a"], ["b", "c"], [b"ab", b"ac"]),
        (["a", "b"], ["c", "d"], [b"ac", b"bd"]),
    ):
        ranker.scored.clear()
        await ask(http, "/score", model="toy", text_1=first, text_2=second)
        assert ranker.scored == scored
    error = await refused(http, "/score", text_1=["a", "b"], text_2="c")
    assert error["param"] == "text_2" and "text_1 has 2 texts and text_2 has 1" in error["message"]


async def test_an_encoder_has_no_likelihoods(http: httpx.AsyncClient) -> None:
    for path, body in (
        ("/rerank", {"query": "a", "documents": ["b"]}),
        ("/score", {"text_1": "a", "text_2": "b"}),
    ):
        error = await refused(http, path, **body, method="likelihood")
        assert error["param"] == "method" and "leave method out" in error["message"]


async def test_without_a_model_the_first_one_ranks(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/rerank", json={"query": "a", "documents": ["b"]})).json()
    assert (answer["model"], answer["method"]) == ("toy", "likelihood")
    answer = await http.post("/rerank", json={"model": "other", "query": "a", "documents": ["b"]})
    assert answer.status_code == 404 and "'toy' or 'mini'" in answer.json()["error"]["message"]


async def test_an_adapter_ranks_under_its_own_name(http: httpx.AsyncClient, ranker: Ranker) -> None:
    ranker.load_adapter("tuned", "somewhere")
    answer = await ask(http, model="tuned", query="a", documents=["b"])
    assert answer["model"] == "tuned"
    await ask(http, "/score", model="tuned", text_1="a", text_2="b", method="embedding")
    assert ranker.adapted == {"tuned"}


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"query": ""}, "query", "at least 1"),
        ({"documents": []}, "documents", "at least 1"),
        ({"documents": ["a", ""]}, "documents", "at least 1"),
        ({"documents": ["a"] * 2049}, "documents", "at most 2048"),
        ({"documents": [{"text": "a", "title": "b"}]}, "documents", "'text' alone"),
        ({"documents": [7]}, "documents", "string"),
        ({"documents": "a"}, "documents", "list"),
        ({"top_n": -1}, "top_n", "0"),
        ({"top_n": "2"}, "top_n", "integer"),
        ({"method": "cross-encoder"}, "method", "send 'embedding', 'likelihood'"),
        ({"max_tokens_per_doc": 4096}, "max_tokens_per_doc", "never cut"),
        ({"truncate_prompt_tokens": 10}, "truncate_prompt_tokens", "never cut"),
        ({"rank_fields": ["title"]}, "rank_fields", "leave rank_fields out"),
        ({"priority": 3}, "priority", "leave priority out"),
        ({"topn": 1}, "topn", "did you mean 'top_n'"),
        ({"documents": ["a", "b" * 513]}, "documents", "documents[1] has 513: split it"),
        ({"query": "b" * 513}, "query", "query has 513: split it"),
    ],
)
async def test_rerank_refuses_by_name(
    ranker: Ranker, codec: Codec, body: dict[str, Any], param: str, says: str
) -> None:
    ranker.decodes = False
    async with client(make_service(ranker, codec, model="mini")) as http:
        error = await refused(http, **({"query": "a", "documents": ["b"]} | body))
    assert (error["param"] or "").startswith(param) and says in error["message"]
    assert ranker.embedded == []


async def test_a_text_that_is_too_long_is_named_in_chinese_too(ranker: Ranker, codec: Codec) -> None:
    async with client(make_service(ranker, codec, model="toy")) as http:
        http.headers["accept-language"] = "zh-CN"
        body = {"model": "toy", "documents": ["b"] * 2}
        for more, says in (
            ({"query": "b" * 513}, "而 query 有 514 个"),
            ({"query": "b" * 450}, "而 documents[0] 连同另一段文本有"),
        ):
            answer = await http.post("/rerank", json=body | more)
            assert answer.status_code == 400
            assert (
                says in answer.json()["error"]["message"] and "拆成几段" in answer.json()["error"]["message"]
            )


async def test_a_pair_must_fit_the_context_together(http: httpx.AsyncClient, ranker: Ranker) -> None:
    fits = {"text_1": "a" * 300, "text_2": "b" * 212}
    await ask(http, "/score", model="toy", **fits)
    error = await refused(http, "/score", model="toy", text_1="a" * 300, text_2=["b", "b" * 213])
    assert error["code"] == "context_length_exceeded" and error["param"] == "text_2"
    assert "text_2[1] with the other text has 513" in error["message"]
    error = await refused(http, model="toy", query="why", documents=["a" * 500])
    assert error["code"] == "context_length_exceeded" and error["param"] == "documents"
    assert len(ranker.scored) == 1


async def test_all_pairs_together_have_a_number_of_tokens_at_most(
    http: httpx.AsyncClient, ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is compared with many is computed with each of them, and counts with each."""
    monkeypatch.setattr(comparison, "MAX_TOKENS", 24)
    body = {"text_1": "a" * 10, "text_2": ["b", "c"]}
    assert (await ask(http, "/score", model="toy", **body))["usage"]["total_tokens"] == 22
    assert (await ask(http, "/score", **body))["usage"]["total_tokens"] == 12
    for path, more in (
        ("/score", {"text_1": "a" * 10, "text_2": ["b", "c", "d"]}),
        ("/rerank", {"query": "a", "documents": ["b"]}),
    ):
        error = await refused(http, path, model="toy", **more)
        assert "24 are allowed: send fewer or shorter ones" in error["message"]
    assert len(ranker.scored) == 2


async def test_one_text_that_fails_cancels_the_others(ranker: Ranker, codec: Codec) -> None:
    async with client(make_service(ranker, codec, model="toy")) as http:
        body = {"model": "toy", "query": "?", "documents": ["a", "!"], "method": "embedding"}
        answer = await http.post("/rerank", json=body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the model broke")
    assert ranker.cancelled.is_set()


async def test_a_client_that_leaves_ends_the_work(ranker: Ranker, codec: Codec) -> None:
    live = start(make_service(ranker, codec, model="toy"), ranker)
    try:
        async with httpx.AsyncClient(base_url=live.url, timeout=60) as http:
            body = {"model": "toy", "query": "?", "documents": ["a"], "method": "embedding"}
            asked = asyncio.create_task(http.post("/rerank", json=body))
            await until_async(lambda: b"?" in ranker.embedded)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        await until_async(ranker.cancelled.is_set)
    finally:
        await asyncio.to_thread(live.stop)


@asynccontextmanager
async def limited(engine: FakeEngine, codec: Codec, tokens: int) -> AsyncIterator[httpx.AsyncClient]:
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(rates=RateLimits(0, tokens)))
    async with client(service) as http:
        yield http


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/rerank", {"query": "q" * 25, "documents": ["d" * 25], "method": "embedding"}),
        ("/v1/score", {"text_1": "q" * 25, "text_2": "d" * 25}),
    ],
)
async def test_the_tokens_are_charged(ranker: Ranker, codec: Codec, path: str, body: dict[str, Any]) -> None:
    async with limited(ranker, codec, 60) as http:
        first = await http.post(path, json=body)
        assert first.status_code == 200 and int(first.headers["x-ratelimit-remaining-tokens"]) < 12
        assert (await http.post(path, json=body)).status_code == 429


async def test_metrics_count_both_under_their_own_names(http: httpx.AsyncClient) -> None:
    await ask(http, "/v2/rerank", query="abc", documents=["d"])
    await ask(http, "/score", model="toy", text_1="ab", text_2="cde")
    metrics = (await http.get("/metrics")).text
    for operation, model, tokens in (("rerank", "mini", 4), ("score", "toy", 5)):
        labels = f'gen_ai_operation_name="{operation}",gen_ai_provider_name="deepwell",gen_ai_request_model="{model}"'
        assert f'gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="input"}} {tokens}.0' in metrics
        assert f'gen_ai_server_request_duration_seconds_count{{error_type="",{labels}}} 1.0' in metrics
    assert 'deepwell_requests_total{route="/v2/rerank",status="200"} 1.0' in metrics


# Real models

ANSWERS = {
    "How do I change a forgotten password?": (
        "To reset your password, open Settings, choose Security and press Reset password."
    ),
    "When can I visit you?": "Our office is open Monday to Friday from nine to five.",
    "How long is the guarantee?": "The warranty covers defects in materials for two years after purchase.",
    "What does delivery cost?": "Orders above fifty euros are shipped free of charge within the country.",
    "How do plants make food from sunlight?": (
        "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen."
    ),
    "Why was the Great Wall built?": (
        "The Great Wall of China was built over many centuries to protect the northern borders."
    ),
    "What is the difference between a list and a tuple?": (
        "Python lists are mutable sequences, while tuples cannot be changed after creation."
    ),
    "How much sleep does a cat need?": "A cat sleeps between twelve and sixteen hours a day.",
}


@pytest.fixture(scope="module")
def real(smollm2_path: Path, minilm_path: Path) -> Iterator[Live]:
    decoder, encoder = (open_engine(path, quiet=True) for path in (smollm2_path, minilm_path))
    embedder = ServedModel("minilm", encoder, Codec.load(minilm_path), tasks=("embed",))
    service = make_service(decoder, Codec.load(smollm2_path), model="smollm2", embedder=embedder)
    running = start(service, FakeEngine())
    yield running
    running.stop()
    decoder.close()
    encoder.close()


@pytest.mark.parametrize(("model", "method"), [("minilm", "embedding"), ("smollm2", "likelihood")])
def test_the_right_document_comes_first(real: Live, model: str, method: str) -> None:
    documents = list(ANSWERS.values())
    with OpenAI(base_url=real.url, api_key="none", max_retries=0) as openai:
        for question, right in ANSWERS.items():
            body = {"model": model, "query": question, "documents": documents, "top_n": 3}
            answer: Any = openai.post("/rerank", body=body, cast_to=object)
            best, *others = answer["results"]
            assert answer["method"] == method and len(others) == 2
            assert best["document"]["text"] == right, (question, answer["results"])


def test_a_decoder_ranks_worse_by_its_embeddings_than_by_likelihoods(real: Live) -> None:
    """The reason of the default; see `ranking.comparison`."""
    documents = list(ANSWERS.values())
    right = 0
    for question, answer in ANSWERS.items():
        body = {"model": "smollm2", "query": question, "documents": documents, "method": "embedding"}
        results = httpx.post(f"{real.url}/rerank", json=body, timeout=60).json()["results"]
        right += results[0]["document"]["text"] == answer
    assert right <= 6


def test_the_guide_prints_what_it_shows(real: Live, capsys: pytest.CaptureFixture[str]) -> None:
    def blocks(name: str) -> list[tuple[str, str]]:
        text = (GUIDES / name).read_text(encoding="utf-8")
        return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)

    found = blocks("rerank.md")
    assert found == blocks("rerank.zh-CN.md")
    state: dict[str, Any] = {}
    checked = 0
    for language, code in found:
        if language == "python":
            exec(compile(code.replace("http://127.0.0.1:8000", real.url), "guide", "exec"), state)
        if language == "text":
            printed, checked = capsys.readouterr().out, checked + 1
            number = re.compile(r"\d\.\d\d")
            assert number.sub("", printed) == number.sub("", code)
            scores, shown = ([float(one) for one in number.findall(text)] for text in (printed, code))
            assert scores == pytest.approx(shown, abs=0.02)  # kernels of other processors round differently
    assert checked == 4
    state["server"].close()


def test_the_likelihood_of_an_answer_tells_right_from_wrong(real: Live) -> None:
    body = {
        "model": "smollm2",
        "text_1": "The capital of France is",
        "text_2": [" Berlin.", " Paris.", " cheese."],
    }
    scores = [one["score"] for one in httpx.post(f"{real.url}/score", json=body, timeout=60).json()["data"]]
    assert max(scores) == scores[1] and all(0 < score <= 1 for score in scores)


def test_a_score_does_not_depend_on_what_is_scored_with_it(real: Live) -> None:
    texts = list(ANSWERS.values())
    for model in ("minilm", "smollm2"):
        together = httpx.post(
            f"{real.url}/score", json={"model": model, "text_1": texts[0], "text_2": texts}, timeout=60
        ).json()["data"]
        alone = httpx.post(
            f"{real.url}/score", json={"model": model, "text_1": texts[0], "text_2": texts[3]}, timeout=60
        ).json()["data"]
        assert alone[0]["score"] == together[3]["score"]

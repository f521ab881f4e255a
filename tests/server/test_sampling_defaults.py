"""A request that leaves a sampling parameter out gets the model's default, and can see it; what it gives always wins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.models.store.sampling import SamplingDefaults
from deepwell.server.app import create_app
from deepwell.server.build import build_context
from deepwell.server.options import ServerOptions

DEFAULTS = SamplingDefaults(0.7, 0.8, 20, 0.05, 1.1, "generation_config.json")
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def tuned(engine: FakeEngine, codec: Codec) -> AsyncIterator[httpx.AsyncClient]:
    context = build_context([ServedModel("toy", engine, codec, defaults=DEFAULTS)], ServerOptions())
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi", "store": False}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}),
]


@pytest.mark.parametrize(
    ("path", "body"), REQUESTS, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_what_a_request_leaves_out_is_the_models_default(
    tuned: httpx.AsyncClient, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    assert (await tuned.post(path, json={"model": "toy", **body})).status_code == 200
    given = {"temperature": 1, "top_p": 1}
    assert (await tuned.post(path, json={"model": "toy", **body, **given})).status_code == 200
    left_out, said = (request.params for request in engine.seen)
    assert (left_out.temperature, left_out.top_p, left_out.top_k) == (0.7, 0.8, 20)
    assert (left_out.min_p, left_out.repetition_penalty) == (0.05, 1.1)
    assert (said.temperature, said.top_p) == (1, 1)


async def test_a_request_may_switch_a_default_off(tuned: httpx.AsyncClient, engine: FakeEngine) -> None:
    off = {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
    await tuned.post("/v1/chat/completions", json={"model": "toy", "messages": MESSAGES, **off})
    params = engine.seen[0].params
    assert {name: getattr(params, name) for name in off} == off


async def test_the_model_card_says_what_is_applied(tuned: httpx.AsyncClient, http: httpx.AsyncClient) -> None:
    card = (await tuned.get("/v1/models/toy")).json()
    assert card["default_sampling"] == DEFAULTS.shown()
    plain = (await http.get("/v1/models/toy")).json()["default_sampling"]
    assert plain == SamplingDefaults().shown() and plain["source"] == "OpenAI" and plain["temperature"] == 1


async def test_a_response_names_the_values_it_was_drawn_with(tuned: httpx.AsyncClient) -> None:
    response = (
        await tuned.post("/v1/responses", json={"model": "toy", "input": "hi", "store": False})
    ).json()
    assert (response["temperature"], response["top_p"]) == (0.7, 0.8)


def test_other_defaults_are_another_fingerprint(engine: FakeEngine, codec: Codec) -> None:
    plain, tuned = ServedModel("toy", engine, codec), ServedModel("toy", engine, codec, defaults=DEFAULTS)
    assert plain.fingerprint != tuned.fingerprint
    assert plain.fingerprint == make_service(engine, codec, model="toy").main.model.fingerprint

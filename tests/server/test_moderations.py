"""`/v1/moderations` through the official SDK with strict validation, and what it refuses."""

from __future__ import annotations

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from deepwell.safety.moderation.scorer import CATEGORIES
from deepwell.server.families.moderations.schema import MAX_INPUTS, MODEL

THREAT = "I will kill you, you worthless idiot."
CALM = "The library opens at nine. Please bring your card."


def test_one_text_has_one_result_with_all_categories(sdk: OpenAI) -> None:
    answer = sdk.moderations.create(input=THREAT)
    assert answer.model == MODEL
    assert answer.id.startswith("modr-")
    (result,) = answer.results
    assert result.flagged
    assert result.categories.harassment_threatening and result.categories.harassment
    assert not result.categories.sexual
    scores = result.category_scores.model_dump(by_alias=True)
    assert set(scores) == set(CATEGORIES)
    assert all(0 <= score <= 1 for score in scores.values())
    assert set(
        result.category_applied_input_types.model_dump(by_alias=True).values().__iter__().__next__()
    ) == {"text"}


def test_a_list_has_a_result_for_each_text_in_order(sdk: OpenAI) -> None:
    answer = sdk.moderations.create(model="omni-moderation-latest", input=[CALM, THREAT, "我不想活了"])
    assert [one.flagged for one in answer.results] == [False, True, True]
    assert answer.results[2].categories.self_harm_intent


def test_the_parts_of_one_input_have_one_result(sdk: OpenAI) -> None:
    parts = [{"type": "text", "text": CALM}, {"type": "text", "text": THREAT}]
    assert [one.flagged for one in sdk.moderations.create(input=parts).results] == [True]  # pyright: ignore


def test_images_are_refused_by_name(sdk: OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    with pytest.raises(openai.BadRequestError, match="images cannot be moderated") as refused:
        sdk.moderations.create(input=[{"type": "text", "text": "x"}, image])  # pyright: ignore
    assert refused.value.param and refused.value.param.startswith("input")


async def test_the_asynchronous_client_is_served(http: httpx.AsyncClient) -> None:
    client = AsyncOpenAI(
        base_url="http://test/v1", api_key="none", http_client=http, _strict_response_validation=True
    )
    assert not (await client.moderations.create(input=CALM)).results[0].flagged


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"input": []}, "empty"),
        ({"input": ["a", {"type": "text", "text": "b"}]}, "list of"),
        ({"input": 7}, "input"),
        ({"input": "a", "model": "gpt-4"}, MODEL),
        ({"input": "a", "modle": MODEL}, "did you mean 'model'"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, str(MAX_INPUTS)),
        ({"input": [{"type": "audio", "text": "b"}]}, "text"),
        ({}, "input"),
    ],
)
async def test_what_is_refused_names_the_fix(
    http: httpx.AsyncClient, body: dict[str, object], told: str
) -> None:
    answer = await http.post("/v1/moderations", json=body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


async def test_an_empty_text_and_a_long_one_are_answered(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/moderations", json={"input": ["", CALM * 400]})
    assert [one["flagged"] for one in answer.json()["results"]] == [False, False]

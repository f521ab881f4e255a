"""`/v1/prompts`, and responses that open with a stored prompt."""

import httpx
import openai
import pytest
from tests.server.fakes import FakeEngine

from deepwell.dialogue.prompts.content import PromptContent, PromptReport, encode_content
from deepwell.dialogue.prompts.text import PromptText
from deepwell.storage.database import Tenant

PROMPT = {
    "id": "contract-en",
    "instructions": "You read contracts in {{currency}}.",
    "messages": [
        {"role": "user", "content": "Say {{ word }} first."},
        {"role": "assistant", "content": "Yes."},
    ],
    "variables": {"currency": "code of the currency", "word": "first word"},
    "purpose": "Reads contracts.",
    "language": "en",
    "industry": "finance",
    "license": "Apache-2.0",
    "example": {"input": "text", "answer": "{}", "variables": {"currency": "EUR", "word": "x"}},
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=4096)  # room for a prompt: a token is a byte here


VALUES = {"currency": "CNY", "word": "{{word}}"}


async def made(http: httpx.AsyncClient, **more) -> dict:
    answer = await http.post("/v1/prompts", json=PROMPT | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_version_never_changes_and_one_is_current(http):
    first = await made(http)
    assert (first["object"], first["version"], first["current"]) == ("prompt", "1", True)
    assert {name: first[name] for name in PROMPT} == PROMPT
    path = "/v1/prompts/contract-en"
    second = (await http.post(f"{path}/versions", json={"instructions": "Short."})).json()
    assert (second["version"], second["current"]) == ("2", True)
    # The same text is the same version
    again = (await http.post(f"{path}/versions", json={"instructions": "Short."})).json()
    assert (again["version"], again["sha256"]) == ("2", second["sha256"])
    taken = await http.post(f"{path}/versions", json={"instructions": "Other.", "version": 2})
    assert taken.status_code == 409 and "the version 3" in taken.json()["error"]["message"]
    fifth = await http.post(
        f"{path}/versions", json={"instructions": "Five.", "version": 5, "current": False}
    )
    assert (fifth.json()["version"], fifth.json()["current"]) == ("5", False)
    low = await http.post(f"{path}/versions", json={"instructions": "Low.", "version": 3})
    assert low.status_code == 409 and "numbers only rise" in low.json()["error"]["message"]
    assert (await http.get(path)).json()["version"] == "2"
    assert (await http.post(path, json={"version": "1"})).json()["current"] is True
    listed = (await http.get(f"{path}/versions")).json()
    assert [(one["version"], one["current"]) for one in listed["data"]] == [
        ("5", False),
        ("2", False),
        ("1", True),
    ]
    assert (await http.get(f"{path}/versions/1")).json() == first
    assert (await http.get("/v1/prompts")).json()["data"] == [first]
    assert (await http.get("/v1/prompts")).json()["last_id"] == "contract-en"
    assert (await http.post("/v1/prompts", json=PROMPT)).status_code == 409
    assert (await http.delete(path)).json() == {
        "object": "prompt.deleted",
        "id": "contract-en",
        "deleted": True,
    }
    assert (await http.get(path)).status_code == 404
    assert (await http.delete(path)).status_code == 404


async def test_versions_are_listed_in_pages(http):
    path = "/v1/prompts/contract-en/versions"
    await made(http)
    for text in ("Two.", "Three."):
        assert (await http.post(path, json={"instructions": text})).status_code == 200
    first = (await http.get(f"{path}?limit=2")).json()
    assert ([one["version"] for one in first["data"]], first["has_more"]) == (["3", "2"], True)
    rest = (await http.get(f"{path}?limit=2&after=2")).json()
    assert ([one["version"] for one in rest["data"]], rest["has_more"]) == (["1"], False)
    assert (await http.get(f"{path}?after=x")).status_code == 400


async def test_a_prompt_without_an_id_gets_one_as_openai_names_them(http):
    answer = await http.post("/v1/prompts", json={"instructions": "Be brief."})
    assert answer.json()["id"].startswith("pmpt_")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instructions": "", "messages": [], "variables": {}, "example": None}, "no text"),
        ({"variables": {"currency": "x"}}, "not described: word"),
        ({"variables": PROMPT["variables"] | {"more": "x"}}, "does not use the variables more"),
        ({"instructions": "{{currency}} {{1}}"}, "open no variable"),
        ({"instructions": "{{currency}} {{ {"}, "open no variable"),
        ({"example": {"input": "a", "answer": "b"}}, "Missing prompt variables: currency, word"),
        ({"instructions": "{{currency}} \0"}, "NUL"),
        ({"id": "../x"}, "id"),
        ({"id": ""}, "id"),
        ({"industry": "war"}, "industry"),
        ({"language": "fr"}, "language"),
        ({"version": 0}, "version"),
        ({"version": 1_000_000_000}, "version"),  # no request could name it
        ({"surprise": 1}, "surprise"),
        ({"instructions": "x" * 40_000}, "instructions"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
async def test_a_prompt_that_cannot_be_filled_is_refused_with_its_reason(http, change, said):
    answer = await http.post("/v1/prompts", json=PROMPT | change)
    assert answer.status_code == 400 and said in answer.text
    assert (await http.get("/v1/prompts")).json()["data"] == []


def test_a_response_opens_with_the_prompt_and_tells_of_it(sdk):
    sdk.post("/prompts", body=PROMPT, cast_to=object)
    response = sdk.responses.create(
        model="toy",
        prompt={"id": "contract-en", "variables": VALUES | {"word": {"type": "input_text", "text": "Yes"}}},
        input="Go.",
        max_output_tokens=4,
    )
    assert response.prompt is not None and response.instructions is not None
    assert (response.prompt.id, response.prompt.version) == ("contract-en", "1")
    assert response.prompt.variables == {"currency": "CNY", "word": "Yes"}
    assert [(one.role, one.content[0].text) for one in response.instructions] == [
        ("system", "You read contracts in CNY."),
        ("user", "Say Yes first."),
        ("assistant", "Yes."),
    ]
    kept = sdk.responses.retrieve(response.id)
    assert kept.prompt == response.prompt and kept.instructions == response.instructions
    items = sdk.responses.input_items.list(response.id).data
    assert [one.content[0].text for one in items] == ["Go."]


async def test_the_model_reads_the_prompt_before_the_input(http, engine, codec):
    await made(http)
    plain = {"model": "toy", "max_output_tokens": 2}
    said = await http.post(
        "/v1/responses", json=plain | {"prompt": {"id": "contract-en", "variables": VALUES}, "input": "Go."}
    )
    assert said.status_code == 200, said.text
    turns = [("user", "Say {{word}} first."), ("assistant", "Yes."), ("user", "Go.")]
    written = [{"role": role, "content": text} for role, text in turns]
    same = await http.post(
        "/v1/responses", json=plain | {"instructions": "You read contracts in CNY.", "input": written}
    )
    assert same.status_code == 200, same.text
    assert engine.seen[-1].prompt == engine.seen[-2].prompt
    # Instructions of the request replace those of the prompt
    own = {"prompt": {"id": "contract-en", "variables": VALUES}, "input": "Go.", "instructions": "Mine."}
    replaced = (await http.post("/v1/responses", json=plain | own)).json()
    assert replaced["instructions"][0]["content"][0]["text"] == "Mine."
    assert len(replaced["instructions"]) == 3


async def test_a_prompt_needs_no_input(http):
    await made(http, id="alone", instructions="Say hello.", messages=[], variables={}, example=None)
    answer = await http.post(
        "/v1/responses", json={"model": "toy", "prompt": {"id": "alone"}, "max_output_tokens": 2}
    )
    assert answer.status_code == 200 and answer.json()["prompt"]["variables"] is None


@pytest.mark.parametrize(
    ("prompt", "status", "said"),
    [
        ({"id": "nothing"}, 404, "Prompt with id 'nothing' not found"),
        ({"id": "contract-en", "version": "9"}, 404, "version '9' not found"),
        ({"id": "contract-en", "version": "newest"}, 404, "version 'newest' not found"),
        ({"id": "contract-en"}, 400, "Missing prompt variables: currency, word"),
        ({"id": "contract-en", "variables": {"word": "x"}}, 400, "Missing prompt variables: currency"),
        ({"id": "contract-en", "variables": VALUES | {"a": "b"}}, 400, "Unknown prompt variables: a"),
        ({"id": "contract-en", "variables": VALUES | {"word": 1}}, 400, "prompt.variables.word"),
        (
            {"id": "contract-en", "variables": VALUES | {"word": {"type": "input_image", "file_id": "f"}}},
            400,
            "input_image are not supported",
        ),
        ({"id": "contract-en", "surprise": 1}, 400, "surprise"),
        ({"version": "1"}, 400, "prompt.id"),
        ("contract-en", 400, "prompt"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
async def test_a_prompt_that_cannot_open_a_response_is_refused(http, engine, prompt, status, said):
    await made(http)
    answer = await http.post("/v1/responses", json={"model": "toy", "prompt": prompt, "input": "Go."})
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert not engine.seen


def test_the_sdk_meets_a_missing_prompt_as_it_does_at_openai(sdk):
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.responses.create(model="toy", prompt={"id": "pmpt_1"}, input="Go.")
    assert caught.value.type == "invalid_request_error"


async def test_changes_stand_in_the_audit_trail_without_the_text(http, service):
    await made(http)
    await http.post("/v1/prompts/contract-en/versions", json={"instructions": "Short."})
    await http.post("/v1/prompts/contract-en", json={"version": "1"})
    await http.delete("/v1/prompts/contract-en")
    entries = (await http.get("/v1/audit/entries?limit=50")).text
    assert entries.count('"prompt"') >= 4 and "You read contracts" not in entries
    assert all(f'"{action}"' in entries for action in ("create", "add", "choose", "delete"))


async def test_a_version_tells_the_measurement_that_it_was_chosen_by(http, service):
    report = PromptReport("toy", "label", 200, 0.5, 0.61, 0.04, 0.18, 2000, 90_000, 0, "ab" * 32)
    body = encode_content(PromptContent(PromptText("Name the topic."), report=report))
    await service.state.prompts.create(Tenant("local"), "tuned", body)
    told = (await http.get("/v1/prompts/tuned")).json()["report"]
    assert (told["model"], told["rows"], told["score"], told["low"]) == ("toy", 200, 0.61, 0.04)
    assert (await made(http))["report"] is None

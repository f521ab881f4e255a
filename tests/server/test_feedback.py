"""Ratings of answers: kept, listed, filtered, deleted; hostile ones are refused."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.fleet.promotion.arms import arms_of
from deepwell.safety.privacy.attribution import Subject, attributed
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.options import LimitsConfig
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.feedback import FeedbackLimits
from deepwell.storage.keys import KeyStore
from deepwell.storage.registry.story import Rollout
from deepwell.tuning.align.feedback import collect_votes

UP = {"target_id": "chatcmpl-1", "rating": "up"}


async def rate(http: httpx.AsyncClient, **more: Any) -> httpx.Response:
    return await http.post("/v1/feedback", json=UP | more)


async def test_a_rating_is_kept_until_it_is_deleted(http: httpx.AsyncClient) -> None:
    said = [{"role": "user", "content": "水的沸点？"}]
    made = (await rate(http, rating="down", reason="wrong", model="toy", messages=said)).json()
    assert made.pop("created_at") > 0 and made.pop("id").startswith("fb_")
    assert made == {
        "object": "feedback",
        "target_id": "chatcmpl-1",
        "rating": "down",
        "reason": "wrong",
        "model": "toy",
        "correction": None,
        "consent": False,
        "verified": False,
        "messages": said,
    }
    bare = (await rate(http, target_id="chatcmpl-2")).json()
    assert bare["reason"] is None and "messages" not in bare
    listed = (await http.get("/v1/feedback")).json()
    assert [one["rating"] for one in listed["data"]] == ["up", "down"]  # the newest first
    assert listed["first_id"] == bare["id"] and not listed["has_more"]
    down = (await http.get("/v1/feedback?rating=down&limit=1")).json()
    assert [one["reason"] for one in down["data"]] == ["wrong"]
    behind = (await http.get(f"/v1/feedback?after={bare['id']}")).json()
    assert [one["rating"] for one in behind["data"]] == ["down"]
    gone = await http.delete(f"/v1/feedback/{bare['id']}")
    assert gone.json() == {"object": "feedback", "id": bare["id"], "deleted": True}
    assert (await http.delete(f"/v1/feedback/{bare['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"rating": "sideways"}, "rating"),
        ({"target_id": ""}, "target_id"),
        ({"target_id": "a\nb"}, "target_id"),
        ({"target_id": "a\0"}, "target_id"),
        ({"target_id": "x" * 129}, "target_id"),
        ({"reason": "nul \0 here"}, "reason"),
        ({"reason": "x" * 8193}, "reason"),
        ({"model": "m" * 257}, "model"),
        ({"messages": "all of it"}, "messages"),
        ({"messages": [{}] * 3000}, "messages"),
        ({"ratings": "up"}, "ratings"),
        ({"correction": ""}, "correction"),
        ({"correction": "nul \0 here"}, "correction"),
        ({"correction": "x" * 32_769}, "correction"),
        ({"consent": "of course"}, "consent"),
        ({"safety_identifier": "nul \0 here"}, "safety_identifier"),
    ],
)
async def test_a_rating_that_is_none_is_refused(
    http: httpx.AsyncClient, more: dict[str, Any], param: str
) -> None:
    refused = await rate(http, **more)
    assert refused.status_code == 400 and refused.json()["error"]["param"].startswith(param)
    assert (await http.get("/v1/feedback")).json()["data"] == []


async def test_half_a_character_is_refused(http: httpx.AsyncClient) -> None:
    body = b'{"target_id": "a", "rating": "up", "messages": [{"content": "\\ud83d"}]}'
    refused = await http.post("/v1/feedback", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "messages"


async def test_long_conversations_are_not_kept(http: httpx.AsyncClient) -> None:
    from deepwell.server.families.feedback.schema import MAX_MESSAGES_BYTES

    assert MAX_MESSAGES_BYTES > 64 * 1024  # the limit of this server's bodies, so another one says no first
    assert (await rate(http, messages=[{"content": "x" * 70_000}])).status_code == 413


async def test_a_later_rating_of_the_same_user_replaces_the_earlier_one(http: httpx.AsyncClient) -> None:
    first = (await rate(http, safety_identifier="lin", reason="good")).json()
    again = (await rate(http, safety_identifier="lin", rating="down", correction="Paris.")).json()
    other = (await rate(http, safety_identifier="ada")).json()
    assert again["id"] == first["id"] != other["id"]
    assert (again["rating"], again["reason"], again["correction"]) == ("down", None, "Paris.")
    listed = (await http.get("/v1/feedback?target_id=chatcmpl-1&order=asc")).json()["data"]
    assert [one["rating"] for one in listed] == ["down", "up"]


async def ask(http: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    body = {"model": "toy", "messages": [{"role": "user", "content": "hello"}], "store": True}
    return (await http.post("/v1/chat/completions", json=body | more)).json()


async def test_a_kept_completion_says_its_model_conversation_and_user(http: httpx.AsyncClient) -> None:
    answer = await ask(http, safety_identifier="lin")
    said = answer["choices"][0]["message"]["content"]
    forged = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "forged"}]
    told = (await rate(http, target_id=answer["id"], model="forged", messages=forged, consent=True)).json()
    assert (told["model"], told["verified"], told["consent"]) == ("toy", True, True)
    assert [(one["role"], one["content"]) for one in told["messages"]] == [
        ("user", "hello"),
        ("assistant", said),
    ]
    assert all("id" not in one for one in told["messages"])
    # The user that the request had named
    again = await rate(http, target_id=answer["id"], safety_identifier="lin")
    assert again.json()["id"] == told["id"]
    assert "messages" not in again.json()  # without consent, the conversation is not copied
    assert (await http.get("/v1/feedback?consent=true")).json()["data"] == []


async def test_of_several_choices_none_is_taken(http: httpx.AsyncClient) -> None:
    answer = await ask(http, n=2)
    told = (await rate(http, target_id=answer["id"], consent=True)).json()
    assert told["verified"] and "messages" not in told


async def test_a_kept_response_says_all_that_was_before_it(http: httpx.AsyncClient) -> None:
    body = {"model": "toy", "input": "one", "instructions": "Be brief."}
    first = (await http.post("/v1/responses", json=body)).json()
    second = {"model": "toy", "input": "two", "previous_response_id": first["id"], "user": "lin"}
    answer = (await http.post("/v1/responses", json=second)).json()
    told = (await rate(http, target_id=answer["id"], consent=True)).json()
    assert [one["role"] for one in told["messages"]] == ["user", "assistant", "user", "assistant"]
    assert [one["content"] for one in told["messages"]][::2] == ["one", "two"]
    assert told["messages"][-1]["content"] == answer["output"][-1]["content"][0]["text"]
    alone = (await rate(http, target_id=first["id"], consent=True)).json()
    assert alone["messages"][0] == {"role": "system", "content": "Be brief."}
    await http.delete(f"/v1/responses/{first['id']}")
    cut = (await rate(http, target_id=answer["id"], consent=True)).json()
    assert cut["verified"] and "messages" not in cut  # nobody knows any more what the model read


async def test_a_response_of_a_conversation_has_the_turns_before_it(http: httpx.AsyncClient) -> None:
    talk = (await http.post("/v1/conversations", json={})).json()["id"]
    bodies = [{"model": "toy", "input": text, "conversation": talk} for text in ("one", "two", "three")]
    answers = [(await http.post("/v1/responses", json=body)).json() for body in bodies]
    told = (await rate(http, target_id=answers[1]["id"], consent=True)).json()
    assert [one["content"] for one in told["messages"]][::2] == ["one", "two"]
    await http.delete(f"/v1/conversations/{talk}")
    assert "messages" not in (await rate(http, target_id=answers[2]["id"], consent=True)).json()


async def test_a_user_and_a_tenant_rate_so_many_answers_a_day(engine: FakeEngine, codec: Codec) -> None:
    limits = LimitsConfig(feedback=FeedbackLimits(per_user=2, per_tenant=3))
    service = make_service(engine, codec, model="toy", limits=limits)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for number in range(2):
            assert (await rate(http, target_id=f"a{number}", safety_identifier="lin")).status_code == 200
        refused = await rate(http, target_id="a2", safety_identifier="lin")
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 80_000
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert (await rate(http, target_id="a1", safety_identifier="lin", rating="down")).status_code == 200
        assert (await rate(http, target_id="a1", safety_identifier="ada")).status_code == 200
        assert (await rate(http, target_id="a1", safety_identifier="eve")).status_code == 429
    service.state.close()


async def test_a_copy_goes_with_the_person_whose_conversation_it_was(
    http: httpx.AsyncClient, service: ServerContext
) -> None:
    answer = await ask(http, safety_identifier="lin")
    told = (await rate(http, target_id=answer["id"], consent=True, safety_identifier="ada")).json()
    assert len(told["messages"]) == 2
    await rate(http, target_id="chatcmpl-other", safety_identifier="eve")
    await http.delete(f"/v1/chat/completions/{answer['id']}")
    for person in ("ada", "lin"):
        found = await attributed(service.state.database, service.state.files, Subject(LOCAL, person))
        assert len(found.feedback) == 1


async def test_what_a_client_makes_up_can_be_left_out(
    http: httpx.AsyncClient, service: ServerContext
) -> None:
    answer = await ask(http)
    said = answer["choices"][0]["message"]["content"]
    forged = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "forged"}]
    for target in (answer["id"], "chatcmpl-elsewhere"):
        await rate(http, target_id=target, messages=forged, consent=True)
    for verified, answers in ((True, [said]), (None, [said, "forged"])):
        votes = await collect_votes(service.state.database, LOCAL, verified=verified)
        assert [vote.answer for vote in votes] == answers


async def test_a_client_that_invents_users_and_answers_has_one_vote_for_each_key(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    keys = [KeyStore(database).create(Tenant("acme"), name, ["inference", "files"])[1] for name in ("a", "b")]
    service = make_service(engine, codec, model="toy", database=database)
    rollout = Rollout("r", "toy", "toy#1", "base", "v1", 0.5, "canary", int(time.time() * 1000), "lin", {})
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for key in keys:
            http.headers["authorization"] = f"Bearer {key}"
            for number in range(6):
                body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
                named = {"store": True, "safety_identifier": f"invented-{number}"}
                answer = (await http.post("/v1/chat/completions", json=body | named)).json()
                for person in ("x", "y"):
                    await rate(http, target_id=answer["id"], safety_identifier=f"{person}{number}")
                made_up = {"model": "toy", "safety_identifier": f"user-{number}"}
                await rate(http, target_id=f"chatcmpl-made-up-{number}", **made_up)
    arms = await arms_of(database, rollout)
    assert arms.current.users + arms.candidate.users == 2 and arms.unverified == 6
    named_arms = await arms_of(database, replace(rollout, tenants=("acme",)))
    assert named_arms.current.users + named_arms.candidate.users == 12, "whose names are trusted has users"
    database.close()


async def test_a_rater_of_an_answer_to_nobody_in_particular_is_on_no_side(
    http: httpx.AsyncClient, service: ServerContext
) -> None:
    """The answer was split by its key, so that the rater's name draws a side that did not answer."""
    now_ms = int(time.time() * 1000)
    answer = await ask(http)
    for person in ("ada", "lin"):
        await rate(http, target_id=answer["id"], safety_identifier=person)
    await rate(http, target_id="chatcmpl-elsewhere", safety_identifier="eve")
    rollout = Rollout("r", "toy", "toy#1", "base", "v1", 0.5, "canary", now_ms, "lin", {}, tenants=(LOCAL,))
    arms = await arms_of(service.state.database, rollout)
    assert arms.unknown == 2, "eve rated an answer of an unnamed model"
    for person in ("ada", "lin", "eve"):
        found = await attributed(service.state.database, service.state.files, Subject(LOCAL, person))
        assert len(found.feedback) == 1, "each is found to be erased all the same"

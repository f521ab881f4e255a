"""Ratings of answers: kept, listed, filtered, deleted; hostile ones are refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

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
        "messages": said,
    }
    bare = (await rate(http)).json()
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
